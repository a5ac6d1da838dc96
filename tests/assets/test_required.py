"""Asset checks elsewhere that a candidate has to pass too: whose word counts, how long it is waited for, and what silence means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from assets import required
from tests.assets.clone import DEMO, Clone, Ran
from tests.doubles.platform import World

ASSET, CHECK = dg.AssetKey(["evals", "demo"]), "accuracy"
NAME = "evals/demo:accuracy"


class Canary:
    """An evaluation in another code location, which a sensor starts when a candidate is up. `says`: its answer to what ray_service told."""

    def __init__(self, clone: Clone) -> None:
        self.clone = clone
        self.says: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda page: {"passed": True, "metadata": {"release": page["release"], "run": page["run"]}}
        self.judged: list[str] = []
        clone.world.on_observe = lambda _: self.look()

    def look(self) -> None:
        """What its sensor does: once for each time that a candidate came up."""
        event = self.clone.instance.get_latest_materialization_event(dg.AssetKey(["demo", "ray_service"]))
        if event and event.asset_materialization and event.run_id not in self.judged:
            self.judged.append(event.run_id)
            page = {name: value.value for name, value in event.asset_materialization.metadata.items()}
            if told := self.says({**page, "run": event.run_id}):
                self.report(**told)

    def report(self, **told: Any) -> None:
        self.clone.instance.report_runless_asset_event(dg.AssetCheckEvaluation(asset_key=ASSET, check_name=CHECK, **told))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits two seconds for what is there."""
    monkeypatch.setattr(required, "EVERY", 0.01)


@pytest.fixture
def canary(clone: Clone) -> Canary:
    rules(clone)
    return Canary(clone)


def rules(clone: Clone, within: int = 600, *names: str) -> None:
    clone.declare(acceptance={**DEMO["acceptance"], "requires": list(names or [NAME]), "requires_within": within})


def rung(ran: Ran) -> bool | None:
    return ran.checks.get("required_checks_passed")


def test_a_candidate_that_the_canary_passes_goes_live(clone: Clone, canary: Canary) -> None:
    """It is asked at an address of its own, by the id that its page gives."""
    told: list[dict[str, Any]] = []
    answer = canary.says
    canary.says = lambda page: told.append(page) or answer(page)  # type: ignore[func-returns-value]

    ran = clone.up()

    assert ran.success and rung(ran) is True and clone.live() == told[0]["release"]
    assert told[0]["address"].startswith("http://127.0.0.1:") and told[0]["address"].endswith("/v1")


def test_one_that_it_fails_is_refused_with_the_checks_own_words(clone: Clone, canary: Canary, world: World) -> None:
    """Removed and marked, as at any other rung; what serves, serves on."""
    assert clone.up().success
    live, world.source["demo"] = clone.live(), "v2"
    canary.says = lambda page: {"passed": False, "description": "3 of 5 answers are wrong", "metadata": {"release": page["release"]}}

    ran = clone.up()

    found = clone.newest()
    assert ran.failed == ["smoke_test"] and ran.problem.why == f"{NAME}: 3 of 5 answers are wrong"
    assert found.mark and found.mark.kind == "refused" and clone.live() == live and list(world.running) == [f"demo-{live}"]


def test_silence_is_no_verdict_on_the_release(clone: Clone, canary: Canary, world: World) -> None:
    """Nobody said a word about it: the try failed for a reason that may pass, and the candidate does not wait on a GPU for the next one."""
    rules(clone, 0)
    canary.says = lambda _: None

    ran = clone.up()

    found = clone.newest()
    assert ran.problem.what == f"demo-{found.id} was not judged by {NAME}" and "requires_within" in (ran.problem.why or "")
    assert found.mark is None and found.last and (found.last.result, found.last.transient) == ("failed", True)
    assert world.running == {} and rung(ran) is None and clone.decisions().claim(0) is None


def test_what_serves_is_not_left_dead_while_its_successor_waits_for_a_word(clone: Clone, canary: Canary, world: World) -> None:
    """The try ends, and the loop heals what served before it tries again."""
    assert clone.up().success
    live, world.source["demo"] = clone.live(), "v2"

    def dies(_: object) -> None:
        if not world.done("started")[2:]:
            world.kill(f"demo-{live}", "out of memory")

    canary.says = dies  # type: ignore[assignment]
    ran = clone.up()
    (request,) = clone.tick().run_requests or ()

    found = clone.newest().last
    assert "died while" in ran.problem.what and found and (found.result, found.transient) == ("failed", True)
    assert (request.tags["llm/lifecycle"], request.tags["llm/release"]) == ("heal", live) and clone.obey(request).success and clone.live() == live


def test_what_serves_stays_when_nobody_judges_it_by_new_rules(clone: Clone, canary: Canary, world: World) -> None:
    """The rules were edited and the evaluation is silent: the live release is not removed for that."""
    clone.declare()
    live = clone.serve()
    rules(clone, 0)
    canary.says = lambda _: None

    ran = clone.up()

    assert not ran.success and list(world.running) == [f"demo-{live}"] and clone.record(live).mark is None


def test_new_rules_ask_the_canary_about_what_serves(clone: Clone, canary: Canary, world: World) -> None:
    """Nothing starts anew, and yet it is judged: on the page of the bring-up that changed nothing."""
    clone.declare()
    live = clone.serve()
    rules(clone)

    ran = clone.up()

    assert ran.success and rung(ran) is True and clone.live() == live and len(world.done("started")) == 1


@pytest.mark.parametrize(
    "other",
    [{}, {"release": "0123456789"}, {"release": "{release}", "run": "that of an attempt before"}],
    ids=["says nothing", "another release", "an earlier attempt"],
)
def test_a_word_about_something_else_does_not_count(clone: Clone, canary: Canary, other: dict[str, str]) -> None:
    """Neither for it nor against it: the rung goes on waiting."""
    for passed in (True, False):
        rules(clone, 0)
        canary.says = lambda page, passed=passed: {"passed": passed, "metadata": {name: value.format(**page) for name, value in other.items()}}  # type: ignore[misc]

        ran = clone.up()

        assert "was not judged" in ran.problem.what, passed


def test_what_was_said_before_it_came_up_does_not_count(clone: Clone, canary: Canary) -> None:
    """The same release again after a failed try: only what was asked of this candidate tells."""
    rules(clone, 0)
    canary.says = lambda _: None
    clone.up()
    canary.report(passed=True, metadata={"release": clone.newest().id})

    assert "was not judged" in clone.up().problem.what


def test_a_late_no_about_the_attempt_before_refuses_nothing(clone: Clone, canary: Canary) -> None:
    """Its candidate was gone by then, so it found nobody who answers. It names its run, and so it is known."""
    rules(clone, 0)
    canary.says = lambda _: None
    first = clone.up()
    rules(clone)
    canary.says = lambda page: canary.report(passed=True, metadata={"release": page["release"], "run": page["run"]}) or {  # type: ignore[func-returns-value]
        "passed": False, "metadata": {"release": page["release"], "run": first.id},
    }  # fmt: skip

    assert clone.up().success


def test_the_rung_waits_and_says_for_what(clone: Clone, canary: Canary) -> None:
    """An evaluation takes minutes; who looks at the run sees what it waits for."""
    looked: list[int] = []
    answer = canary.says
    pages: list[dict[str, Any]] = []

    def later() -> None:
        looked.append(1)
        if pages and len(looked) > 6:
            canary.report(**(answer(pages[0]) or {}))
        Canary.look(canary)

    canary.says = lambda page: pages.append(page)
    clone.world.on_observe = lambda _: later()

    ran = clone.up()

    assert ran.success
    ((_, detail),) = [phase for phase in ran.phases if phase[0] == "waiting for required checks"]
    assert detail.startswith(f"{NAME} of release {clone.live()}; ")


def test_all_that_are_required_have_to_answer(clone: Clone, canary: Canary) -> None:
    """One yes does not stand for another; the error names who is missing."""
    rules(clone, 0, NAME, "evals/demo:safety")

    assert clone.up().problem.what.endswith("was not judged by evals/demo:safety")


def test_a_no_is_not_kept_waiting_for_the_others(clone: Clone, canary: Canary) -> None:
    """It decides, whatever they say."""
    rules(clone, 600, "evals/demo:safety", NAME)
    canary.says = lambda page: {"passed": False, "metadata": {"release": page["release"]}}

    assert clone.up().problem.why == f"{NAME}: failed"


def test_a_down_ends_the_wait(clone: Clone, canary: Canary, world: World) -> None:
    """Nobody has to wait for an evaluation of what is not wanted any more."""
    canary.says = lambda _: None if clone.decisions().want(False, "bob") else {}

    ran = clone.up()

    assert "was taken down by bob" in ran.log and "endpoint" not in ran.pages
    assert clone.newest().last and clone.newest().last.result == "cancelled"  # type: ignore[union-attr]


def test_a_candidate_that_dies_while_it_is_judged_is_no_refusal(clone: Clone, canary: Canary, world: World) -> None:
    """It may come up at the next try."""

    def die(page: dict[str, Any]) -> None:
        world.dead[f"demo-{page['release']}"] = "killed"

    gone: list[dict[str, Any]] = []
    canary.says = lambda page: gone.append(page)
    first = clone.world.on_observe
    count: list[int] = []

    def later(name: str) -> None:
        first(name)
        if gone:
            count.append(1)
        if len(count) > 3:
            die(gone[0])

    clone.world.on_observe = later

    ran = clone.up()

    assert "died while evals/demo:accuracy judged it" in ran.problem.what
    assert clone.newest().mark is None
