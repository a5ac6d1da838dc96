"""A model that serves, a source, a clock, and both sensors: what a story of the table, and the machine, are played on.

    scene.push("v2")           the source holds another revision; `bad`: its candidate answers wrongly
    scene.look(), scene.ask()  one tick of `revisions`, one of `reconcile`: nothing is executed yet
    scene.settle()             ticks of both until they ask for nothing more; every run that they ask for is executed
    scene.passes(3600)         the clock goes on, and nothing else happens

The platform is the double of tests/doubles; records, sensors, runs and Dagster's instance are the real ones. The clock is the one that the product
reads: it stands still but for a moment at each reading, so that no stall of the machine is ever seen as time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from assets.workers import TAG_WORKER
from infra import acceptance, workers
from infra.situation import Situation, look
from infra.waiting import Progress
from llm_pipeline import automation, components, revisions
from tests.assets.clone import Clone, Ran, make
from tests.doubles.parts import Behaviour

MONDAY_NOON = datetime(2026, 1, 5, 12, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()
"""Where every scene begins: a moment that is past, so that Dagster's own clock, which nobody sets, is always ahead of it."""

MOMENT = 1e-5
"""Seconds between two readings of the clock: what comes later is later."""

HOUR, DAY = 3600.0, 86_400.0

HERE = "here:/clone"
"""This Dagster, also when its storage is a new one."""

DEAD = f"{workers.myself().rsplit(':', 3)[0]}:0000-another-boot:1:1"
"""A worker that is provably gone: the machine was started again since."""


class Clock:
    """What `time.time()` answers."""

    def __init__(self) -> None:
        self.now = MONDAY_NOON

    def read(self) -> float:
        self.now += MOMENT
        return self.now


class Scene:
    """One model `demo`, as it is declared, pushed to, and looked at."""

    def __init__(self, clone: Clone, clock: Clock, patch: pytest.MonkeyPatch) -> None:
        self.clone, self.world, self.clock, self.patch = clone, clone.world, clock, patch
        self.runs: list[str] = []
        self.said = ""
        self._keys: set[str | None] = set()
        self._cursor: str | None = None
        self._looked: str | None = None
        self.declare()

    # ------------------------------------------------ what people and nature do

    def declare(self, **keys: object) -> None:
        """The YAML, with these keys. It counts at once, as after a reload. Nothing drains: nobody asks here."""
        self._keys_of_yaml = keys
        self.clone.declare(release={"drain_seconds": 0}, **keys)

    def edit(self, **keys: object) -> None:
        """The same YAML with these keys changed."""
        self.declare(**{**self._keys_of_yaml, **keys})

    def push(self, revision: str, *, bad: bool = False) -> None:
        self.world.source["demo"] = revision
        if bad:
            self.world.behave[revision] = Behaviour(answers={"ping": "pang"})

    def passes(self, seconds: float) -> None:
        self.clock.now += seconds

    def up(self, **tags: str) -> Ran:
        """A person's word; a first one with nothing serving brings v1."""
        return self.clone.up(**tags)

    def crash(self, run: dg.DagsterRun) -> None:
        """A run that waited begins a try, starts its candidate, and its process is killed."""
        release = self.clone.record(run.tags["llm/release"]).release
        self.clone.decisions().begin(release.id, run.run_id, "reconcile", "it died")
        self.clone.decisions().take_claim(run.run_id, release.id, 1800, DEAD)
        for other in set(self.world.running) - {release.name, f"demo-{self.clone.live()}"}:
            self.world.platform.ray_service.remove(other, Progress())  # as a run does before it starts anything
        faults, self.world.start_errors = self.world.start_errors, []
        self.world.platform.ray_service.apply(release, Progress())
        self.world.start_errors = faults
        self.clone.instance.add_run_tags(run.run_id, {TAG_WORKER: DEAD})

    def forget(self) -> None:
        """Dagster's storage is lost: a new, empty one."""
        self.clone.instance.dispose()
        self.clone.instance = dg.DagsterInstance.ephemeral()
        self._cursor = self._looked = None

    def elsewhere(self, name: str) -> None:
        """From now on this is another Dagster, somewhere else, which looks at the same records."""
        for sensor in (automation, revisions):
            self.patch.setattr(sensor, "myself", lambda _: name)
        self._cursor = self._looked = None

    # ------------------------------------------------ what the sensors do

    def look(self) -> str:
        """One look at the source, and what it says. What it observed is stored, as a daemon does."""
        with dg.build_sensor_context(instance=self.clone.instance, cursor=self._looked) as context:
            result = self.clone.defs.resolve_sensor_def("revisions")(context)
        assert isinstance(result, dg.SensorResult)
        for event in result.asset_events:
            self.clone.instance.report_runless_asset_event(event)  # type: ignore[arg-type]
        self._looked = result.cursor
        return _said(result)

    def ask(self) -> dg.RunRequest | None:
        """One look of the loop: the run that it asks for. A used run key would ask for nothing, for ever."""
        result = self.clone.tick(self._cursor)
        self._cursor, self.said = result.cursor, _said(result)
        requests = result.run_requests or ()
        assert len(requests) < 2, f"one model, {len(requests)} runs"
        for request in requests:
            assert request.run_key not in self._keys, f"{request.run_key} was used before"
            self._keys.add(request.run_key)
        return requests[0] if requests else None

    def asked(self) -> dg.RunRequest:
        found = self.ask()
        assert found, self.said
        return found

    def queue(self, request: dg.RunRequest) -> dg.DagsterRun:
        """The run is launched, and has not begun."""
        self.runs.append(self.revision(request.tags["llm/release"]))
        return self.clone.take(request)

    def obey(self, request: dg.RunRequest) -> Ran:
        return self.clone.execute(self.queue(request))

    def settle(self, rounds: int = 12) -> list[str]:
        """Both sensors in turn, and their runs, until nothing is asked for. The revisions of the runs, in order."""
        before = len(self.runs)
        for _ in range(rounds):
            self.look()
            request = self.ask()
            if request is None:
                return self.runs[before:]
            self.obey(request)
        raise AssertionError(f"the loop does not come to rest: {self.runs[before:]}")

    # ------------------------------------------------ what it looks like

    def revision(self, release: str) -> str:
        return self.clone.record(release).revision

    @property
    def serving(self) -> str | None:
        """The revision that answers: by the endpoint's table, which must lead where the record says, to something accepted."""
        route, live = self.world.routes.get("demo"), self.clone.live()
        assert (route.release if route else None) == (f"demo-{live}" if live else None), f"the endpoint leads to {route}, live is {live}"
        if live is None:
            return None
        record = self.clone.record(live)
        assert record.accepted, f"{live} has traffic and was never accepted"
        return record.revision

    @property
    def waits(self) -> str:
        """Why what the source shows is not admitted; empty: it is."""
        found = self.clone.decisions().seen
        return (found.waits if found else None) or ""

    def situation(self) -> Situation:
        """How the model stands, as everybody sees it."""
        found = components.declared().models["demo"]
        return look(self.world.platform, "demo", found.spec, found.base)

    @property
    def starts(self) -> list[str]:
        """The revisions of everything that was ever started, in order."""
        return [self.revision(name.removeprefix("demo-")) for name in self.world.done("started")]


def _said(result: dg.SensorResult) -> str:
    reason = result.skip_reason
    return str(reason.skip_message if isinstance(reason, dg.SkipReason) else reason)


@contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    """v1 serves, and the source was looked at once."""
    with pytest.MonkeyPatch.context() as patch:
        clock, sleep = Clock(), Progress.sleep
        patch.setattr(time, "time", clock.read)
        patch.setattr(acceptance, "PAUSE", 0.0)
        for sensor in (automation, revisions):
            patch.setattr(sensor, "myself", lambda _: HERE)
        clone, close = make(folder, patch)

        def impatient(progress: Progress, seconds: float) -> None:
            """The deadline of a start that never gets ready is reached at once; every other wait is as it is."""
            if clone.world.never_ready:
                progress._deadline = 0.0
            sleep(progress, seconds)

        patch.setattr(Progress, "sleep", impatient)
        made = Scene(clone, clock, patch)
        clone.serve()
        made.look()
        clone.world.calls.clear()
        try:
            yield made
        finally:
            close()
