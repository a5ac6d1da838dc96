"""People's and nature's doings at random, on a scene; and what must hold after each of them and in the end.

Whatever happened before, in whatever order:

    accepted alone     the endpoint's table never names a release that was not accepted; traffic never moves to one
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
        self.bad: set[str] = set()
        self.cancelled: set[str] = set()
        self.left: set[str | None] = set()
        self.wrong: list[str] = []

    # ------------------------------------------------ what arrives

    @rule(bad=st.sampled_from([False, False, True]))
    def push(self, bad: bool) -> None:
        self.numbers += 1
        revision = f"{'b' if bad else 'v'}{self.numbers}"
        self.bad |= {revision} if bad else set()
        self.scene.push(revision, bad=bad)

    @rule(back=st.integers(1, 3))
    def force_back(self, back: int) -> None:
        """To one of the last revisions, good or bad."""
        number = max(1, self.numbers - back)
        self.scene.push(f"b{number}" if f"b{number}" in self.bad else f"v{number}")

    @rule()
    def push_readme(self) -> None:
        now = self.world.source.get("demo", "v1")
        self.scene.push(f"{now}+", bad=now.strip("+") in self.bad)

    @rule(length=st.sampled_from([512, 256]))
    def edit(self, length: int) -> None:
        self.scene.edit(engine={"max_model_len": length, "max_num_seqs": 4, "dtype": "bfloat16"})

    @rule(updates=st.sampled_from([{}, {}, {"policy": "manual"}, {"min_interval": "1h"}, {"hours": "Mon-Fri 09:00-17:00 Europe/Berlin"}]))
    def edit_updates(self, updates: dict[str, str]) -> None:
        self.scene.edit(updates=updates)

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
        self.waiting = self.scene.queue(request)

    @precondition(lambda self: self.waiting)
    @rule()
    def begin(self) -> None:
        """The run that waited has its turn."""
        run, self.waiting = self.waiting, None
        assert run
        self.clone.execute(run)

    @precondition(lambda self: self.waiting and not self.down)
    @rule()
    def kill_run(self) -> None:
        run, self.waiting = self.waiting, None
        assert run
        self.scene.crash(run)

    @precondition(lambda self: self.waiting and not self.down)
    @rule()
    def cancel_run(self) -> None:
        """A person ends it while its candidate starts."""
        self.cancelled.add(self.waiting.tags["llm/release"])  # type: ignore[union-attr]
        self.world.on_start = self._interrupt
        try:
            self.begin()
        except DagsterExecutionInterruptedError:
            pass
        self.world.on_start = lambda _: None

    @rule()
    def settle(self) -> None:
        """The sensors tick for a while."""
        if self.waiting:
            self.begin()
        self.scene.settle()

    # ------------------------------------------------ what people say

    @rule()
    def up(self) -> None:
        self.scene.up()
        self.down = False

    @rule()
    def take_down(self) -> None:
        assert self.clone.down().success
        self.down = True

    @precondition(lambda self: self.clone.live())
    @rule()
    def pin(self) -> None:
        self.clone.pin()

    @rule()
    def unpin(self) -> None:
        self.clone.pin(remove=True)

    @precondition(lambda self: not self.down)
    @rule(hold=st.booleans(), number=st.integers(0, 2))
    def roll_back(self, hold: bool, number: int) -> None:
        earlier = [name for name, record in self.clone.decisions().releases().items() if record.accepted and name != self.clone.live()]
        if earlier:
            self.left.add(self.clone.live())
            self.clone.rollback(earlier[number % len(earlier)], hold=hold)

    # ------------------------------------------------ what goes wrong

    @precondition(lambda self: self.clone.live())
    @rule()
    def kill_engine(self) -> None:
        name = f"demo-{self.clone.live()}"
        if name in self.world.running and name not in self.world.dead:
            self.world.kill(name)

    @rule()
    def kill_router(self) -> None:
        self.world.stop_front()

    @rule(away=st.booleans())
    def source(self, away: bool) -> None:
        self.world.source_error = Transient("the Hub was not reached") if away else None

    @rule()
    def next_start_fails(self) -> None:
        self.world.start_errors = [Transient("no network")]

    @rule()
    def lose_dagsters_storage(self) -> None:
        """What waited in its queue is lost with it."""
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
    def only_what_was_accepted_answers(self) -> None:
        assert self.scene.serving is None or self.clone.live()

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
        for _ in range(4):
            self.settle()
            self.scene.passes(6 * HOUR)
        self.settle()
        self.nothing_forbidden_happened()
        self.down_stays_down()

    def _in_the_end(self) -> None:
        seen = self.scene.situation()
        if self.down:
            assert not seen.wanted and not seen.serves
            return
        assert seen.wanted and seen.desired, f"wanted {seen.wanted}, desired {seen.desired}: {seen.unknown}"
        record = seen.desired_record
        if record and record.mark:
            self._earned(record.id)
        else:
            assert seen.in_step, f"{seen.desired.revision} should be live, {seen.live and seen.live.revision} is; {self.scene.said}"
        newest, held = self.world.source.get("demo", "v1"), self.scene.waits
        assert (seen.admitted and seen.admitted.revision == newest) or held, f"{newest} is at the source, neither admitted nor held"
        if not held and not seen.pin and newest.strip("+") not in self.bad and not (record and record.mark):
            assert (self.scene.serving or "").strip("+") == newest.strip("+")

    def _earned(self, release: str) -> None:
        """What automation leaves alone has deserved it."""
        record = self.clone.record(release)
        assert record.mark
        tried = sum(attempt.result == "failed" and attempt.transient for attempt in record.attempts)
        match record.mark.kind:
            case "refused":
                assert record.revision.strip("+") in self.bad, f"{record.revision} is good and was refused: {record.mark.why}"
            case "failed":
                assert tried >= ATTEMPTS or len(record.heals) >= 3, f"{record.revision} was given up after {tried} tries: {record.mark.why}"
            case "cancelled":
                assert release in self.cancelled or release in self.left, f"nobody cancelled {record.revision}: {record.mark.why}"

    def _watch(self, what: tuple[str, ...]) -> None:
        """Everything that is done to the platform."""
        verb, name = what[0], what[1].removeprefix("demo-")
        if verb == "flipped":
            last, live = self.clone.record(name).last, self.clone.live()
            if name != live and not (last and last.result == "accepted"):
                self.wrong.append(f"traffic moved to {name}, whose try is {last and last.result}")
        if verb == "started":
            others = set(self.world.running) - {f"demo-{self.clone.live()}", what[1]}
            if others:
                self.wrong.append(f"{name} was started beside {others}")

    def _interrupt(self, _: Release) -> None:
        raise DagsterExecutionInterruptedError
