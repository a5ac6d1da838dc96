"""Waiting with a deadline, and saying what for. The only place that sleeps.

A `Progress` travels through every call that may take long. It carries the deadline, is told of each phase, and is asked by
every wait whether to go on: `check` raises `Timeout` at the deadline and whatever `stop` raises (a withdrawn model) before it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from infra.errors import Timeout

T = TypeVar("T")

STOP_EVERY = 1.0
"""Seconds between two looks at the reason to stop: a `down` must end every wait within 2 s."""


@dataclass(frozen=True)
class Phase:
    """What is going on, since when (Unix seconds), and the last thing heard of it."""

    name: str
    started: float
    detail: str = ""


@dataclass(frozen=True)
class Transfer:
    """How far a copy or a download is. Bytes and bytes per second; `eta` in seconds."""

    done: int
    total: int
    rate: float

    @property
    def eta(self) -> float | None:
        return (self.total - self.done) / self.rate if self.rate > 0 else None

    def __str__(self) -> str:
        mb = 1e6
        text = f"{self.done / mb:,.0f} of {self.total / mb:,.0f} MB"
        if self.rate > 0:
            text += f", {self.rate / mb:,.0f} MB/s, about {self.eta or 0:,.0f} s"
        return text


Report = Callable[[Phase], None]


def silent(_: Phase) -> None:
    """A reporter for those who don't look."""


def never() -> None:
    """A reason to stop that never comes."""


@dataclass
class Progress:
    """The deadline, the phases so far, and who wants to hear of them.

    timeout   seconds from now until `check` raises `Timeout`
    report    called when a phase begins, and when its detail changes (at most once a second)
    stop      called while waiting, at most once in `ask_every` seconds; raises to end the wait
    """

    timeout: float = 3600.0
    report: Report = silent
    stop: Callable[[], None] = never
    ask_every: float = STOP_EVERY
    phases: list[Phase] = field(default_factory=list)
    _deadline: float = 0.0
    _stop_asked: float = 0.0
    _told: float = 0.0
    _ended: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._deadline = time.monotonic() + self.timeout

    @property
    def left(self) -> float:
        """Seconds until the deadline, never negative."""
        return max(0.0, self._deadline - time.monotonic())

    def phase(self, name: str, detail: str = "", started: float | None = None) -> None:
        """A phase begins, or the one that runs has news. `started` when a log says that it began earlier."""
        last = self.phases[-1] if self.phases else None
        if last and last.name == name and len(self.phases) - 1 not in self._ended:
            if detail and detail != last.detail:
                self.phases[-1] = Phase(name, last.started, detail)
                if time.monotonic() - self._told >= 1:
                    self._tell()
            return
        floor = last.started if last else 0.0
        self.phases.append(Phase(name, max(floor, started if started is not None else time.time()), detail))
        self._tell()

    def end(self) -> None:
        """The last phase is over; what comes after belongs to nobody until the next one begins."""
        if self.phases:
            self._ended.setdefault(len(self.phases) - 1, time.time())

    def seconds(self) -> dict[str, float]:
        """Seconds per phase, in the order in which they began."""
        out: dict[str, float] = {}
        if not self.phases:
            return out
        ends = [p.started for p in self.phases[1:]] + [time.time()]
        for number, (phase, next_began) in enumerate(zip(self.phases, ends, strict=True)):
            took = max(0.0, self._ended.get(number, next_began) - phase.started)
            out[phase.name] = round(out.get(phase.name, 0.0) + took, 3)
        return out

    def check(self) -> None:
        """Raises when there is a reason not to go on."""
        now = time.monotonic()
        if now - self._stop_asked >= self.ask_every:
            self._stop_asked = now
            self.stop()
        if now >= self._deadline:
            last = self.phases[-1] if self.phases else Phase("the start", time.time())
            raise Timeout(
                f"still in phase {last.name!r} after {self.timeout:,.0f} s",
                why=f"the deadline was reached while waiting for: {last.detail or last.name}",
                next="run the same command again: it goes on from here; --timeout SECONDS gives it longer",
            )

    def sleep(self, seconds: float) -> None:
        """Waits, never past the deadline, and checks before and at least every `STOP_EVERY` seconds meanwhile."""
        self.check()
        until = time.monotonic() + min(seconds, self.left + 0.001)
        while (rest := until - time.monotonic()) > 0:
            time.sleep(min(rest, STOP_EVERY))
            if until - time.monotonic() > 0:
                self.check()

    def until(self, probe: Callable[[], T | None], every: float = 0.5) -> T:
        """Asks `probe` until it answers something other than None."""
        while True:
            found = probe()
            if found is not None:
                return found
            self.sleep(every)

    def _tell(self) -> None:
        self._told = time.monotonic()
        self.report(self.phases[-1])


def retry(call: Callable[[], T], *, attempts: int, pause: float, on: tuple[type[Exception], ...], progress: Progress) -> T:
    """Calls again after `pause`, 2 × `pause`, … seconds while it raises one of `on`; the last error is the caller's."""
    for attempt in range(1, attempts):
        try:
            return call()
        except on as error:
            wait = getattr(error, "retry_after", None) or pause * attempt
            progress.phase(progress.phases[-1].name if progress.phases else "retry", f"attempt {attempt} of {attempts}: {error}".splitlines()[0])
            progress.sleep(wait)
    return call()
