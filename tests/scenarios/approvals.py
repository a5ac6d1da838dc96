"""What waits for a person's approval: `updates: {policy: approve}`. Most stories are tests of tests/assets/test_approval.py already."""

from __future__ import annotations

from tests.assets import test_approval as proved
from tests.scenarios.row import Elsewhere, Row, admit, decide
from tests.scenarios.scene import DAY, HOUR, Scene

APPROVE = {"policy": "approve", "approve_within": "24h"}


def several_while_one_waits(scene: Scene) -> None:
    """v2 waits when v3 and v4 come: v2 is withdrawn, v3 is never started, v4 waits, and goes live by the word for it."""
    scene.declare(updates=APPROVE)
    scene.push("v2")
    scene.settle()
    for newer in ("v3", "v4"):
        scene.push(newer)
    scene.settle()
    assert scene.serving == "v1" and scene.starts == ["v2", "v4"] and set(scene.world.running) == {f"demo-{scene.clone.live()}", waiting(scene)}
    assert scene.clone.say(approve=True).success

    assert scene.settle() == ["v4"] and scene.serving == "v4" and scene.settle() == []


def forced_back_while_one_waits(scene: Scene) -> None:
    """The source holds again what serves: nothing waits any more, and what was withdrawn is not to blame."""
    scene.declare(updates=APPROVE)
    scene.push("v2")
    scene.settle()
    release = waiting(scene).removeprefix("demo-")
    scene.push("v1")
    scene.settle()

    assert scene.serving == "v1" and len(scene.world.running) == 1 and scene.clone.decisions().approval is None
    assert scene.clone.record(release).mark is None


def too_late(scene: Scene) -> None:
    """At its deadline the candidate goes; the word for it is refused; it does not come back by itself on any later day, and the next one waits anew."""
    scene.declare(updates=APPROVE)
    scene.push("v2")
    scene.settle()
    scene.passes(DAY - 60)
    assert scene.settle() == [] and len(scene.world.running) == 2
    scene.passes(61)
    scene.settle()
    assert not scene.clone.say(approve=True).success and len(scene.world.running) == 1 and scene.serving == "v1"
    scene.passes(DAY)
    assert scene.settle() == []
    scene.push("v3")

    assert scene.settle() == ["v3"] and scene.serving == "v1" and waiting(scene)


def daemon_down_while_one_waits(scene: Scene) -> None:
    """Approved while nobody looked, and its time is over when somebody does: the word was in time, and counts."""
    scene.declare(updates=APPROVE)
    scene.push("v2")
    scene.settle()
    scene.passes(DAY - HOUR)
    assert scene.clone.say(approve=True).success
    scene.passes(2 * HOUR)

    assert scene.settle() == ["v2"] and scene.serving == "v2"


def automatic_by_now(scene: Scene) -> None:
    """The YAML says `auto` by now: that is the word, and nothing waits for another."""
    scene.declare(updates={"policy": "approve"})
    scene.push("v2")
    scene.settle()
    assert scene.serving == "v1"
    scene.declare(updates={"policy": "auto"})

    assert scene.settle() == ["v2"] and scene.serving == "v2" and scene.starts == ["v2"] and scene.clone.decisions().approval is None


def waiting(scene: Scene) -> str:
    """The name of the candidate that waits."""
    found = scene.clone.decisions().approval
    assert found
    return f"demo-{found.release}"


ROWS = (
    Row("updates need approval", (*admit("updates need approval"), *decide("a candidate waits for a person")), Elsewhere(proved.test_what_passed_waits_without_a_request)),
    Row("a candidate is approved", decide("a candidate was approved"), Elsewhere(proved.test_the_approved_one_goes_live_by_the_whole_ladder_again)),
    Row("a candidate is rejected", decide("a candidate was rejected"), Elsewhere(proved.test_the_rejected_one_goes_and_is_left_alone)),
    Row("approval comes late", decide("nobody approved a candidate in time"), too_late),
    Row("approval in time, and nobody looks before its end", decide("a candidate was approved, its time is over since"), daemon_down_while_one_waits),
    Row("updates become automatic while a candidate waits", decide("a candidate was approved"), automatic_by_now),
    Row("a candidate that waits is superseded", decide("something else should serve than the candidate"), Elsewhere(proved.test_something_newer_takes_the_place_of_what_waits)),
    Row("an approved candidate is superseded", decide("something else should serve than the approved candidate"), Elsewhere(proved.test_a_word_for_one_release_is_none_for_another)),
    Row("several revisions while a candidate waits", decide("something else should serve than the candidate", "a candidate was approved"), several_while_one_waits),
    Row("the branch is forced back while a candidate waits", decide("something else should serve than the candidate"), forced_back_while_one_waits),
    Row("the engine dies while a candidate waits", decide("the live one died beside a candidate"), Elsewhere(proved.test_what_serves_is_healed_beside_the_one_that_waits)),
    Row("a bad revision when updates need approval", admit("updates need approval"), Elsewhere(proved.test_a_bad_revision_never_gets_to_wait)),
    Row("a teardown while a candidate waits", decide("nobody wants it, a candidate was approved"), Elsewhere(proved.test_a_down_takes_the_one_that_waits_along)),
)
