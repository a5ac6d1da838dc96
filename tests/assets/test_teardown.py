"""A model or a cluster goes away, leaf to root; that nothing is left is looked up, and it can be run again from anywhere."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from assets.teardown import leftovers
from infra.platform import Release
from infra.states import Leftover
from infra.waiting import Progress
from infra.weights import Outline
from tests.assets.clone import Clone, Ran
from tests.doubles.parts import Weights
from tests.doubles.platform import World


def report(ran: Ran, name: str = "demo") -> dict[str, list[dict[str, Any]]]:
    """The teardown report that a run materialised."""
    found = [event.materialization for event in ran.events if event.event_type_value == "ASSET_MATERIALIZATION"]
    (one,) = [event for event in found if event.asset_key == dg.AssetKey([name, "teardown_report"])]
    return {key: one.metadata[key].value for key in ("removed", "kept", "left")}  # type: ignore[misc]


def exists(clone: Clone, *key: str) -> bool:
    """Whether Dagster shows an asset as materialised."""
    return clone.instance.get_latest_materialization_event(dg.AssetKey(list(key))) is not None


def test_the_model_is_withdrawn_before_anything_is_touched(clone: Clone, world: World) -> None:
    """Disarms the loop first: else it would heal what the teardown removes."""
    clone.up()
    seen: list[tuple[str, bool, bool]] = []
    world.on_call = lambda what: seen.append((what[0], clone.decisions().wanted, exists(clone, "demo", "deployment")))

    ran = clone.down()

    assert ran.success
    assert seen and not any(wanted or shown for _, wanted, shown in seen)


def test_it_goes_from_leaf_to_root(clone: Clone, world: World) -> None:
    """No request is sent to what is going; then the service, its route, its room."""
    clone.serve()
    live = f"demo-{clone.live()}"
    world.calls.clear()

    clone.down()

    assert [call[:2] for call in world.calls] == [("closed", "demo"), ("removed", live), ("unrouted", "demo"), ("room deleted", live)]
    assert world.running == {} and world.front is None


def test_it_is_heard_while_a_source_is_slow_to_tell_what_is_planned_with(clone: Clone, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan of a rollout asks the source. A `down` meanwhile ends that wait, and nothing is made."""

    def slow(_: Weights, __: Release, progress: Progress) -> Outline:
        clone.decisions().want(False, "ann")
        return progress.until(lambda: None)

    monkeypatch.setattr(Weights, "outline", slow)

    ran = clone.up()

    assert set(ran.pages) == {"cluster"} and not world.done("started")
    assert not clone.decisions().wanted


def test_data_is_kept_and_listed_with_its_size(clone: Clone, world: World) -> None:
    """Weights and image cost minutes to bring back; records are the history."""
    clone.serve()
    release = clone.live() or ""

    found = report(clone.down())

    assert world.stored and world.images and clone.record(release).accepted
    assert [row["bytes"] for row in found["kept"]] == [4_000_012, 1_000]
    assert [row["part"] for row in found["removed"]] == ["ray_service", "endpoint"] and found["left"] == []
    assert clone.live() is None and clone.decisions().claim(0) is None


def test_only_what_ceases_to_exist_is_wiped_from_the_graph(clone: Clone) -> None:
    """Weights, image and the proof of the last candidate keep their pages; the rest reads "never materialized"."""
    clone.up()

    clone.down()

    gone = {stage for stage in ("deployment", "gpu_nodepool", "ray_service", "endpoint") if not exists(clone, "demo", stage)}
    kept = {stage for stage in ("model_weights", "image", "smoke_test", "teardown_report") if exists(clone, "demo", stage)}
    assert gone == {"deployment", "gpu_nodepool", "ray_service", "endpoint"}
    assert kept == {"model_weights", "image", "smoke_test", "teardown_report"}
    assert exists(clone, "local", "cluster")


def test_a_purge_removes_data_and_records_too(clone: Clone, world: World) -> None:
    """On demand only."""
    clone.serve()

    found = report(clone.down(purge=True))

    assert not world.stored and not world.images and "demo" not in world.records.owners()
    assert {row["part"] for row in found["removed"]} == {"ray_service", "endpoint", "model_weights", "image", "records"}
    assert found["kept"] == []


def test_a_purge_leaves_what_another_model_uses(clone: Clone, world: World) -> None:
    """Two models of the same files and image share both."""
    clone.declare("other", served_name="other")
    clone.up()
    clone.serve("other")

    found = report(clone.down(purge=True))

    assert world.stored and world.images
    assert world.done("weights deleted") == world.done("image deleted") == []
    assert {row["part"] for row in found["removed"]} == {"ray_service", "endpoint", "records"}
    assert list(world.running) == [f"other-{clone.live('other')}"] and world.front is not None


def test_twice_is_once(clone: Clone, world: World) -> None:
    """The second finds nothing to remove, and is green."""
    clone.serve()
    clone.down()
    world.calls.clear()

    again = clone.down()

    assert again.success and report(again)["removed"] == []
    assert [call for call in world.calls if call[0] != "room deleted"] == []


def test_a_model_that_was_never_up_is_down(clone: Clone) -> None:
    """An empty report, not an error."""
    ran = clone.down()

    assert ran.success and report(ran) == {"removed": [], "kept": [], "left": []}


@pytest.mark.parametrize("where", ["closed", "removed", "unrouted", "room deleted"])
def test_half_killed_it_goes_on_where_it_stopped(clone: Clone, world: World, where: str) -> None:
    """Killed at any point, the next run finishes, and nothing is left."""
    clone.up()
    world.on_call = lambda what: (_ for _ in ()).throw(RuntimeError("killed")) if what[0] == where else None
    killed = clone.down()
    world.on_call = lambda _: None

    ran = clone.down()

    assert not killed.success and ran.success
    assert world.running == {} and world.front is None and clone.live() is None
    assert not exists(clone, "demo", "ray_service") and not exists(clone, "demo", "endpoint")


def test_it_works_without_the_yaml(clone: Clone, world: World) -> None:
    """Somebody removed the folder of a model that serves: records and platform are enough."""
    clone.serve()
    clone.forget("demo")

    ran = clone.down()

    assert ran.success and world.running == {} and not clone.decisions().wanted


def test_a_name_that_nobody_knows_is_told(clone: Clone) -> None:
    """Neither declared nor recorded nor running."""
    ran = clone.down("nobody")

    assert ran.problem.what == "nothing is called nobody" and ran.problem.next == "llm-pipeline status"


def test_what_runs_is_drained_first(clone: Clone, world: World) -> None:
    """Two readings of zero, or the declared seconds."""
    clone.serve()
    live = f"demo-{clone.live()}"
    world.readings[live] = [0, 0]

    clone.down()

    assert world.readings[live] == []


def test_a_teardown_that_leaves_something_fails_and_lists_it(clone: Clone, world: World) -> None:
    """Never "down" on the word of a delete: what is still seen is the report."""
    clone.serve()
    live = f"demo-{clone.live()}"
    world.sticky.append(Leftover("ray_service", live, "local", "demo", live, "it carries our mark"))

    ran = clone.down()

    assert not ran.success and ran.problem.what == "1 things of demo are left"
    assert ran.problem.why == f"ray_service {live}" and "leftovers --delete" in (ran.problem.next or "")
    assert report(ran)["left"] == [{"part": "ray_service", "id": live, "what": "it carries our mark"}]


def test_a_cluster_with_wanted_models_is_refused(clone: Clone, world: World) -> None:
    """Taking the floor away under a model that somebody wants needs to be said."""
    clone.serve()

    ran = clone.down("local")

    assert ran.problem.what == "cluster local carries wanted models: demo"
    assert ran.problem.next == "llm-pipeline down --cluster local --include-models"
    assert clone.decisions().wanted and len(world.running) == 1


def test_a_cluster_takes_its_models_along_when_told(clone: Clone, world: World) -> None:
    """Models first, then the place; a model that no YAML declares any more too."""
    clone.declare("other", served_name="other")
    clone.up()
    clone.serve("other")
    clone.forget("other")

    ran = clone.down("local", include_models=True)

    assert ran.success, ran.problems
    assert world.running == {} and world.front is None and world.identity is None
    assert world.records.get("local", "identity") is None and not exists(clone, "local", "cluster")
    assert {row["part"] for row in report(ran, "local")["removed"]} == {"ray_service", "endpoint"}


def test_a_cluster_without_wanted_models_goes_without_being_told(clone: Clone, world: World) -> None:
    """Nobody wants what is on it."""
    clone.serve()
    clone.down()

    assert clone.down("local").success and world.identity is None


def test_after_a_teardown_up_brings_everything_back(clone: Clone, world: World) -> None:
    """The same release, from the weights that were kept."""
    clone.serve()
    before = clone.live()
    clone.down()

    ran = clone.up()

    assert ran.success and clone.live() == before
    assert ran.changed["model_weights"] is False and len(world.done("fetched")) == 1


def test_leftovers_are_what_nobody_wants_and_no_rollout_claims(clone: Clone, world: World) -> None:
    """The live release, a claimed candidate, the router of a wanted model and data are none."""
    clone.declare("other", served_name="other")
    clone.up()
    clone.serve("other")
    assert leftovers(world.platform, "local") == ()

    clone.decisions("other").want(False, "bob")
    names = [(found.part, found.model) for found in leftovers(world.platform, "local")]

    assert names == [("ray_service", "other")]


def test_without_a_router_each_models_own_service_may_be_left_over(clone: Clone, world: World) -> None:
    """A router serves all who are wanted; a Service only its own model."""
    clone.serve()
    world.sticky += [Leftover("endpoint", f"service, {name}", "local", name, None, "it carries our mark") for name in ("demo", "gone")]
    beside_a_router = leftovers(world.platform, "local")
    world.blind = True

    found = leftovers(world.platform, "local")

    assert beside_a_router == ()
    assert [one.model for one in found] == ["gone"]


def test_a_candidate_without_a_claim_is_left_over(clone: Clone, world: World) -> None:
    """Its run died between the start and the verdict."""
    clone.serve()
    world.source["demo"] = "v2"
    clone.execute(clone.queue([("demo", stage) for stage in ("deployment", "model_weights", "image", "gpu_nodepool", "ray_service")]))
    claimed = leftovers(world.platform, "local")
    clone.decisions().write("claim", None)

    (found,) = leftovers(world.platform, "local")

    assert claimed == () and found.release == f"demo-{clone.newest().id}"


def test_the_leftovers_are_observed_and_never_materialised(clone: Clone, world: World) -> None:
    """On the cluster's page, with a number that is plotted."""
    clone.serve()
    clone.decisions().want(False, "bob")

    ran = clone.execute(clone.queue([("local", "leftovers")]))

    (event,) = [event for event in ran.events if event.event_type_value == "ASSET_OBSERVATION"]
    assert event.asset_observation_data.asset_observation.metadata["count"].value == 2
