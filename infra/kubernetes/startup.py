"""From applied objects to an engine that answers: phases on the way, and an early end when it is proved that it can not come up.

What is looked at, every three seconds and when the controller tells something: the pods (what they wait for), their logs (which phase, which error), the warnings about what
does not go on, the state that the controller tells, and at last the engine itself, by one token through the API server.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC

from infra import engine
from infra.errors import ConfigError, PipelineError, Transient, redact
from infra.kubernetes import causes, evidence, kinds, reading
from infra.kubernetes.api import Object
from infra.kubernetes.causes import Cause, Sign
from infra.kubernetes.kinds import Kind
from infra.kubernetes.place import Place
from infra.kubernetes.pods import PART
from infra.kubernetes.server_manifest import ENGINE
from infra.platform import Release
from infra.startlog import StartLog
from infra.waiting import Progress

EVERY, SOONEST = 3.0, 1.0
"""Seconds between two looks at pods and logs; and at least, when the controller has news. Ten rollouts at once are not to be felt."""

QUIET = 6.0
"""Seconds that pods may stand still before their events are read, and between two readings."""

RECOVERS = 180.0
"""Seconds that Kubernetes, KubeRay and Serve get to bring back by themselves what was up once, before it is called failed."""

GROWS = 600.0
"""Seconds that a cluster which adds nodes by itself gets for that, before want of room is believed."""

NO_CONTROLLER = 60.0
"""Seconds without a sign of KubeRay's operator."""

PATIENCE = 1.0
"""What every patience is multiplied by: nobody has to wait as long for a scripted cluster."""

CRASHES = 5
"""Restarts of a container without a reason in its log, before the start is called failed."""

LINES, FIRST_LINES = 1000, 20_000
"""Lines of a log that are read at once; and the first time, since a start may be adopted late."""

OVER = re.compile(r"EngineCore failed to start|Exception importing application")
"""Lines after which nothing comes of a start whose cause can not heal: server and Serve may take minutes more to notice, or try the same again."""

SCALES = ("TriggeredScaleUp", "Nominated")
"""Events of those who add nodes: cluster-autoscaler's and Karpenter's."""

STAGES = (reading.PODS, reading.SCHEDULE, reading.IMAGE, reading.RAY_HEAD, "engine: import", reading.APPLICATION)


@dataclass(frozen=True)
class Outcome:
    """How a start ended: with what the engine said of itself, or with the proof that it will not come up."""

    arguments: dict[str, str]
    error: PipelineError | None = None


def kind_of(release: Release) -> Kind:
    """What carries a release."""
    return kinds.RAY_SERVICE if release.spec.engine.kind == "ray" else kinds.DEPLOYMENT


def wait_ready(place: Place, release: Release, answers: Callable[[], bool], progress: Progress, *, was_up: bool = False) -> Outcome:
    """Waits until the engine answers a token, or it is proved that it will not. `was_up`: it answered before, and may recover."""
    start = Start(place, release, answers, was_up=was_up)
    selector = place.selector(PART, release=release.name)
    found = place.api.until(kind_of(release), place.namespace, lambda mains: start.look(mains, progress), progress, labels=selector)
    progress.end()
    return found


class Start:
    """One start, as far as it was seen."""

    def __init__(self, place: Place, release: Release, answers: Callable[[], bool], *, was_up: bool) -> None:
        self._place, self._release, self._answers, self._was_up = place, release, answers, was_up
        self._looked, self._version, self._stage, self._grows = 0.0, "", -1, False
        self._warned: tuple[float, tuple[Object, ...]] = (0.0, ())
        self._first_seen: dict[str, float] = {}
        self._seen_now: set[str] = set()
        self._tails: dict[str, list[str]] = {}
        self._log: StartLog | None = None

    def look(self, mains: Sequence[Object], progress: Progress) -> Outcome | None:
        """The outcome, or None while there is none. Errors are returned, since whoever watches takes what is raised for a broken watch."""
        version = mains[0]["metadata"]["resourceVersion"] if mains else ""
        if time.monotonic() - self._looked < (EVERY if version == self._version else SOONEST):
            return None
        self._version = version
        if not mains:
            return Outcome({}, Transient(f"{self._release.name} was removed while it was awaited", next="run the same command again"))
        main, pods = mains[0], evidence.living(self._place, self._release.name)
        self._read(main, pods, progress)
        state, why = reading.state(main)
        self._seen_now = set()
        if problem := self._problem(main, pods, state, why):
            return Outcome({}, problem)
        self._first_seen = {sign: since for sign, since in self._first_seen.items() if sign in self._seen_now}
        if state == "RUNNING":
            progress.phase("first answer", "one token")
            if self._answers():
                self._read(main, pods, progress)
                return Outcome(engine.live_arguments(self._lines))
        self._looked = time.monotonic()
        return None

    # ------------------------------------------------ how far it is

    @property
    def _lines(self) -> list[str]:
        return self._log.lines if self._log else []

    def _read(self, main: Object, pods: Sequence[Object], progress: Progress) -> None:
        """Stage and log become phases; what the log says goes further than what the pods show."""
        if self._log is None:
            self._log = StartLog(time.time() if self._was_up else reading.unix(main["metadata"]["creationTimestamp"]), UTC)
        stage = reading.stage(main, pods)
        if STAGES.index(stage.phase) > self._stage:
            self._stage = STAGES.index(stage.phase)
            progress.phase(stage.phase, stage.detail, started=None if self._was_up else stage.since)
        elif stage.phase == reading.SCHEDULE and progress.phases and progress.phases[-1].name == stage.phase:
            progress.phase(stage.phase, stage.detail)
        self._log.take([line for pod in pods for line in self._new(pod)], progress)

    def _new(self, pod: Object) -> Iterator[str]:
        """What its containers said since the last look."""
        for name in evidence.SPEAKING:
            if name in reading.containers(pod) and reading.runs(pod, name):
                key = f"{pod['metadata']['uid']}/{name}"
                now = self._place.api.log(self._place.namespace, pod["metadata"]["name"], name, lines=LINES if key in self._tails else FIRST_LINES).splitlines()
                yield from fresh(self._tails.get(key, []), now)
                self._tails[key] = now[-3:] or self._tails.get(key, [])

    # ------------------------------------------------ whether it is over

    def _problem(self, main: Object, pods: Sequence[Object], state: str, why: str) -> PipelineError | None:
        what = f"{self._release.name} did not start"
        if state in reading.FAILED and self._believed(f"application {state}", RECOVERS if self._was_up else 0):
            return self._by_log(f"{what}: Serve reports {state}", why.splitlines()) or Transient(
                f"{what}: Serve reports {state}", why=engine.clean(why) or None, next=f"llm-pipeline logs {self._release.model} --part ray",
            )  # fmt: skip
        over = not self._was_up and any(OVER.search(line) for line in self._lines)
        if over and isinstance(proved := self._by_log(f"{what}: its own log proves it", ()), ConfigError):
            return proved
        if cause := next((found for found in causes.causes(self._signs(main, pods)) if self._patient(found)), None):
            return cause.error(f"{what}: {cause.sign.reason or cause.known.name}")
        return self._crashed(what, pods) or self._unattended(what, main, pods)

    def _signs(self, main: Object, pods: Sequence[Object]) -> Iterator[Sign]:
        yield from causes.of_conditions(main)
        for pod in pods:
            yield from (sign for sign in causes.of_pod(pod) if not (self._was_up and sign.where == "ended"))
        yield from (sign for event in self._events(main, pods) for sign in causes.of_event(event))

    def _events(self, main: Object, pods: Sequence[Object]) -> Iterator[Object]:
        """Of what stands still."""
        stuck = evidence.still(pods) | (set() if pods else {main["metadata"]["uid"], *evidence.makers(self._place, self._release.name)})
        if not stuck or not self._believed(f"stuck {sorted(stuck)}", QUIET):
            return
        if time.monotonic() - self._warned[0] >= QUIET:
            self._warned = (time.monotonic(), evidence.events(self._place, stuck))
        self._grows = self._grows or any(event.get("reason") in SCALES for event in self._warned[1])
        yield from self._warned[1]

    def _patient(self, cause: Cause) -> bool:
        """Whether a sign has stood long enough to be believed."""
        room = cause.sign.where == "scheduling" and (self._grows or self._place.block.nodepool is not None)
        needed = max(cause.known.patience, GROWS if room else 0, RECOVERS if self._was_up else 0)
        return self._believed(f"{cause.known.name} {cause.sign.about}", needed)

    def _believed(self, sign: str, patience: float) -> bool:
        """Whether it was there at every look for so many seconds."""
        self._seen_now.add(sign)
        return time.monotonic() - self._first_seen.setdefault(sign, time.monotonic()) >= patience * PATIENCE

    def _crashed(self, what: str, pods: Sequence[Object]) -> PipelineError | None:
        """A container that ended and was started again: a plain server's last words, by what they mean; else the third time.

        What Ray's own processes die of is mostly the moment (a busy node), and the next start of the container heals it.
        """
        for pod in pods:
            for name, status in reading.containers(pod).items():
                ended = (status.get("state") or {}).get("terminated") or (status.get("lastState") or {}).get("terminated")
                if self._was_up or not ended or name not in evidence.SPEAKING:
                    continue
                lines = evidence.last_words(self._place, pod, name, LINES)
                told = self._by_log(f"{what}: its container {name} ended with {ended.get('exitCode')}", lines) if name == ENGINE else None
                if told or status.get("restartCount", 0) >= CRASHES:
                    return told or Transient(
                        f"{what}: its container {name} ended {CRASHES} times", likely="it was killed from outside, by a probe, or the node is too busy",
                        next=f"llm-pipeline logs {self._release.model}", log=redact("\n".join(lines[-4:])) or None,
                    )  # fmt: skip
        return None

    def _by_log(self, what: str, lines: Sequence[str]) -> PipelineError | None:
        """What the engine's own words mean."""
        found = engine.cause([*self._lines, *lines])
        if found is None:
            return None
        return (Transient if found.transient else ConfigError)(what, why=found.why, next=found.next, log=found.line)

    def _unattended(self, what: str, main: Object, pods: Sequence[Object]) -> PipelineError | None:
        """Nobody acts on the object."""
        waits = not pods and not (main.get("status") or {}).get("observedGeneration")
        if not waits or not self._believed("unattended", NO_CONTROLLER):
            return None
        return Transient(
            f"{what}: nothing happens to the {main['kind']}", likely="KubeRay's operator does not run, or does not watch this namespace",
            next="look at its pod: kubectl get deployments --all-namespaces -l app.kubernetes.io/name=kuberay-operator",
        )  # fmt: skip


def fresh(before: Sequence[str], now: Sequence[str]) -> Sequence[str]:
    """The lines of a log's tail that come after those seen last."""
    for at in range(len(now) - len(before), -1, -1) if before else ():
        if list(now[at : at + len(before)]) == list(before):
            return now[at + len(before) :]
    return now
