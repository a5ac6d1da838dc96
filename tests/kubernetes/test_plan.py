"""plan, up, compare on a cluster: what was announced is what the run did, stage by stage, by a real API server; a plan sends nothing that changes anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.kubernetes import kinds
from tests.doubles.model import lay_model
from tests.kubernetes import lab as labs
from tests.kubernetes.between import between
from tests.kubernetes.lab import Lab
from tests.kubernetes.story import IMAGE
from tests.kubernetes.world import World
from tests.sweep.stand import DEMO

SWITCH = {"ray_service": "new_release", "smoke_test": "new_release", "endpoint": "in_place"}
EVERYTHING = dict.fromkeys(("cluster", "deployment", "model_weights", "ray_service", "smoke_test", "endpoint"), "create")
AGAIN = {"ray_service": "create", "smoke_test": "create", "endpoint": "in_place"}
OTHER_IMAGE = IMAGE.replace("aa", "bb")


@pytest.fixture
def world(lab: Lab, tmp_path: Path) -> Iterator[World]:
    """A clone on which nothing was done yet."""
    labs.insist_on_processes()
    with between(lab.api, tmp_path) as middle:
        made = World(lab, middle, tmp_path)
        yield made
        if made.there():
            lab.api.delete(kinds.NAMESPACE, made.namespace)


def told(world: World) -> tuple[dict[str, Any], dict[str, str]]:
    """The plan, and the parts to which something is to be done."""
    done = world.plan()
    assert done.points == [], "a plan changes nothing"
    return done.value, {name: part["action"] for name, part in done.value["parts"].items() if part["action"] != "none"}


def compared(world: World) -> dict[str, str]:
    """Plans, brings up, holds the one against the other; the actions."""
    plan, actions = told(world)
    happened = world.up().value
    assert {name for name, changed in happened["changed"].items() if changed} == set(actions), (plan, happened)
    assert (plan["release"], plan["live"]) == (happened["release"], happened["previous_release"]), (plan, happened)
    assert (happened["outage_seconds"] is not None) == (plan["outage_s"] != 0), (plan, happened)
    assert told(world)[1] == {}, "what was just brought up needs nothing"
    return actions


@pytest.mark.timeout(1500)
def test_edits_do_what_was_announced(world: World) -> None:
    """From nothing; then of the engine, of the replicas, of the image, which a cluster fetches by itself."""
    fields = {"engine": {**DEMO["engine"], "max_model_len": 256}}
    done = [compared(world)]
    world.declare(**fields)
    done.append(compared(world))
    world.declare(**fields, replicas={"min": 2, "max": 2})
    done.append(compared(world))
    world.declare(**fields, image=OTHER_IMAGE)
    done.append(compared(world))

    assert done == [EVERYTHING, SWITCH, {"ray_service": "in_place"}, SWITCH]


@pytest.mark.timeout(1500)
def test_what_happens_by_itself_is_met_as_was_announced(world: World) -> None:
    """A revision comes; the model was put to sleep."""
    done = [compared(world)]
    lay_model(world.root / "assets/models/demo/newer", seed=1)
    world.declare(weights="file://newer")
    done.append(compared(world))
    assert world.sleep("suspended").value["result"] == "asleep"
    done.append(compared(world))

    assert done == [EVERYTHING, SWITCH | {"model_weights": "new_release"}, AGAIN]
