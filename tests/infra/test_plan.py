"""What bringing a release up would change: pure, from facts to actions, seconds and outage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from infra.plan import PARTS, Facts, Headroom, compare, unchanged
from infra.platform import Release
from infra.specs import ModelSpec
from infra.starts import Expected
from infra.states import Difference, EndpointState, ServiceState, digest_of
from infra.weights import File, Manifest

ROOM = Headroom(True, "8 are free", "blue_green")
EXPECTED = {name: Expected(float(number), 10.0 * number) for number, name in enumerate(PARTS, 1)}


def release(revision: str = "a", image: str = "i1", **changed: Any) -> Release:
    spec = ModelSpec.model_validate({"name": "demo", "cluster": "local", "weights": "file://w", **changed})
    return Release(spec, revision, Manifest((File("model.safetensors", 10, "sha256:" + revision * 64),)), image, "file://w")


def ready(of: Release) -> ServiceState:
    return ServiceState(of.name, "demo", "ready", ("127.0.0.1", 1), in_place=of.in_place)


def steady(now: Release, to: Release | None = None, **changed: Any) -> Facts:
    """`now` serves as it was declared, and `to` is wanted instead."""
    to = to or now
    found = Facts(
        place=True, wanted=True, release=to, live=now, accepted=digest_of(now.spec.acceptance.model_dump(mode="json")), weights=True, image=True, service=ready(now) if now.id == to.id else None,
        endpoint=EndpointState("u", healthy=True, release=now.name, hold=now.spec.idle.hold), hold=to.spec.idle.hold, room=ROOM, expected=EXPECTED,
    )  # fmt: skip
    return replace(found, **changed)


def actions(found: Facts) -> dict[str, str | None]:
    """Of the parts to which something is done."""
    return {name: part.action for name, part in compare(found).parts.items() if part.action != "none"}


SWITCH = {"ray_service": "new_release", "smoke_test": "new_release", "endpoint": "in_place"}
AGAIN = {"ray_service": "create", "smoke_test": "create", "endpoint": "in_place"}
A, B = release("a"), release("b")


@pytest.mark.parametrize(
    ("found", "done"),
    [
        (steady(A), {}),
        (steady(A, release("a", engine={"max_model_len": 64})), SWITCH),
        (steady(A, B), SWITCH), (steady(A, B, weights=False), {"model_weights": "new_release", **SWITCH}), (steady(A, release(image="i2"), image=False), {"image": "new_release", **SWITCH}),
        (steady(A, B, room=Headroom(False, "no", "recreate")), SWITCH | {"ray_service": "recreate"}), (steady(A, B, room=Headroom(False, "no", "wait")), SWITCH), (steady(A, B, person=True), {"ray_service": "new_release", "smoke_test": "new_release"}),
        (steady(A, service=None), AGAIN), (steady(A, service=replace(ready(A), phase="dead")), AGAIN), (steady(A, service=replace(ready(A), phase="suspended")), AGAIN),
        (steady(A, release(replicas={"max": 2})), {"ray_service": "in_place"}), (steady(A, release(acceptance={"slo": {"ttft_ms": 9.0}})), {"smoke_test": "in_place"}),
        (steady(A, release(idle={"hold": {"seconds": 1}})), {"endpoint": "in_place"}), (steady(A, release(description="x")), {}), (steady(A, release(updates={"policy": "manual"})), {}),
        (steady(A, endpoint=None), {"endpoint": "create"}), (steady(A, endpoint=EndpointState("u", healthy=False)), {"endpoint": "create"}), (steady(A, weights=False), {"model_weights": "create"}),
        (steady(A, place=False, wanted=False, live=None, accepted=None, weights=False, image=False, service=None, endpoint=None, room=Headroom(True, "", "first")),
         {name: "create" for name in PARTS if name != "gpu_nodepool"}),
        (steady(A, installs=(Difference("Deployment", "kuberay-operator", "kubernetes.kuberay", None, "1.6.1"),)), {"cluster": "in_place"}),
        (steady(A, B, service=ready(B)), {"smoke_test": "new_release", "endpoint": "in_place"}),
    ],
)  # fmt: skip
def test_what_is_done_to_each_part(found: Facts, done: dict[str, str]) -> None:
    """The rest is left as it is."""
    assert actions(found) == done


@pytest.mark.parametrize(
    ("found", "unknown"),
    [
        (steady(A, unknown="silent"), {"ray_service", "smoke_test", "endpoint"}), (steady(A, unrouted="silent"), {"endpoint"}), (steady(A, weights=None), {"model_weights"}), (steady(A, place=None), {"cluster"}),
        (steady(A, B, room=Headroom(None, "silent", None)), {"gpu_nodepool", "ray_service", "smoke_test", "endpoint"}),
    ],
)  # fmt: skip
def test_what_can_not_be_told_is_none(found: Facts, unknown: set[str]) -> None:
    """And has no seconds; what hangs on it neither, nor the whole."""
    plan = compare(found)

    assert {name for name, part in plan.parts.items() if part.action is None} == unknown
    assert all(plan.parts[name].expected is None for name in unknown) and (plan.expected is None or unknown == {"cluster"})


def test_an_outage_is_what_a_start_takes_and_only_where_the_old_one_goes_first() -> None:
    """Never measured: not known."""
    recreated = steady(A, B, room=Headroom(False, "no", "recreate"))

    assert compare(recreated).outage == EXPECTED["ray_service"].median
    assert compare(replace(recreated, expected={})).outage is None and compare(steady(A, unknown="silent")).outage is None
    assert compare(steady(A, B)).outage == compare(steady(A)).outage == compare(steady(A, service=None)).outage == 0.0


def test_the_whole_takes_as_long_as_its_longest_way() -> None:
    """Weights and image come side by side; the rest follows."""
    both = compare(steady(A, release("b", image="i2"), weights=False, image=False)).expected

    longest, after = EXPECTED["image"], [EXPECTED[name] for name in ("ray_service", "smoke_test", "endpoint")]
    assert both == Expected(longest.median + sum(one.median for one in after), longest.p95 + sum(one.p95 for one in after))
    assert compare(steady(A)).expected == Expected(0.0, 0.0)


def test_a_field_stands_where_it_acts_and_one_that_leads_nowhere_else_counts_without_a_run() -> None:
    """Another address of the same bytes changes nothing; of other bytes it is why."""
    moved, same = release("b", weights="file://other"), release("a", weights="file://other", image="i1")

    fields = {name: [one.field for one in part.edits] for name, part in compare(steady(A, moved, weights=False)).parts.items() if part.edits}
    assert fields == {"model_weights": ["revision", "weights"], "ray_service": ["revision", "weights"]}
    assert [one.field for one in compare(steady(A, same)).counted] == ["weights"] and actions(steady(A, same)) == {}


def test_nothing_to_do_is_told_as_such() -> None:
    """Every part, and what was edited without an effect on any."""
    plan = unchanged(release(description="x"), A)

    assert {part.action for part in plan.parts.values()} == {"none"} and [one.field for one in plan.counted] == ["description"] and plan.outage == 0.0
