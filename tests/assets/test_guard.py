"""Who may act: only on what somebody wants, only at the place that was recorded, and never more than was asked for."""

from __future__ import annotations

from infra.errors import ConfigError
from llm_pipeline.automation import ROLLOUT
from tests.assets.clone import Clone
from tests.doubles.platform import World

CHAIN = [("demo", stage) for stage in ROLLOUT]


def test_a_run_that_waited_while_the_model_was_taken_down_does_nothing_and_is_green(clone: Clone, world: World) -> None:
    """The queue may hold a run that was launched when the model was still wanted."""
    clone.serve()
    waiting = clone.queue(CHAIN, by="reconcile")
    clone.down(by="bob")

    ran = clone.execute(waiting)

    assert ran.success and ran.pages == {}
    assert "demo was taken down by bob while this run waited: nothing to do" in ran.log
    assert world.running == {} and world.front is None


def test_a_run_of_a_model_that_nobody_wants_fails_with_what_to_do(clone: Clone, world: World) -> None:
    """Never a green nothing: the page says why, and the command that helps."""
    clone.execute(clone.queue([("local", "cluster")]))

    ran = clone.execute(clone.queue(CHAIN))

    assert not ran.success and world.running == {}
    for problem in ran.problems:
        assert problem.what == "nobody wants demo"
        assert problem.why and "deployment" in problem.why
        assert problem.next == "materialise deployment too, or: llm-pipeline up demo"
    assert set(ran.failed) == {"model_weights", "image", "gpu_nodepool"}


def test_a_run_younger_than_the_teardown_is_told_that_nobody_wants_the_model(clone: Clone) -> None:
    """Only runs from before the `down` are excused."""
    clone.serve()
    clone.down()

    ran = clone.execute(clone.queue(CHAIN))

    assert not ran.success and {problem.what for problem in ran.problems} == {"nobody wants demo"}


def test_an_up_that_waited_while_the_model_was_taken_down_wants_nothing(clone: Clone, world: World) -> None:
    """The later word counts, and the later word was `down`."""
    clone.serve()
    waiting = clone.queue_up()
    clone.down(by="bob")

    ran = clone.execute(waiting)

    assert ran.success and set(ran.pages) == {"cluster"}
    assert not clone.decisions().wanted and world.running == {}
    assert "taken down by bob" in ran.log


def test_a_first_up_that_waited_during_a_down_wants_nothing_either(clone: Clone, world: World) -> None:
    """`down` is remembered also for a model that was never up."""
    waiting = clone.queue_up()
    down = clone.down()

    ran = clone.execute(waiting)

    assert down.success and ran.success
    assert not clone.decisions().wanted and world.running == {}


def test_an_up_after_the_down_brings_the_model_up_again(clone: Clone) -> None:
    """A person asked."""
    clone.serve()
    clone.down()

    ran = clone.up()

    assert ran.success and clone.decisions().wanted


def test_one_click_never_starts_every_model(clone: Clone, world: World) -> None:
    """A run that selects several deployments leaves those without autostart alone, says so, and is green."""
    clone.declare("big", autostart=False, served_name="big")
    keys = [("local", "cluster"), *CHAIN, ("demo", "deployment"), *(("big", stage) for stage in ("deployment", *ROLLOUT))]

    ran = clone.execute(clone.queue(keys))

    assert ran.success, ran.problems
    assert clone.decisions().wanted and not clone.decisions("big").wanted
    assert "big is not started together with other models (autostart is false). On its own: llm-pipeline up big" in ran.log
    assert [found.release.model for found in world.running.values()] == ["demo"]


def test_a_model_that_is_wanted_already_takes_part_in_a_common_run(clone: Clone) -> None:
    """The rule is about starting, not about keeping in step."""
    clone.declare("big", autostart=False, served_name="big")
    clone.up("big")

    ran = clone.execute(clone.queue([("demo", "deployment"), ("big", "deployment")]))

    assert ran.success and "deployment" in ran.pages and "not started together" not in ran.log


def test_materialising_a_model_without_its_cluster_names_the_cluster(clone: Clone) -> None:
    """A stage never makes another stage; and it is not the release's fault, so nothing is marked."""
    ran = clone.execute(clone.queue([("demo", "deployment"), *CHAIN]))

    assert not ran.success
    assert {problem.what for problem in ran.problems} == {"cluster local was never materialised"}
    assert clone.newest().mark is None
    assert clone.up().success


def test_another_place_than_the_recorded_one_is_refused_with_both_identities(clone: Clone, world: World) -> None:
    """No delete and no start ever happens at a place that only looks like ours; the release is not to blame."""
    clone.serve()
    world.identity = {"machine": "m2"}

    ran = clone.execute(clone.queue(CHAIN))

    assert not ran.success
    for problem in ran.problems:
        assert problem.why == "recorded {'machine': 'm1'}, found {'machine': 'm2'}"
        assert problem.next and "materialise local/cluster" in problem.next
    assert clone.record(clone.live() or "").mark is None
    assert len(world.running) == 1


def test_only_a_click_on_the_cluster_alone_records_another_place(clone: Clone, world: World) -> None:
    """`up` brings the cluster's stage along, and compares; a move is never believed in passing."""
    clone.serve()
    world.identity = {"machine": "m2"}

    brought_along = clone.up()
    clone.execute(clone.queue([("local", "cluster")]))

    assert brought_along.failed == ["cluster"] and brought_along.problem.why == "recorded {'machine': 'm1'}, found {'machine': 'm2'}"
    assert clone.up().success


def test_a_place_that_lacks_something_is_told_by_a_check_and_nothing_is_made_there(clone: Clone, world: World) -> None:
    """With its fix; mended, the same check passes."""
    world.unfit = ConfigError("the home can not be written", why="read-only file system", next="set LLM_PIPELINE_HOME")
    refused = clone.up()
    made = world.identity
    world.unfit = None

    done = clone.up()

    assert refused.failed == ["cluster"] and refused.problem.next == "set LLM_PIPELINE_HOME" and made is None
    assert (refused.checks["home"], done.checks["home"]) == (False, True)


def test_who_and_why_are_taken_from_the_run(clone: Clone) -> None:
    """A click in the UI leaves no tags: then Dagster's UI is who did it."""
    clone.up(by="ann", why="because")
    by_tags = clone.record(clone.live() or "").attempts[-1]
    clone.declare(engine={"max_model_len": 64})
    clone.execute(clone.queue([("local", "cluster"), ("demo", "deployment"), *CHAIN]))

    by_click = clone.record(clone.live() or "").attempts[-1]
    assert (by_tags.by, by_tags.why) == ("ann", "because")
    assert (by_click.by, by_click.why) == ("dagster ui", "materialised by hand")
