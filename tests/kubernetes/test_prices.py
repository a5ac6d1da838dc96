"""What a release costs on a cluster: a real API server, nodes that say what they are, and pods on them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from infra import kubernetes
from infra.errors import Transient
from infra.kubernetes import karpenter, kinds, nodes, replicas
from infra.kubernetes.place import Place
from infra.kubernetes.prices import KubernetesPricing
from infra.kubernetes.shares import REGION, TYPE
from infra.platform import Release
from infra.specs import ClusterSpec
from infra.waiting import Progress
from tests.kubernetes.fixtures import Places
from tests.kubernetes.lab import Lab
from tests.kubernetes.test_capacity import pod, wanted

SIZES = {"g6.12xlarge": {"cpu": "48", "memory": "180Gi", "nvidia.com/gpu": "4"}, "g6.2xlarge": {"cpu": "8", "memory": "28Gi", "nvidia.com/gpu": "1"}, "m7i.large": {"cpu": "2", "memory": "8Gi"}}
ON_DEMAND = {REGION: "us-east-1", "karpenter.sh/capacity-type": "on-demand"}
POOL = {"requirements": [{"key": TYPE, "operator": "In", "values": ["g6.2xlarge", "g6.12xlarge"]}], "limits": {"cpu": "64"}, "nodeClassRef": {"group": "a.b", "kind": "C", "name": "d"}}

Make = Callable[..., str]


@pytest.fixture
def node(lab: Lab) -> Iterator[Make]:
    """Makes a node of this type, with a taint that only GPU pods bear, so that nothing else of this cluster comes there."""
    made: list[str] = []

    def make(kind: str = "g6.12xlarge", **labels: str) -> str:
        name = f"t-node-{os.urandom(3).hex()}"
        size = {**SIZES[kind], "pods": "20", "ephemeral-storage": "100Gi"}
        meta = {"name": name, "labels": {"t-pool": name, TYPE: kind, **labels}, "annotations": {"kwok.x-k8s.io/node": "fake"}}
        taints = [{"key": "nvidia.com/gpu", "value": "true", "effect": "NoSchedule"}]
        lab.api.create({"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": {"taints": taints}, "status": {"capacity": size, "allocatable": size}})
        made.append(name)
        Progress(120).until(lambda: any(one.name == name and one.ready for one in nodes.look(lab.api, ())) or None, every=0.5)
        return name

    yield make
    for name in made:
        lab.api.delete(kinds.NODE, name)


def test_a_release_costs_the_share_of_its_nodes(place: Place, node: Make) -> None:
    """Two of four GPUs are half of the machine; another's pod on it is the other's; two pods are twice as much; what waits costs nothing yet."""
    mine, other = wanted("mine", resources={"gpu": 2}), wanted("other", resources={"gpu": 1})
    prices, there = KubernetesPricing(place), node(**ON_DEMAND)
    before = prices.now(mine)
    pod(place, "one", mine, there)
    pod(place, "theirs", other, there)

    one = prices.now(mine), prices.per_hour(mine), prices.now(other)
    pod(place, "two", mine, node(**ON_DEMAND))
    two = prices.now(mine)
    pod(place, "three", mine)

    assert before == 0.0
    assert one == pytest.approx((4.6016 / 2, 4.6016 / 2, 4.6016 / 4))
    assert two == pytest.approx(4.6016)
    assert prices.now(mine) == pytest.approx(4.6016)


@pytest.mark.parametrize(
    ("labels", "why"),
    [({REGION: "us-east-1", "karpenter.sh/capacity-type": "spot"}, "was not bought on demand (spot)"), ({}, f"has no label {REGION}"), ({REGION: "eu-north-1"}, "is a g6.12xlarge in eu-north-1, whose price is not known")],
)
def test_a_node_without_a_price_makes_it_unknown(place: Place, node: Make, labels: dict[str, str], why: str) -> None:
    """Spot; a node that does not say where it is; a region without prices. Half of a sum is none, and it is said which half."""
    mine = wanted("mine", resources={"gpu": 1})
    pod(place, "known", mine, node(**ON_DEMAND))
    known, silent = KubernetesPricing(place).now(mine), KubernetesPricing(place).why(mine)
    there = node(**labels)
    pod(place, "unknown", mine, there)

    assert silent == "" and f"its node {there} {why}" in KubernetesPricing(place).why(mine)
    assert known == pytest.approx(1.1504)
    assert KubernetesPricing(place).now(mine) is None and KubernetesPricing(place).per_hour(mine) is None


def test_other_numbers_of_replicas_have_the_price_that_they_will_have(places: Places, node: Make) -> None:
    """What comes goes where it could; what goes was paid for; where those differ nobody knows which of them goes."""
    there = node(**ON_DEMAND)
    prices, place = KubernetesPricing(places(node_selector={"t-pool": there})), places()

    def many(count: int) -> Release:
        return wanted("mine", resources={"gpu": 1}, replicas={"min": count, "max": count})

    pod(place, "one", many(1), there)
    one = [prices.per_hour(many(count)) for count in (1, 2, 3)]
    pod(place, "two", many(1), there)
    two = [prices.per_hour(many(count)) for count in (1, 2, 3)]
    pod(place, "three", many(1), node("g6.2xlarge", **ON_DEMAND))

    assert one == two == [pytest.approx(1.1504 * count) for count in (1, 2, 3)]
    assert prices.per_hour(many(3)) == pytest.approx(2 * 1.1504 + 0.9776)
    assert prices.per_hour(many(2)) is None and "do not cost the same" in prices.why(many(2))


@pytest.mark.parametrize(
    ("kind", "scaled", "now", "bounds", "then"),
    [("vllm", False, 1, (2, 3), 2), ("ray", False, 1, (1, 3), 3), ("ray", True, 2, (1, 3), 2), ("ray", True, 1, (2, 3), 2), ("ray", True, 3, (1, 2), 2)],
)
def test_how_many_workers_an_edit_leaves(kind: str, scaled: bool, now: int, bounds: tuple[int, int], then: int) -> None:
    """Ray's autoscaler keeps what it chose, within the bounds; without it all that may be needed are there."""
    release = wanted(engine={"kind": kind}, replicas={"min": bounds[0], "max": bounds[1]})

    assert replicas.workers(release, now, scaled=scaled) == then


def test_what_does_not_run_has_the_price_of_what_it_would_need(places: Places, node: Make) -> None:
    """The cheapest node that takes it; with a pool of ours what Karpenter would make, by what the nodes say of the region; nothing where none has a GPU to give."""
    there = node(**ON_DEMAND)
    mine, large = wanted("mine", resources={"gpu": 1}), wanted("large", resources={"gpu": 8})
    here = {"node_selector": {"t-pool": there}}

    assert KubernetesPricing(places(**here)).per_hour(mine) == pytest.approx(4.6016 / 4)
    assert KubernetesPricing(places(**here)).per_hour(large) is None and "with only 4 GPUs" in KubernetesPricing(places(**here)).why(large)
    zone = {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["us-east-1a"]}
    pool = {**POOL, "requirements": [*POOL["requirements"], zone]}  # type: ignore[misc]
    assert KubernetesPricing(places(nodepool=pool)).per_hour(mine) == 0.9776
    assert KubernetesPricing(places(nodepool=pool, **here)).per_hour(mine) == pytest.approx(4.6016 / 4), "no node of the pool has that label"


def test_sleep_gives_back_the_nodes_of_our_own_pool_alone(places: Places, node: Make) -> None:
    """Nodes of others stay. Of ours those on which nothing stays that keeps them; with the pool goes what stays as well, if it is nobody's release."""
    place, plain = places(nodepool=POOL), places()
    mine, other = wanted("mine", resources={"gpu": 1}), wanted("other", resources={"gpu": 1})
    nothing = KubernetesPricing(place).freed(mine, "suspended")
    ours = node(**ON_DEMAND, **karpenter.marks(place))
    pod(place, "one", mine, ours)
    pod(place, "elsewhere", mine, node("g6.2xlarge", **ON_DEMAND))
    alone = KubernetesPricing(place).freed(mine, "suspended")
    pod(place, "stranger", other, ours, labels={"app": "theirs"})
    beside_a_stranger = KubernetesPricing(place).freed(mine, "suspended"), KubernetesPricing(place).freed(mine, "nodepool")
    pod(place, "theirs", other, ours)
    beside_a_release = KubernetesPricing(place).freed(mine, "nodepool")

    assert nothing is None
    assert alone == 4.6016, "the machine goes, not only what the pod took of it"
    assert beside_a_stranger == (0.0, 4.6016)
    assert beside_a_release == 0.0
    assert KubernetesPricing(plain).freed(mine, "nodepool") == 0.0


def test_the_inventory_tells_what_its_rows_cost(place: Place, node: Make) -> None:
    """A release by its pods; what has none costs nothing."""
    platform = kubernetes.parts(place, ClusterSpec.model_validate({"name": "lab", "platform": "kubernetes", "kubernetes": {"context": "any"}}))
    mine = wanted("mine", resources={"gpu": 2})
    pod(place, "one", mine, node(**ON_DEMAND))
    place.api.apply({"apiVersion": "v1", "kind": "Service", "metadata": place.meta("idle", "ray_service", release="old-0123456789"), "spec": {"ports": [{"port": 1}]}})

    rows = {row.release: row.usd_per_hour for row in platform.inventory.find() if row.part == "ray_service"}

    assert rows == {mine.name: pytest.approx(2.3008), "old-0123456789": 0.0}


def test_one_look_lists_nodes_and_pods_once(place: Place, lab: Lab, node: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many models there are."""
    there, asked = node(**ON_DEMAND), []
    models = [wanted(f"m{number}", resources={"gpu": 1}) for number in range(3)]
    for number, one in enumerate(models):
        pod(place, f"p{number}", one, there)
    now = place.at_once()
    call = now.api.call
    monkeypatch.setattr(now.api, "call", lambda method, path, *more, **named: (asked.append(path), call(method, path, *more, **named))[1])

    prices = KubernetesPricing(now)

    assert [prices.now(one) for one in models] == [pytest.approx(1.1504)] * 3
    assert sorted(asked) == sorted([kinds.POD.path(place.namespace), kinds.NODE.path()])


def test_money_stops_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that does not answer has no prices, and the row of `status` is told all the same."""

    def silent(*_: Any, **__: Any) -> None:
        raise Transient("the API server does not answer")

    monkeypatch.setattr(type(place.api), "list", silent)
    prices, mine = KubernetesPricing(place), wanted("mine", resources={"gpu": 1})

    assert (prices.now(mine), prices.per_hour(mine), prices.of([])) == (None, None, 0.0)
