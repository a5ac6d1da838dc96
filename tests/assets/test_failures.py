"""How a rollout ends that does not go well: what is tried again, what is marked, and what a `down` or a Ctrl-C leaves."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from infra.documents import Attempt, Mark
from infra.errors import CapacityError, ConfigError, Permanent, PipelineError, Transient
from infra.platform import Release
from tests.assets.clone import Clone
from tests.doubles.platform import World, no_room

FOUR = ("what", "why", "next", "log")


def ended(clone: Clone) -> tuple[Attempt, Mark | None]:
    """The last attempt of the release that was seen last, and its mark."""
    record = clone.newest()
    assert record.last is not None
    return record.last, record.mark


@pytest.mark.parametrize("stage", ["model_weights", "gpu_nodepool", "ray_service"])
def test_what_may_pass_is_an_attempt_and_no_mark(clone: Clone, world: World, stage: str) -> None:
    """Capacity, network, timeouts: the loop tries again after a pause, so the release stays free to be tried."""
    error = CapacityError("nothing is free", why="all is taken", next="wait", log="E: full")
    fail_at(world, stage, error)

    ran = clone.up()

    attempt, mark = ended(clone)
    assert ran.failed == [stage] and mark is None
    assert (attempt.result, attempt.transient) == ("failed", True)
    assert attempt.problem and attempt.problem.problem() == error.problem
    assert clone.decisions().claim(0) is None


@pytest.mark.parametrize("stage", ["model_weights", "ray_service"])
def test_what_can_not_pass_marks_the_release(clone: Clone, world: World, stage: str) -> None:
    """A wrong argument, a gated repository: the same again would fail again, so automation leaves it alone."""
    fail_at(world, stage, Permanent("the engine does not know this argument", why="typo", next="correct it"))

    ran = clone.up()

    attempt, mark = ended(clone)
    assert ran.failed == [stage]
    assert mark and mark.kind == "failed" and mark.why == "the engine does not know this argument"
    assert (attempt.result, attempt.transient) == ("failed", False)


def test_all_four_parts_are_on_the_page(clone: Clone, world: World) -> None:
    """Terminal, Dagster and JSON say the same."""
    world.start_errors.append(Transient("a", why="b", next="c", log="d"))

    ran = clone.up()

    (event,) = [event for event in ran.events if event.event_type_value == "STEP_FAILURE"]
    data = event.step_failure_data.user_failure_data
    assert data and {name: data.metadata[name].value for name in FOUR} == dict(zip(FOUR, "abcd", strict=True))
    assert data.metadata["transient"].value is True
    assert data.description == "a\n  why  b\n  next c\n  log  d"


def test_dagster_never_retries_a_step_by_itself(clone: Clone, world: World) -> None:
    """The loop does that, with its back-off: two loops would fight."""
    world.start_errors.append(Transient("a"))

    ran = clone.up()

    (event,) = [event for event in ran.events if event.event_type_value == "STEP_FAILURE"]
    assert world.start_errors == [] and ran.status == "FAILURE"
    assert not [event for event in ran.events if event.event_type_value in ("STEP_UP_FOR_RETRY", "STEP_RESTARTED")]


def test_the_next_try_is_another_attempt_and_success_ends_the_count(clone: Clone, world: World) -> None:
    """The history keeps each try with its number."""
    world.start_errors += [Transient("first"), Transient("second")]

    for _ in range(3):
        clone.up()

    record = clone.record(clone.live() or "")
    assert [(attempt.number, attempt.result) for attempt in record.attempts] == [(1, "failed"), (2, "failed"), (3, "accepted")]
    assert record.mark is None


def test_a_failed_rollout_leaves_what_serves_untouched(clone: Clone, world: World) -> None:
    """Whatever the new release does, the old one answers."""
    live = clone.serve()
    world.source["demo"] = "v2"
    world.start_errors.append(ConfigError("wrong argument"))

    clone.up()

    assert clone.live() == live and list(world.running) == [f"demo-{live}"]
    assert world.routes["demo"] and world.routes["demo"].release == f"demo-{live}"


def test_the_deadline_of_the_run_is_a_transient_failure(clone: Clone, world: World) -> None:
    """`--timeout` ends a start that never gets ready, and says what it waited for."""
    world.never_ready = True

    ran = clone.up(timeout="0.3")

    attempt, mark = ended(clone)
    assert ran.problem.what == "still in phase 'engine: weights' after 0 s" and "--timeout" in (ran.problem.next or "")
    assert attempt.transient and mark is None


def test_a_try_whose_process_was_killed_is_closed_by_the_next_one(clone: Clone, world: World) -> None:
    """A SIGKILL writes nothing: the attempt is still `running` when the next run begins."""
    world.on_call = lambda what: (_ for _ in ()).throw(RuntimeError("killed")) if what[0] == "started" else None
    clone.up()
    world.on_call = lambda _: None

    clone.up()

    first, second = clone.record(clone.live() or "").attempts
    assert (first.result, first.transient, second.result) == ("failed", True, "accepted")
    assert first.problem and first.problem.what == "the run ended without a verdict"


def test_a_cancelled_run_ends_its_attempt_as_cancelled(clone: Clone, world: World) -> None:
    """A person ended it (here as Dagster does: with SIGINT): the loop leaves that release alone, and what serves is not touched."""
    live = clone.serve()
    world.source["demo"] = "v2"
    world.on_start = interrupt_once(clone)

    ran = clone.up()

    attempt, mark = ended(clone)
    assert ran.status == "CANCELED"
    assert attempt.result == "cancelled" and mark and mark.kind == "cancelled"
    assert clone.live() == live and f"demo-{live}" in world.running
    assert clone.decisions().claim(0) is None


def test_an_up_after_a_cancelled_one_goes_on(clone: Clone, world: World) -> None:
    """The mark was for automation: a person's word lifts it."""
    world.on_start = interrupt_once(clone)
    clone.up()

    ran = clone.up()

    assert ran.success and clone.record(clone.live() or "").mark is None


def test_an_up_after_a_cancelled_one_that_fails_for_now_is_left_to_the_loop(clone: Clone, world: World) -> None:
    """Else a rollout that a person wants would stay where it is, for a reason of yesterday."""
    world.on_start = interrupt_once(clone)
    clone.up()
    world.start_errors.append(no_room())

    clone.up()

    attempt, mark = ended(clone)
    assert attempt.transient and mark is None


def test_a_wait_ends_within_two_seconds_of_a_down_and_is_green(clone: Clone, world: World) -> None:
    """`down` never waits for a rollout's deadline, and nothing failed: somebody changed their mind."""
    world.never_ready = True
    said: list[float] = []

    def change_mind(_: Release) -> None:
        if not said:
            clone.decisions().want(False, "bob")
            said.append(time.time())

    world.on_start = change_mind

    ran = clone.up()

    attempt, mark = ended(clone)
    assert ran.success and "smoke_test" not in ran.pages and "endpoint" not in ran.pages
    assert attempt.ended and attempt.ended - said[0] < 2
    assert attempt.result == "cancelled" and mark is None
    assert "demo was taken down by bob: this step ends; nothing more is changed" in ran.log
    assert clone.decisions().claim(0) is None


def interrupt_once(clone: Clone) -> Callable[[Release], None]:
    """Terminates the run from within its first start, as `Terminate` in the UI does."""

    def now(_: Release) -> None:
        clone.world.on_start = lambda _: None
        claim = clone.decisions().claim(0)
        run = clone.instance.get_run_by_id(claim.run) if claim else None
        assert run is not None
        clone.instance.report_run_canceling(run)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    return now


def fail_at(world: World, stage: str, error: PipelineError) -> None:
    """The next call of a stage raises this."""
    if stage == "model_weights":
        world.weights_errors.append(error)
    elif stage == "gpu_nodepool":
        world.room_error = error
    else:
        world.start_errors.append(error)
