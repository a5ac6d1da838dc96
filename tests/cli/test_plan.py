"""`plan`: its document, its exit codes, its screens. What `up` asks a person is in test_plan_asks.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from infra.errors import ConfigError, Transient
from infra.planner import Prices
from infra.states import Difference, Fit, Traffic
from llm_pipeline import console, machines, plan_screen
from tests.assets.clone import Clone
from tests.cli.screen import Terminal, plain, same
from tests.doubles.parts import Room
from tests.doubles.platform import World

PARTS = ["cluster", "deployment", "model_weights", "image", "gpu_nodepool", "ray_service", "smoke_test", "endpoint"]
KEYS = {"model", "parts", "outage_s", "usd_per_hour", "fits"}
ACTIONS = {"none", "in_place", "new_release", "recreate", "create"}


@pytest.fixture
def served(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> str:
    """The model serves; every duration is 1.2 s long. The release's id."""
    monkeypatch.setattr(console, "ago", lambda seconds: "-" if seconds is None else "1.2 s")
    return clone.serve()


# ---------------------------------------------------------------- the document


def test_the_document_has_the_keys_that_scripts_rely_on(terminal: Terminal, clone: Clone, world: World, served: str) -> None:
    """Of a change: every part with its action and fields, the outage, the price, the planner's word; changing nothing."""
    clone.declare(engine={"max_model_len": 256, "max_num_seqs": 4, "dtype": "bfloat16"})
    before = (list(world.calls), {name: record.version for name, record in world.records.list("demo").items()})

    screen = terminal("plan", "demo", "--json")

    found = screen.document
    assert screen.code == 10 and set(found) >= KEYS and list(found["parts"]) == PARTS
    assert all(set(part) >= {"action", "fields", "seconds"} and part["action"] in ACTIONS for part in found["parts"].values())
    assert {name: part["action"] for name, part in found["parts"].items() if part["action"] != "none"} == {"ray_service": "new_release", "smoke_test": "new_release", "endpoint": "in_place"}
    assert found["parts"]["ray_service"]["fields"] == ["engine.max_model_len"]
    assert found["parts"]["ray_service"]["changes"] == [{"field": "engine.max_model_len", "from": 512, "to": 256}]
    assert found["outage_s"] == 0 and found["usd_per_hour"] == {"before": 0.0, "after": 0.0, "why": None} and found["fits"]["verdict"] == "fits"
    assert before == (world.calls, {name: record.version for name, record in world.records.list("demo").items()})


def test_what_is_as_declared_is_zero(terminal: Terminal, served: str) -> None:
    """Nothing to do in any part."""
    screen = terminal("plan", "demo", "--json")

    assert screen.code == 0 and screen.document["result"] == "unchanged"
    assert {part["action"] for part in screen.document["parts"].values()} == {"none"} and screen.document["seconds"] == {"median": 0.0, "p95": 0.0}


def test_without_names_it_is_a_list_of_what_up_would_take(terminal: Terminal, clone: Clone) -> None:
    """autostart, and what is wanted; the worst exit code counts."""
    clone.declare("other", served_name="other")
    clone.declare("third", served_name="third", autostart=False)
    clone.serve()

    screen = terminal("plan", "--json")

    assert [(row["model"], row["result"]) for row in screen.document] == [("demo", "unchanged"), ("other", "changes")] and screen.code == 10


def test_seconds_come_from_the_models_own_history(terminal: Terminal, clone: Clone, world: World) -> None:
    """Null before anything was measured; then the median, and what 95 of 100 do not exceed; weights by the speed of earlier ones."""
    first = terminal("plan", "demo", "--json").document
    clone.up()
    world.source["demo"] = "v2"

    second = terminal("plan", "demo", "--json").document

    assert first["seconds"] == {"median": None, "p95": None} and first["parts"]["ray_service"]["seconds"] is None
    assert second["parts"]["ray_service"]["seconds"] == second["parts"]["ray_service"]["p95"] == 3.1
    assert all(second["parts"][name]["seconds"] is not None for name in PARTS) and second["seconds"]["median"] >= 3.1
    assert second["parts"]["model_weights"]["fields"] == ["revision"]


def test_without_room_the_outage_is_as_long_as_its_usual_start(terminal: Terminal, clone: Clone, world: World) -> None:
    """What `up` announces is what `plan` says."""
    clone.up()
    world.source["demo"], world.fits = "v2", False

    found = terminal("plan", "demo", "--json").document
    up = terminal("up", "demo")

    assert found["parts"]["ray_service"]["action"] == "recreate" and found["outage_s"] == 3.1 and found["room"] == {"fits": False, "why": "needs 4 GiB, 1 is free", "strategy": "recreate"}
    assert "nothing answers for about 3 s (needs 4 GiB, 1 is free)" in " ".join(up.err.split())


def test_what_is_dead_is_room_for_the_next_one_and_what_lives_is_not(terminal: Terminal, clone: Clone, world: World, served: str) -> None:
    """`fail` is told before, and so it ends; what answers nobody goes first."""
    clone.declare(release={"without_room": "fail"})
    world.source["demo"], world.memory = "v2", 4
    lives, failed = terminal("plan", "demo", "--json").document, terminal("up", "demo")
    world.kill(f"demo-{served}")

    dead, done = terminal("plan", "demo", "--json").document, terminal("up", "demo")

    assert lives["room"]["strategy"] == "fail" and lives["room"]["fits"] is False and failed.code == 1
    assert dead["room"] == {"fits": True, "why": "needs 4 GiB, 4 are free", "strategy": "first"} and dead["outage_s"] == 0 and done.code == 0


def test_price_before_and_after(terminal: Terminal, clone: Clone, world: World, served: str) -> None:
    """As the platform tells it; unknown is null."""
    clone.declare(engine={"max_model_len": 256})
    world.usd = 1.25
    known = terminal("plan", "demo", "--json").document["usd_per_hour"]
    world.usd = None

    assert known == {"before": 1.25, "after": 1.25, "why": None}
    assert terminal("plan", "demo", "--json").document["usd_per_hour"] == {"before": None, "after": None, "why": "the price list is silent"}


def test_another_number_of_replicas_has_its_price(terminal: Terminal, clone: Clone, world: World, served: str) -> None:
    """It is done in place; and of a candidate that waits for a person both are paid for until somebody says a word."""
    world.usd = 1.25
    clone.declare(replicas={"min": 1, "max": 2})
    in_place = terminal("plan", "demo", "--json").document
    clone.declare(updates={"policy": "approve"})
    world.source["demo"] = "v2"

    assert in_place["parts"]["ray_service"]["action"] == "in_place" and in_place["usd_per_hour"] == {"before": 1.25, "after": 1.25, "why": None}
    assert terminal("plan", "demo", "--json").document["usd_per_hour"] == {"before": 1.25, "after": 2.5, "why": None}


def test_what_a_cluster_lacks_is_announced_and_installed(terminal: Terminal, world: World, served: str) -> None:
    """Somebody removed the operator: what serves goes on, and `up` is not done before it is there again."""
    world.lacks = (Difference("Deployment", "kuberay-operator", "kubernetes.kuberay", None, "1.6.1"),)
    plan, up = terminal("plan", "demo", "--json").document, terminal("up", "demo", "--json").document

    assert {name: part["action"] for name, part in plan["parts"].items() if part["action"] != "none"} == {"cluster": "in_place"}
    assert plan["parts"]["cluster"]["changes"] == [{"field": "kubernetes.kuberay", "from": None, "to": "1.6.1"}]
    assert [name for name, done in up["changed"].items() if done] == ["cluster"] and terminal("plan", "demo").code == 0


def test_a_pool_of_our_own_is_announced_and_made(terminal: Terminal, world: World) -> None:
    """Also where nothing else is to do: what serves stays, and the pool gets what was declared."""
    pool = Difference("NodePool", "llm-pipeline-lab-llm", "", None, "is there")
    world.machines = (pool,)
    first, up = terminal("plan", "demo", "--json").document, terminal("up", "demo", "--json").document
    world.machines = (replace(pool, field="kubernetes.nodepool.limits.cpu", live="8", declared="16"),)
    edited, changed = terminal("plan", "demo", "--json"), terminal("up", "demo", "--json").document

    assert (first["parts"]["gpu_nodepool"]["action"], first["parts"]["gpu_nodepool"]["why"]) == ("create", "NodePool llm-pipeline-lab-llm") and up["changed"]["gpu_nodepool"]
    assert edited.code == 10 and {name: part["action"] for name, part in edited.document["parts"].items() if part["action"] != "none"} == {"gpu_nodepool": "in_place"}
    assert edited.document["parts"]["gpu_nodepool"]["changes"] == [{"field": "kubernetes.nodepool.limits.cpu", "from": "8", "to": "16"}]
    assert [name for name, done in changed["changed"].items() if done] == ["gpu_nodepool"] and terminal("plan", "demo").code == 0


def test_a_pool_that_can_not_be_made_ends_the_rollout_before_it_begins(terminal: Terminal, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the plan says why."""

    def refused(*_: Any) -> None:
        raise ConfigError("the cluster has no Karpenter", why="it knows no NodePool")

    monkeypatch.setattr(Room, "observe", refused)

    found = terminal("plan", "demo", "--json").document

    assert found["room"] == {"fits": False, "why": "the cluster has no Karpenter: it knows no NodePool", "strategy": "fail"}


def test_what_goes_anyway_is_no_obstacle(terminal: Terminal, clone: Clone, world: World, served: str) -> None:
    """A candidate that was left takes the room that the next one needs: it is removed first, so both stand until the switch."""
    world.memory, world.source["demo"] = 8, "v2"
    clone.declare(updates={"policy": "approve"})
    assert terminal("up", "demo").code == 3
    clone.declare()
    world.source["demo"] = "v3"

    planned, done = terminal("plan", "demo", "--json").document, terminal("up", "demo", "--json")

    assert planned["room"]["strategy"] == "blue_green" and len(planned["removes"]) == 1 and planned["outage_s"] == 0
    assert done.code == 0 and done.document["outage_seconds"] is None


def test_a_wait_for_room_that_would_never_come_is_a_failure(terminal: Terminal, clone: Clone, world: World, served: str) -> None:
    """Alone it would not fit either: the stage gpu_nodepool says so at once, and nobody waits."""
    clone.declare(release={"without_room": "wait"})
    world.memory, world.source["demo"] = 3, "v2"

    assert terminal("plan", "demo", "--json").document["room"]["strategy"] == "fail"


def test_a_candidate_that_waits_for_a_person_gets_no_traffic_by_itself(terminal: Terminal, clone: Clone, world: World, served: str) -> None:
    """The plan says so before, and is refused like `up` while it waits."""
    clone.declare(updates={"policy": "approve"})
    world.source["demo"] = "v2"

    planned = terminal("plan", "demo", "--json").document
    up = terminal("up", "demo")
    waits = terminal("plan", "demo", "--json")

    assert planned["parts"]["endpoint"]["action"] == "none" and planned["parts"]["ray_service"]["action"] == "new_release"
    assert up.code == 3 and waits.code == 3 and "approve" in waits.document["problem"]["why"]


def test_what_up_would_refuse_is_three_with_its_reason(terminal: Terminal, clone: Clone, world: World, served: str) -> None:
    """A mark; and a cluster that is another place than before."""
    world.never_ready, world.source["demo"] = False, "v2"
    world.start_errors.append(ConfigError("no such argument"))  # type: ignore[arg-type]
    clone.up()
    marked = terminal("plan", "demo", "--json")
    world.source["demo"], world.identity = "v3", {"machine": "another"}
    moved = terminal("plan", "demo", "--json")

    assert marked.code == 3 and "marked failed" in marked.document["problem"]["what"] and "retry" in marked.document["problem"]["next"]
    assert moved.code == 3 and moved.document["problem"]["what"] == "cluster local is not the place that it was"


def test_a_silent_source_is_told_with_what_is_known(terminal: Terminal, clone: Clone, world: World) -> None:
    """Nothing was ever admitted: one, unknown is null. Admitted before: the plan goes on with that, and says so."""
    world.source_error = Transient("the Hub is not reached", why="no route")
    first = terminal("plan", "demo", "--json")
    world.source_error = None
    clone.serve()
    world.source_error = Transient("the Hub is not reached")
    later = terminal("plan", "demo", "--json")

    parts = {name: part["action"] for name, part in first.document["parts"].items()}
    assert first.code == 1 and first.document["result"] == "unknown" and first.document["problem"]["what"] == "the Hub is not reached"
    assert parts == dict.fromkeys(PARTS) | {"cluster": "create", "deployment": "create"} and first.document["outage_s"] is None
    assert later.code == 0 and "was not reached" in later.document["notes"][0]


def test_a_platform_that_can_not_be_asked_is_null_and_never_a_guess(terminal: Terminal, clone: Clone, world: World, served: str) -> None:
    """Services are silent: what hangs on them is unknown, the rest is told."""
    world.silent = Transient("the API server does not answer")

    screen = terminal("plan", "demo", "--json")

    parts = {name: part["action"] for name, part in screen.document["parts"].items()}
    assert screen.code == 10 and [parts[name] for name in ("ray_service", "smoke_test", "endpoint")] == [None] * 3
    assert parts["cluster"] == "none" and screen.document["seconds"]["median"] is None and screen.document["outage_s"] is None


def test_a_sleeping_model_is_left_by_a_bare_plan_and_woken_by_name(terminal: Terminal, clone: Clone, world: World, served: str) -> None:
    """As `up` does; with how long waking takes, and whether a client with two retries waits so long."""
    world.idle, world.traffic["demo"] = 0, Traffic(0, 7, 7, 0, boot="b1", serving=True)
    assert terminal("sleep", "demo").code == 0

    bare, named = terminal("plan", "--json"), terminal("plan", "demo", "--json")

    assert (bare.code, bare.document["result"]) == (0, "asleep") and (named.code, named.document["result"]) == (10, "changes")
    assert named.document["asleep"]["wake_seconds"] > 15 and named.document["asleep"]["bridged"] is True
    assert named.document["parts"]["ray_service"]["action"] == "create" and named.document["outage_s"] == 0


# ---------------------------------------------------------------- machines


@pytest.fixture
def dated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The snapshot, on a day that does not move."""
    real = machines.as_dict

    def then(found: Any, asked: Any, today: Any) -> dict[str, Any]:
        out = real(found, asked, found.prices.day)
        out["warnings"] = [one for one in out["warnings"] if "days old" not in one]
        return out

    monkeypatch.setattr(machines, "as_dict", then)


def test_machines_are_the_cheapest_first_and_every_other_type_has_a_reason(terminal: Terminal, clone: Clone, dated: None) -> None:
    """Also for a model that this machine runs without a GPU."""
    found = terminal("plan", "demo", "--json", "--max-usd-per-hour", "1.5").document["capacity"]

    prices = [one["usd_per_hour"] for one in found["candidates"]]
    assert prices and prices == sorted(prices) and max(prices) <= 1.5
    assert len(found["candidates"]) + len(found["rejected"]) == len(machines.catalogue().instances) and all(row["why"] for row in found["rejected"])
    assert set(found["candidates"][0]) >= {"instance", "count", "gpu", "gpus", "tensor_parallel_size", "usd_per_hour", "margin"}
    assert set(found["prices"]) >= {"region", "day", "age_days", "source"}
    assert terminal("plan", "demo", "--json").document["capacity"] is None


def test_old_prices_are_warned_of(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """With their day and their age."""
    monkeypatch.setattr(machines.pricing, "current", lambda region, *_: Prices(region, machines.date(2020, 1, 1), {"g6.xlarge": 0.8}, note="AWS was asked in vain"))

    screen = terminal("plan", "demo", "--region", "us-east-1")

    assert "days old (2020-01-01" in " ".join(screen.out.split()) and "AWS was asked in vain" in screen.out


@pytest.mark.parametrize(
    ("words", "told"),
    [(("--gpu", "K80"), "it has T4, A10G, L4"), (("--region", "us-esat1"), "us-east-1"), (("--max-usd-per-hour", "-1"), "above 0"), (("--max-usd-per-hour", "cheap"), "--max-usd-per-hour"), (("--price", "1"), "--price")],
)  # fmt: skip
def test_bad_input_is_two_and_names_what_is_allowed(terminal: Terminal, words: tuple[str, ...], told: str) -> None:
    """Before anything is looked at."""
    screen = terminal("plan", "demo", *words)

    assert screen.code == 2 and told in " ".join(screen.err.split()) and screen.out == "" and "Traceback" not in screen.err


# ---------------------------------------------------------------- screens


def test_the_screen_of_a_first_start(terminal: Terminal) -> None:
    """Everything is made; nothing was measured yet."""
    screen = terminal("plan", "demo")

    assert screen.code == 10
    same("plan-first", plain(screen.out + screen.err))


def test_the_screen_of_an_edit(terminal: Terminal, clone: Clone, served: str) -> None:
    """Old and new values; what goes on; what counts without a run."""
    clone.up()
    clone.declare(engine={"max_model_len": 256, "max_num_seqs": 4, "dtype": "bfloat16"}, release={"drain_seconds": 5})

    screen = terminal("plan", "demo")

    assert screen.code == 10
    same("plan-edit", plain(screen.out + screen.err))


def test_the_screen_of_an_outage(terminal: Terminal, clone: Clone, world: World, served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no room for two, the price is not known, and the planner has a doubt."""
    world.source["demo"], world.fits, world.usd = "v2", False, None
    monkeypatch.setattr(Room, "fits", lambda *_: Fit("refused", "needs 24.0 GiB, an L4 has 22.0", "use 2 x L4 (engine.tensor_parallel_size)", "1 x L4"))

    screen = terminal("plan", "demo")

    assert screen.code == 10
    same("plan-outage", plain(screen.out + screen.err))


def test_the_screens_of_nothing_sleep_and_silence(terminal: Terminal, clone: Clone, world: World, served: str) -> None:
    """One after the other: as declared, asleep, not to be told."""
    world.idle, world.traffic["demo"] = 0, Traffic(0, 7, 7, 0, boot="b1", serving=True)
    screens = [terminal("plan")]
    assert terminal("sleep", "demo").code == 0
    screens += [terminal("plan"), terminal("plan", "demo")]
    clone.declare("new", served_name="new")
    world.source_error = Transient("the Hub is not reached", why="no route", next="try again")
    screens.append(terminal("plan", "new"))

    assert [screen.code for screen in screens] == [0, 0, 10, 1]
    same("plan-others", plain("".join(f"{screen.out}{screen.err}\n" for screen in screens)))


def test_the_screen_of_machines(terminal: Terminal, served: str, dated: None) -> None:
    """Cheapest first, the rest by reason."""
    screen = terminal("plan", "demo", "--max-usd-per-hour", "2")

    assert screen.code == 0
    same("plan-machines", plain(screen.out + screen.err))


@pytest.mark.parametrize(("median", "p95", "told"), [(75.0, 75.0, "takes          about 1 min 15 s"), (75.0, 90.0, "takes          about 1 min 15 s; 95 of 100 take 1 min 30 s at most")])
def test_one_measurement_is_not_told_as_if_it_were_a_hundred(terminal: Terminal, clone: Clone, median: float, p95: float, told: str) -> None:
    """What took 75 s the only time says nothing of 95 in 100."""
    found = terminal("plan", "demo", "--json").document

    lines = [text for text, _ in plan_screen.lines({**found, "seconds": {"median": median, "p95": p95}})]

    assert told in lines


def test_what_can_not_be_told_is_not_called_unmeasured(terminal: Terminal, clone: Clone) -> None:
    """A service that does not answer was measured often enough."""
    found = terminal("plan", "demo", "--json").document
    found["parts"] = {name: {**part, "seconds": 1.0} for name, part in found["parts"].items()}
    found["parts"]["ray_service"]["action"] = None

    assert "takes          not known: not all of it can be told" in [text for text, _ in plan_screen.lines(found)]


def test_a_revision_is_told_as_history_tells_it() -> None:
    """By its first ten letters: twice forty would fill three lines."""
    assert plan_screen.changed({"field": "revision", "from": 64 * "a", "to": 64 * "b"}) == f"revision {10 * 'a'} -> {10 * 'b'}"
