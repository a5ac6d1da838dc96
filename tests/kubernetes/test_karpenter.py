"""A pool of nodes of our own: declared with a ceiling, made by the real Karpenter, and gone with its nodes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.errors import ConfigError
from infra.kubernetes import karpenter, kinds
from infra.kubernetes.api import Api
from infra.kubernetes.place import Place
from infra.kubernetes.shares import TYPE
from infra.waiting import Progress
from tests.kubernetes import lab as labs
from tests.kubernetes.lab import Lab
from tests.kubernetes.test_capacity import part, pod, wanted

CLASS = {"group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": "default"}
TYPES = [{"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["g6e.xlarge"]}]
POOL = {"requirements": TYPES, "limits": {"cpu": "8"}, "nodeClassRef": CLASS}


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A cluster with Karpenter, which can make nodes with one GPU."""
    labs.insist_on_processes()
    types = Path(os.environ[labs.KUBELAB]) / "examples" / "instance-types.json"
    with labs.started(tmp_path_factory.mktemp("karpenter"), nodes=1, kuberay=False, karpenter=str(types)) as made:
        node_class(made.api)
        yield made


@pytest.fixture
def space(pools: Lab, tmp_path: Path) -> Iterator[Any]:
    """Makes places in a namespace of this test's own."""
    with pools.namespace() as name:
        yield lambda **more: pools.place(tmp_path, name, **more)


def node_class(api: Api) -> None:
    """What Karpenter of the lab makes nodes of: a kind that only labs have."""
    body = {"apiVersion": "karpenter.kwok.sh/v1alpha1", "kind": "KWOKNodeClass", "metadata": {"name": "default"}}
    api.call("POST", "/apis/karpenter.kwok.sh/v1alpha1/kwoknodeclasses", body=body)


def test_a_pool_is_made_brings_a_node_and_goes_with_it(space: Any) -> None:
    """Nothing has a GPU until a pod of a release waits for one; after the last release pool and node are gone, and nobody else's."""
    place: Place = space(nodepool=POOL)
    release = wanted(resources={"gpu": 1, "memory": "8Gi"})
    with pytest.raises(ConfigError, match="can never run"):
        part(space()).apply(release, Progress(120))
    before = {item["metadata"]["name"] for item in place.api.list(kinds.NODE).items}

    first, again = part(place).apply(release, Progress(280)), part(place).apply(release, Progress(280))
    pod(place, "engine", release, anywhere=True)
    node = Progress(280).until(lambda: (place.api.get(kinds.POD, "engine", place.namespace) or {})["spec"].get("nodeName"), every=1)
    (row,), (priced,) = karpenter.found(place), karpenter.found(place, lambda labels: {"g6e.xlarge": 1.861}.get(labels[TYPE]))
    place.api.delete(kinds.POD, "engine", place.namespace, grace=0)
    part(place).delete(release, Progress(280))
    part(place).delete(release, Progress(280))

    assert (first.fits, first.changed, again.changed) == (True, True, False)
    assert "Karpenter may make a node" in first.why
    assert node not in before
    assert (row.id, row.model, row.data) == (karpenter.name(place), None, False) and "1 NodeClaim" in row.why_ours
    assert (row.usd_per_hour, priced.usd_per_hour) == (None, 1.861)
    assert karpenter.found(place) == ()
    assert {item["metadata"]["name"] for item in place.api.list(kinds.NODE).items} == before


def test_what_a_pool_lacks_is_told_before_it_is_made_or_changed(space: Any) -> None:
    """By the names of the declaration; then it is done, and nothing is left to do. A look changes nothing."""
    place: Place = space(nodepool=POOL)
    other: Place = space(nodepool={**POOL, "limits": {"cpu": "16"}, "requirements": [{**TYPES[0], "values": ["g6e.xlarge", "g6e.2xlarge"]}]})
    release = wanted(resources={"gpu": 1, "memory": "8Gi"})

    absent = part(place).observe(release).changes
    nothing = karpenter.found(place)
    made, same = part(place).apply(release, Progress(280)).changed, part(place).observe(release).changes
    due = part(other).observe(release).changes
    unchanged = part(place).observe(release).changes
    changed, after = part(other).apply(release, Progress(280)).changed, part(other).observe(release).changes
    part(other).delete(release, Progress(280))

    assert [(one.kind, one.name, one.field, one.live) for one in absent] == [("NodePool", karpenter.name(place), "", None)] and nothing == ()
    assert (made, same, unchanged) == (True, (), ())
    assert {one.field: (one.live, one.declared) for one in due} == {
        "kubernetes.nodepool.limits.cpu": ("8", "16"), "kubernetes.nodepool.requirements[0].values": (["g6e.xlarge"], ["g6e.xlarge", "g6e.2xlarge"]),
    }  # fmt: skip
    assert (changed, after) == (True, ())


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({"nodeClassRef": CLASS}, "has no limits"),
        ({"limits": {"cpu": "8"}}, "has no nodeClassRef"),
        ({**POOL, "disruption": {}}, "has keys that are not ours to set: disruption"),
    ],
)
def test_a_pool_without_a_ceiling_is_refused(tmp_path: Path, block: dict[str, Any], said: str) -> None:
    """Nor may it say what would move a serving engine."""
    place = Lab(tmp_path / "none", "none").place(tmp_path, "llm", nodepool=block)

    with pytest.raises(ConfigError, match=said):
        karpenter.manifest(place)


def test_a_cluster_without_karpenter_says_so(place: Place, places: Any) -> None:
    """Before anything is made."""
    with pytest.raises(ConfigError, match="has no Karpenter"):
        part(places(nodepool=POOL)).apply(wanted(), Progress(120))
    with pytest.raises(ConfigError, match="has no Karpenter"):
        part(places(nodepool=POOL)).observe(wanted())
