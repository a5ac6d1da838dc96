"""What people say meanwhile: pins, rollbacks, `down`, a cancelled run, a revision by its name."""

from __future__ import annotations

from dagster import DagsterExecutionInterruptedError

from infra.platform import Release
from tests.scenarios.row import Row, admit, decide
from tests.scenarios.scene import DAY, Scene


def while_pinned(scene: Scene) -> None:
    """It is seen and shown, and waits; after `unpin` the next look admits it."""
    scene.clone.pin()
    scene.push("v2")
    assert scene.settle() == [] and scene.serving == "v1" and "pinned" in scene.waits
    scene.clone.pin(remove=True)

    assert scene.settle() == ["v2"] and scene.serving == "v2"


def rolled_back_then_newer_then_left(scene: Scene) -> None:
    """What the rollback left stays left as long as it is all that the source has; something newer ends the pin; the left one again is held."""
    first = scene.clone.live() or ""
    scene.push("v2")
    scene.settle()
    assert scene.clone.rollback(first).success
    scene.passes(DAY)
    assert scene.settle() == [] and scene.serving == "v1"
    scene.push("v3")
    assert scene.settle() == ["v3"] and scene.clone.decisions().pin is None
    scene.push("v2")

    assert scene.settle() == [] and scene.serving == "v3" and "rollback" in scene.waits


def left_one_wanted_again(scene: Scene) -> None:
    """A person's `up` takes what a rollback left and the source holds again; from then on it is like any other."""
    first = scene.clone.live() or ""
    scene.push("v2")
    scene.settle()
    scene.clone.rollback(first)
    scene.push("v3")
    scene.settle()
    scene.push("v2")
    scene.settle()

    assert scene.up().success and scene.serving == "v2" and scene.settle() == []


def rolled_back_for_good(scene: Scene) -> None:
    """With `--hold` nothing newer comes either, until `unpin`."""
    first = scene.clone.live() or ""
    scene.push("v2")
    scene.settle()
    scene.clone.rollback(first, hold=True)
    scene.push("v3")
    assert scene.settle() == [] and scene.serving == "v1" and "unpin" in scene.waits
    scene.clone.pin(remove=True)

    assert scene.settle() == ["v3"]


def rolled_back_in_front_of_a_rollout(scene: Scene) -> None:
    """The rollout was decided on before the rollback, and begins after it: it finds another release live and does nothing."""
    first = scene.clone.live() or ""
    scene.push("v2")
    scene.settle()
    scene.push("v3")
    scene.look()
    run = scene.queue(scene.asked())
    assert scene.clone.rollback(first).success

    assert scene.clone.execute(run).success and scene.serving == "v1" and "v3" not in scene.starts
    assert scene.settle() == [] and scene.serving == "v1"


def updates_are_manual(scene: Scene) -> None:
    """It is shown and waits; a person names it."""
    scene.declare(updates={"policy": "manual"})
    scene.push("v2")
    assert scene.settle() == [] and "waits for a person" in scene.waits

    assert scene.up(revision="v2").success and scene.serving == "v2" and scene.settle() == []


def at_the_moment_of_a_teardown(scene: Scene) -> None:
    """It was admitted when `down` was said: nothing is launched, and later pushes are not even looked at."""
    scene.push("v2")
    scene.look()
    assert scene.clone.down().success
    assert scene.settle() == [] and scene.serving is None
    scene.push("v3")
    scene.world.looks.clear()

    assert scene.settle() == [] and scene.world.looks == [] and scene.world.running == {}


def down_while_the_source_is_asked(scene: Scene) -> None:
    """The look that was under way admits into the void: the model stays down."""
    scene.push("v2")

    def down(_: str) -> None:
        scene.world.on_look = lambda _: None
        assert scene.clone.down().success

    scene.world.on_look = down

    assert scene.settle() == [] and scene.serving is None and scene.world.running == {}


def queued_run_after_a_teardown(scene: Scene) -> None:
    """The run waits in the queue while `down` is said and done: it does nothing, and is green."""
    scene.push("v2")
    scene.look()
    run = scene.queue(scene.asked())
    assert scene.clone.down().success

    assert scene.clone.execute(run).success and scene.world.running == {} and scene.settle() == []


def up_after_a_teardown(scene: Scene) -> None:
    """What was pushed while it was down comes with the word `up`, and no rollout after it."""
    scene.clone.down()
    for newer in ("v2", "v3"):
        scene.push(newer)
        scene.settle()

    assert scene.up().success and scene.serving == "v3" and scene.starts == ["v3"] and scene.settle() == []


def run_cancelled_by_hand(scene: Scene) -> None:
    """That release is left alone, however much time passes; what serves was not touched, and the next revision comes."""

    def cancel(_: Release) -> None:
        scene.world.on_start = lambda _: None
        raise DagsterExecutionInterruptedError

    scene.push("v2")
    scene.look()
    request = scene.asked()
    scene.world.on_start = cancel
    try:
        scene.obey(request)
    except DagsterExecutionInterruptedError:
        pass  # as it ends the process of a run
    scene.passes(DAY)
    assert scene.settle() == [] and scene.serving == "v1" and "cancelled" in scene.said
    scene.push("v3")

    assert scene.settle() == ["v3"] and scene.serving == "v3"


def cancelled_and_wanted_again(scene: Scene) -> None:
    """A person's `up` takes a cancelled rollout up again."""
    run_cancelled_until_up(scene)

    assert scene.up().success and scene.serving == "v2" and scene.settle() == []


def run_cancelled_until_up(scene: Scene) -> None:
    """v2 was cancelled and is what the source holds."""

    def cancel(_: Release) -> None:
        scene.world.on_start = lambda _: None
        raise DagsterExecutionInterruptedError

    scene.push("v2")
    scene.look()
    scene.world.on_start = cancel
    try:
        scene.obey(scene.asked())
    except DagsterExecutionInterruptedError:
        pass


ROWS = (
    Row("a revision while the model is pinned", admit("a person's pin"), while_pinned),
    Row(
        "rollback, then a newer one, then the left one again",
        admit("a rollback's pin, and what it left", "a rollback's pin, and something newer", "the bad one again"), rolled_back_then_newer_then_left,
    ),
    Row("the left one again, and a person says up", admit("the bad one, and a person said up"), left_one_wanted_again),
    Row("a rollback that holds", admit("a person's pin"), rolled_back_for_good),
    Row("a rollback in front of a rollout", admit("a rollback's pin, and what it left"), rolled_back_in_front_of_a_rollout),
    Row("updates are manual", admit("updates are manual", "updates are manual, and a person named it"), updates_are_manual),
    Row("a revision at the moment of a teardown", decide("nobody wants it, nothing runs"), at_the_moment_of_a_teardown, real="taken_down"),
    Row("a teardown while the source is asked", decide("nobody wants it, nothing runs"), down_while_the_source_is_asked),
    Row("a queued run after a teardown", decide("nobody wants it, something is under way"), queued_run_after_a_teardown),
    Row("a revision while the model is down", (*decide("nobody wants it, nothing runs"), *admit("the bad one, and a person said up")), up_after_a_teardown),
    Row("a run is cancelled by hand", (*admit("a run of it was cancelled by hand"), *decide("edited, refused before")), run_cancelled_by_hand),
    Row("a run is cancelled by hand, and a person says up", admit("the bad one, and a person said up"), cancelled_and_wanted_again),
)
