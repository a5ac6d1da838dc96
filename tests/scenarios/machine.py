"""People's and nature's doings at random, on a scene; and what must hold after each of them and in the end.

Whatever happened before, in whatever order:

    accepted alone     the endpoint's table never names a release that was not accepted; traffic never moves to one, nor to what nobody approved
    exactly once       no run is asked for what is live already, no run key comes twice, no two candidates are up at once
    in the end         with the faults gone and time passing: what is admitted and good is live, unless somebody's word holds it
    down stays down    after `down` nothing runs and nothing is asked for, until somebody says `up`
"""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

import dagster as dg
from dagster import DagsterExecutionInterruptedError
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from infra.errors import Transient
from infra.platform import Release
from infra.policy import ATTEMPTS
from tests.scenarios.scene import DAY, HOUR, scene

MEMORY = "/dev/shm"

THEN = ("nothing", "look", "queue", "settle", "begins", "is killed", "is cancelled", "comes after a down")
"""How far the sensors come with something new before the next thing happens."""


class Updates(RuleBasedStateMachine):
    """One model through everything that may happen to it."""

    def __init__(self) -> None:
        super().__init__()
        self._open = ExitStack()
        folder = self._open.enter_context(tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
        self.scene = self._open.enter_context(scene(Path(folder)))
        self.world, self.clone = self.scene.world, self.scene.clone
        self.world.on_call = self._watch
        self.waiting: dg.DagsterRun | None = None
        self.down = False
        self.numbers = 1
        self.policy = "auto"
        self.bad: set[str] = set()
        self.cancelled: set[str] = set()
        self.left: set[str | None] = set()
        self.stays_left: str | None = None
        self.manual = self.approving = False
        self.wrong: list[str] = []

    # ------------------------------------------------ what arrives

    @rule(kind=st.sampled_from(["good", "good", "bad", "back", "readme"]), back=st.integers(1, 3), then=st.sampled_from(THEN))
    def push(self, kind: str, back: int, then: str) -> None:
        """Something new, or one of the last ones again, good or bad."""
        now = self.world.source.get("demo", "v1")
        if kind == "back":
            number = max(1, self.numbers - back)
            revision = f"b{number}" if f"b{number}" in self.bad else f"v{number}"
        elif kind == "readme":
            revision = f"{now}+"
        else:
            self.numbers += 1
            revision = f"{'b' if kind == 'bad' else 'v'}{self.numbers}"
            self.bad |= {revision} if kind == "bad" else set()
        self.scene.push(revision, bad=revision.strip("+") in self.bad)
        self._goes_on(then)

    @rule(length=st.sampled_from([512, 256]), updates=st.sampled_from([{}, {}, {"policy": "manual"}, {"policy": "approve"}, {"min_interval": "1h"}, {"hours": "Mon-Fri 09:00-17:00 Europe/Berlin"}]), then=st.sampled_from(THEN))
    def edit(self, length: int, updates: dict[str, str], then: str) -> None:
        self.scene.edit(engine={"max_model_len": length, "max_num_seqs": 4, "dtype": "bfloat16"}, updates=updates)
        self.policy = updates.get("policy", "auto")
        self.manual, self.approving = self.policy == "manual", self.approving or self.policy == "approve"
        self._goes_on(then)

    # ------------------------------------------------ what the sensors do, and their runs

    @rule()
    def look(self) -> None:
        self.scene.look()

    @rule()
    def ask(self) -> None:
        """The loop looks; a run that it asks for waits in the queue."""
        live = self.clone.live()
        request = self.scene.ask()
        if request is None:
            return
        if self.down or self.waiting:
            self.wrong.append(f"a run was asked for while {'it is down' if self.down else 'another one waits'}")
        if request.tags["llm/lifecycle"] == "redeploy" and request.tags["llm/release"] == live:
            self.wrong.append(f"a rollout of {live} was asked for, which is live")
        if request.tags["llm/release"] == self.stays_left:
            self.wrong.append(f"{self.stays_left}, which a rollback left, comes back by itself")
        self.waiting = self.scene.queue(request)

    @precondition(lambda self: self.waiting)
    @rule(how=st.sampled_from(["begins", "begins", "is killed", "is cancelled", "comes after a down"]))
    def turn(self, how: str) -> None:
        """The run that waited has its turn, to its end or to somebody else's."""
        run, self.waiting = self.waiting, None
        assert run
        if how == "is killed" and not self.down:
            self.scene.crash(run)
        elif how == "is cancelled":
            self._cancel(run)
        else:
            if how == "comes after a down":
                self.say("down", 0)
            self.clone.execute(run)

    @rule()
    def settle(self) -> None:
        """The sensors tick for a while."""
        if self.waiting:
            self.turn("begins")
        self.scene.settle()

    # ------------------------------------------------ what people say

    @rule(word=st.sampled_from(["up", "down", "down", "pin", "unpin", "rollback", "rollback", "rollback --hold", "approve", "approve", "reject"]), number=st.integers(0, 2))
    def say(self, word: str, number: int) -> None:
        if word == "up":
            self.scene.up()
            self.down, self.stays_left = False, None
        elif word == "down":
            assert self.clone.down().success
            self.down = True
        elif word == "unpin" or (word == "pin" and self.clone.live()):
            self.clone.pin(remove=word == "unpin")
            self.stays_left = None if word == "unpin" else self.stays_left
        elif word in ("approve", "reject"):
            self.clone.say(approve=word == "approve")  # refused where nothing waits
        elif word.startswith("rollback") and not self.down:
            self._roll_back(number, hold=word == "rollback --hold")

    # ------------------------------------------------ what goes wrong

    @rule(what=st.sampled_from(["engine", "engine", "router", "source", "start", "storage"]))
    def fail(self, what: str) -> None:
        """An engine or the router dies, the source goes away or comes back, the next start fails, Dagster's storage is lost."""
        live = f"demo-{self.clone.live()}"
        if what == "engine" and live in self.world.running and live not in self.world.dead:
            self.world.kill(live)
        elif what == "router":
            self.world.stop_front()
        elif what == "source":
            self.world.source_error = None if self.world.source_error else Transient("the Hub was not reached")
        elif what == "start":
            self.world.start_errors = [Transient("no network")]
        elif what == "storage":
            self.waiting = None
            self.scene.forget()

    @rule(seconds=st.sampled_from([20.0, 70.0, 600.0, HOUR, DAY, -DAY]))
    def pass_time(self, seconds: float) -> None:
        self.scene.passes(seconds)

    # ------------------------------------------------ what must hold

    @invariant()
    def nothing_forbidden_happened(self) -> None:
        assert not self.wrong, self.wrong

    @invariant()
    def only_what_was_accepted_and_is_good_answers(self) -> None:
        assert (self.scene.serving or "").strip("+") not in self.bad, f"{self.scene.serving} is bad and has traffic"

    @invariant()
    def down_stays_down(self) -> None:
        if self.down:
            assert not self.world.running and not any(self.world.routes.values()), f"{list(self.world.running)} runs, {self.world.routes}"

    def teardown(self) -> None:
        """The faults go, time passes, and what should be live is."""
        try:
            self._come_to_rest()
            self._in_the_end()
        finally:
            self._open.close()

    def _come_to_rest(self) -> None:
        self.world.source_error, self.world.start_errors = None, []
        for _ in range(12):
            self.settle()
            self.scene.passes(6 * HOUR)  # three days have an hour of every window
        self.settle()
        self.nothing_forbidden_happened()
        self.down_stays_down()

    def _in_the_end(self) -> None:
        seen = self.scene.situation()
        if self.down:
            assert not seen.wanted and not seen.serves
            return
        assert seen.wanted and seen.desired, f"wanted {seen.wanted}, desired {seen.desired}: {seen.unknown}"
        for release in self.clone.decisions().releases():
            self._earned(release)
        record = seen.desired_record
        if not (record and record.mark):
            assert seen.serves and seen.live and seen.desired.id == seen.live.id and not seen.others, f"{seen.desired.revision} should be live, {seen.live and seen.live.revision} is; {self.scene.said}"
        newest, held = self.world.source.get("demo", "v1"), self.scene.waits
        if held:
            assert seen.pin or self.manual or "tried before" in held, f"{newest} waits for nobody: {held}"
        else:
            assert seen.admitted and seen.admitted.revision == newest, f"{newest} is at the source, neither admitted nor held"
            assert seen.pin or (record and record.mark) or (self.scene.serving or "").strip("+") == newest.strip("+"), f"{newest} is admitted and good, {self.scene.serving} is live"

    def _earned(self, release: str) -> None:
        """What automation leaves alone has deserved it."""
        record = self.clone.record(release)
        if record.mark is None:
            return
        tried = sum(attempt.result == "failed" and attempt.transient for attempt in record.attempts)
        match record.mark.kind:
            case "refused":
                assert record.revision.strip("+") in self.bad, f"{record.revision} is good and was refused: {record.mark.why}"
            case "failed":
                assert tried >= ATTEMPTS or len(record.heals) >= 3, f"{record.revision} was given up after {tried} tries: {record.mark.why}"
            case "rejected":
                assert self.approving, f"nobody was asked about {record.revision}: {record.mark.why}"
            case "cancelled":
                assert release in self.cancelled or release in self.left, f"nobody cancelled {record.revision}: {record.mark.why}"

    def _watch(self, what: tuple[str, ...]) -> None:
        """Everything that is done to the platform."""
        verb, name = what[0], what[1].removeprefix("demo-")
        if verb == "flipped":
            last, live = self.clone.record(name).last, self.clone.live()
            if name != live and not (last and last.result == "accepted"):
                self.wrong.append(f"traffic moved to {name}, whose try is {last and last.result}")
            if self.policy == "approve" and live and name != live and not self._may(name):
                self.wrong.append(f"traffic moved to {name}, and nobody approved that")
        if verb == "started":
            found = self.clone.decisions().approval
            others = set(self.world.running) - {f"demo-{self.clone.live()}", what[1], f"demo-{found.release}" if found else ""}
            if others:
                self.wrong.append(f"{name} was started beside {others}")

    def _may(self, release: str) -> bool:
        """Whether a person said that this one gets traffic: by its approval, or by a rollback to it."""
        found, pin = self.clone.decisions().approval, self.clone.decisions().pin
        return bool((found and (found.release, found.verdict) == (release, "approved")) or (pin and pin.release == release))

    def _goes_on(self, then: str) -> None:
        if then == "settle":
            self.settle()
        elif then != "nothing":
            self.scene.look()
        if then not in ("nothing", "look", "settle"):
            self.ask()
        if self.waiting and then not in ("nothing", "look", "settle", "queue"):
            self.turn(then)

    def _cancel(self, run: dg.DagsterRun) -> None:
        """A person ends it while its candidate starts."""
        self.cancelled.add(run.tags["llm/release"])
        self.world.on_start = self._interrupt
        try:
            self.clone.execute(run)
        except DagsterExecutionInterruptedError:
            pass
        self.world.on_start = lambda _: None

    def _roll_back(self, number: int, *, hold: bool) -> None:
        earlier = [name for name, record in self.clone.decisions().releases().items() if record.accepted and name != self.clone.live()]
        if earlier:
            self.stays_left = self.clone.live()
            self.left.add(self.stays_left)
            self.clone.rollback(earlier[number % len(earlier)], hold=hold)

    def _interrupt(self, _: Release) -> None:
        raise DagsterExecutionInterruptedError
