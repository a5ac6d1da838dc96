"""Stay here, go back, follow again: what a pin holds, and what ends it."""

from __future__ import annotations

import pytest

from infra.errors import ConfigError, Transient
from tests.assets.clone import Clone
from tests.doubles.parts import Behaviour
from tests.doubles.platform import World


@pytest.fixture
def two(clone: Clone, world: World) -> tuple[str, str]:
    """v1 was live, v2 is: their releases."""
    first = clone.serve()
    world.source["demo"] = "v2"
    clone.serve()
    return first, clone.live() or ""


def test_a_rollback_brings_the_earlier_release_back_and_pins_it(clone: Clone, world: World, two: tuple[str, str]) -> None:
    """By the same path: candidate, acceptance, switch. What was left is remembered."""
    first, second = two

    ran = clone.rollback(first)

    pin = clone.decisions().pin
    assert ran.success and clone.live() == first and list(world.running) == [f"demo-{first}"]
    assert pin and (pin.release, pin.left, pin.until, pin.by) == (first, second, "newer", "ann")
    assert f"rolled back from {second}" in pin.why


def test_a_rollback_needs_no_source(clone: Clone, world: World, two: tuple[str, str]) -> None:
    """It may be the very reason to go back that the source is gone."""
    first, _ = two
    world.source_error = ConfigError("the repository was deleted")

    assert clone.rollback(first).success and clone.live() == first


def test_what_a_rollback_left_never_comes_back_by_itself(clone: Clone, world: World, two: tuple[str, str]) -> None:
    """`up` respects the pin and says so."""
    first, _ = two
    clone.rollback(first)

    ran = clone.up()

    assert ran.success and clone.live() == first and clone.decisions().pin
    assert f"pinned to {first}" in ran.log and first in str(ran.pages["deployment"]["pinned"])


def test_something_newer_ends_the_pin_of_a_rollback(clone: Clone, world: World, two: tuple[str, str]) -> None:
    """Newer: a manifest that nobody saw before the rollback."""
    first, second = two
    clone.rollback(first)
    world.source["demo"] = "v3"

    ran = clone.up()

    assert ran.success and clone.live() not in two and clone.decisions().pin is None
    assert clone.record(clone.live() or "").revision == "v3"


def test_an_earlier_revision_at_the_source_is_not_newer(clone: Clone, world: World, two: tuple[str, str]) -> None:
    """A branch that is moved back to what was left stays left."""
    first, second = two
    world.source["demo"] = "v3"
    clone.up()
    third = clone.live()
    clone.rollback(first)
    world.source["demo"] = "v2"

    ran = clone.up()

    assert ran.success and clone.live() == first != third and clone.decisions().pin


def test_a_refused_revision_of_before_the_rollback_is_not_newer(clone: Clone, world: World, two: tuple[str, str]) -> None:
    """It was seen already when the pin was written: going back is no reason to try it again."""
    first, _ = two
    world.source["demo"], world.behave["v3"] = "v3", Behaviour(wrong="unwell")
    clone.up()
    clone.rollback(first)

    ran = clone.up()

    assert ran.success and clone.live() == first and clone.decisions().pin


def test_a_rollback_that_holds_ends_only_by_unpin(clone: Clone, world: World, two: tuple[str, str]) -> None:
    """Newer or not."""
    first, _ = two
    clone.rollback(first, hold=True)
    world.source["demo"] = "v3"

    clone.up()
    held = clone.live()
    clone.pin(remove=True)
    clone.up()

    assert held == first and clone.record(clone.live() or "").revision == "v3"


def test_a_pin_holds_the_live_release_whole(clone: Clone, world: World, two: tuple[str, str]) -> None:
    """Neither an edit nor new weights move it; the loop respects it too."""
    _, second = two
    clone.pin()
    clone.declare(engine={"max_model_len": 256})
    world.source["demo"] = "v3"

    ran = clone.up()

    assert ran.success and clone.live() == second and clone.decisions().pin.release == second  # type: ignore[union-attr]
    assert not clone.tick().run_requests


def test_unpin_follows_the_declaration_again(clone: Clone, two: tuple[str, str]) -> None:
    """What was edited meanwhile is rolled out by the loop."""
    _, second = two
    clone.pin()
    clone.declare(engine={"max_model_len": 256})

    ran = clone.pin(remove=True)

    (request,) = clone.tick().run_requests or ()
    assert ran.success and request.tags["llm/lifecycle"] == "redeploy" and request.tags["llm/why"].startswith(second)


def test_a_pin_of_a_revision_holds_the_weights_only(clone: Clone, world: World, two: tuple[str, str]) -> None:
    """An edit of the engine goes live, with the same weights."""
    _, second = two
    clone.pin(revision="v2")
    clone.declare(engine={"max_model_len": 256})
    world.source["demo"] = "v3"

    ran = clone.up()

    record = clone.record(clone.live() or "")
    assert ran.success and record.id != second and record.revision == "v2"


def test_a_pin_without_a_live_release_is_refused(clone: Clone) -> None:
    """There is nothing to stay on."""
    clone.serve()
    clone.down()

    ran = clone.pin()

    assert ran.problem.what == "demo has no live release to stay on" and ran.problem.next == "llm-pipeline up demo"


def test_a_named_revision_under_a_pin_is_refused_and_names_unpin(clone: Clone, world: World, two: tuple[str, str]) -> None:
    """Whichever pin: two people would else undo each other's word."""
    clone.pin()

    ran = clone.up(revision="v1")

    assert ran.failed == ["deployment"] and "is pinned" in ran.problem.what
    assert (ran.problem.next or "").startswith("llm-pipeline unpin demo")
    assert clone.live() == two[1]


def test_a_named_revision_that_is_not_the_newest_stays(clone: Clone, world: World, two: tuple[str, str]) -> None:
    """`up --revision v1`, and the next `up` does not go on from it."""
    clone.up(revision="v1")
    named = clone.record(clone.live() or "").revision

    clone.up()

    pin = clone.decisions().pin
    assert named == clone.record(clone.live() or "").revision == "v1"
    assert pin and (pin.revision, pin.release, pin.until) == ("v1", None, "unpinned")


def test_a_named_revision_needs_the_source(clone: Clone, world: World, two: tuple[str, str]) -> None:
    """What was admitted before is no answer to a question about another revision."""
    world.source_error = Transient("the Hub is not reached")

    ran = clone.up(revision="v1")

    assert ran.problem.what == "the Hub is not reached" and clone.live() == two[1]
