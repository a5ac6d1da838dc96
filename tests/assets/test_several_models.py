"""Two and three models behind one endpoint: each answers for its own name, and what happens to one is nothing to the others."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest

from infra.platform import Release
from llm_pipeline import components
from tests.assets.clone import Clone, Ran
from tests.doubles.parts import Behaviour
from tests.doubles.platform import World

NAMES = ("demo", "second", "third")


@pytest.fixture
def three(clone: Clone, world: World) -> dict[str, str]:
    """Three models that serve; the name of each one's release."""
    for name in NAMES[1:]:
        clone.declare(name, served_name=f"org/{name}")
    return {name: f"{name}-{clone.serve(name)}" for name in NAMES}


def served(name: str) -> str:
    return name if name == "demo" else f"org/{name}"


def answers(world: World, name: str) -> tuple[int, str | None]:
    """What the one endpoint says to a question for this model, and who said it."""
    body = {"model": served(name), "prompt": "ping", "max_tokens": 1}
    answer = httpx.post(world.platform.endpoint.url("demo") + "/completions", json=body, timeout=10)
    return answer.status_code, answer.headers.get("x-llm-release")


def others_serve(clone: Clone, world: World, three: dict[str, str], but: str = "demo") -> None:
    """The others answer from the release that they had, and nothing was done to them."""
    for name in set(NAMES) - {but}:
        assert answers(world, name) == (200, three[name])
        assert f"{name}-{clone.live(name)}" == three[name]
        assert not [call for call in world.calls if three[name] in call[1:] or (call[0] in ("closed", "unrouted") and call[1] == served(name))]


def test_each_name_is_answered_by_its_own_release(world: World, three: dict[str, str]) -> None:
    """One router, one table with all names."""
    assert {name: answers(world, name) for name in NAMES} == {name: (200, three[name]) for name in NAMES}
    assert set(world.routes) == {served(name) for name in NAMES}


def test_a_rollout_of_one_leaves_the_others_alone(clone: Clone, world: World, three: dict[str, str]) -> None:
    """Started, switched, removed: its own releases only."""
    world.calls.clear()
    world.source["demo"] = "v2"

    assert clone.up().success
    assert answers(world, "demo") == (200, f"demo-{clone.live()}") and f"demo-{clone.live()}" != three["demo"]
    others_serve(clone, world, three)


def test_an_outage_of_one_is_none_of_the_others(clone: Clone, world: World, three: dict[str, str]) -> None:
    """`recreate` closes one name; the others are answered while it starts."""
    world.calls.clear()
    world.source["demo"], world.fits = "v2", False
    seen: list[Any] = []
    world.on_start = lambda _: seen.append([answers(world, name)[0] for name in NAMES])

    assert clone.up().success
    assert seen == [[seen[0][0], 200, 200]] and seen[0][0] != 200
    others_serve(clone, world, three)


def test_a_refusal_of_one_leaves_all_as_they_were(clone: Clone, world: World, three: dict[str, str]) -> None:
    """The refused candidate goes, and nothing else."""
    world.calls.clear()
    world.source["demo"] = "v2"
    world.behave["v2"] = Behaviour(answers={"ping": "wrong"})

    assert not clone.up().success
    assert answers(world, "demo") == (200, three["demo"])
    others_serve(clone, world, three)


def test_what_died_is_healed_and_the_others_are_not_touched(clone: Clone, world: World, three: dict[str, str]) -> None:
    """The loop asks for one run, of the model whose engine died."""
    world.calls.clear()
    world.kill(three["demo"])

    (request,) = clone.tick().run_requests or ()

    assert request.tags["llm/model"] == "demo" and request.tags["llm/lifecycle"] == "heal"
    assert clone.obey(request).success and answers(world, "demo") == (200, three["demo"])
    others_serve(clone, world, three)


def test_down_of_one_leaves_the_others_and_down_of_the_last_one_ends_the_router(clone: Clone, world: World, three: dict[str, str]) -> None:
    """The router's table forgets one name after the other."""
    world.calls.clear()

    assert clone.down("demo").success
    others_serve(clone, world, three)
    assert set(world.routes) == {"org/second", "org/third"} and world.front is not None
    assert clone.down("second").success and answers(world, "third") == (200, three["third"])
    assert clone.down("third").success
    assert world.front is None and not world.routes and not world.running


def test_two_models_of_one_served_name_are_refused_when_they_are_loaded(clone: Clone) -> None:
    """Both are named; the router could not tell them apart."""
    clone.declare("second", served_name="demo")

    told = {broken.name: broken.problem.what for broken in components.declared().broken}

    assert set(told) == {"demo", "second"}
    assert "demo" in told["second"] and "is also what" in told["second"]


def test_a_model_that_nobody_declares_any_more_keeps_its_name_while_it_is_wanted(clone: Clone, world: World) -> None:
    """Its YAML was renamed while it serves: the new one must not take its requests, nor be taken down with it."""
    live = clone.serve()
    clone.forget("demo")
    clone.declare("second", served_name="demo")

    refused = clone.up("second")
    clone.down("demo")
    ran = clone.up("second")
    clone.down("demo")

    assert refused.failed == ["ray_service"] and refused.problem.what == "demo is what demo serves"
    assert refused.problem.why == f"demo-{live} answers for that name, and demo is wanted"
    assert ran.success and answers(world, "demo") == (200, f"second-{clone.live('second')}")


@pytest.mark.parametrize(("memory", "good"), [(12, 2), (8, 1)])
def test_two_that_start_at_once_never_get_the_same_room(clone: Clone, world: World, memory: float, good: int) -> None:
    """One serves; both others look while neither has taken its memory yet. With room for two, both come up; with room for one, one is told so with numbers."""
    for name in NAMES[1:]:
        clone.declare(name, served_name=f"org/{name}")
    clone.serve()
    world.memory = memory
    first, second = (clone.queue_up(name) for name in NAMES[1:])
    ran: list[Ran] = []
    late = threading.Thread(target=lambda: ran.append(clone.execute(second)))

    def begin_the_other(_: Release) -> None:
        """The second one comes while the first one starts: admitted, and without any memory yet."""
        world.on_start = lambda _: None
        late.start()
        late.join(20)

    world.on_start = begin_the_other
    one = clone.execute(first)

    assert one.success and len(ran) == 1
    assert len(world.running) == 1 + good
    if good == 1:
        assert ran[0].failed == ["ray_service"] and ran[0].problem.why == "needs 4 GiB, 0 are free"
        assert clone.newest("third").mark is None, "it may fit later"


def test_a_collection_keeps_what_each_model_needs(clone: Clone, world: World, three: dict[str, str]) -> None:
    """Three models, one store."""
    for name in NAMES:
        world.source[name] = f"v2-{name}"
        clone.serve(name)

    assert clone.collect().success
    assert len(world.stored) == 4 and len(world.running) == 3
