"""What a cluster must have, each told by itself: `examine` on a real API server with real DaemonSets. Refusals of `apply`: test_cluster.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from infra import kubernetes
from infra.kubernetes import kinds, nodes
from infra.kubernetes.conditions import CONDITIONS, PLUGINS, registers_gpus
from infra.kubernetes.place import Place
from infra.specs import ClusterSpec
from infra.states import Condition
from infra.waiting import Progress
from tests.kubernetes.lab import Lab


def examined(place: Place) -> dict[str, Condition]:
    spec = ClusterSpec.model_validate({"name": place.cluster, "platform": "kubernetes", "kubernetes": {**place.block.model_dump(), "kuberay": "existing"}})
    return {found.name: found for found in kubernetes.platform(place.settings, spec).cluster.examine(spec)}


@pytest.fixture
def bare_node(lab: Lab) -> Iterator[str]:
    """A node of the test's own that has a GPU by its label, and offers none."""
    name = f"t-node-{os.urandom(3).hex()}"
    size = {"cpu": "4", "memory": "8Gi", "pods": "20"}
    meta = {"name": name, "labels": {"t-node": name, "nvidia.com/gpu.present": "true"}, "annotations": {"kwok.x-k8s.io/node": "fake"}}
    lab.api.create({"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": {}, "status": {"capacity": size, "allocatable": size}})
    Progress(300).until(lambda: any(node.name == name and node.ready for node in nodes.look(lab.api, ())) or None, every=0.5)
    yield name
    lab.api.delete(kinds.NODE, name)


def plugin(namespace: str, name: str, node: str) -> dict[str, Any]:
    """As NVIDIA's manifest has it: a DaemonSet that registers in the node's folder."""
    labels = {"name": name}
    container = {"name": "nvidia-device-plugin-ctr", "image": "nvcr.io/nvidia/k8s-device-plugin:v0.17.1", "volumeMounts": [{"name": "plugins", "mountPath": PLUGINS}]}
    pod = {"nodeSelector": {"t-node": node}, "tolerations": [{"operator": "Exists"}], "containers": [container], "volumes": [{"name": "plugins", "hostPath": {"path": PLUGINS}}]}
    spec = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}
    return {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def test_every_condition_of_a_cluster_that_has_all_is_told_with_what_was_found(place: Place) -> None:
    """In their order, and nothing is made for it."""
    found = examined(place)

    assert list(found) == list(CONDITIONS)
    assert not [one for one in found.values() if one.problem]
    assert found["api_version"].told == place.api.version()
    assert found["nodes"].told.endswith("CPUs only")
    assert found["device_plugin"].told == "no GPUs, none needed"
    assert place.api.list(kinds.CONFIG_MAP, place.namespace, place.selector()).items == ()


def test_gpus_that_nobody_offers_and_those_that_two_offer_are_warned_of(place: Place, bare_node: str) -> None:
    """A release would wait for the one for ever, and get the other twice. Neither forbids what needs no GPU."""
    mute = examined(place)["device_plugin"]
    for name in ("plugin", "the-operators-plugin"):
        place.api.apply(plugin(place.namespace, name, bare_node))

    def doubled() -> Condition | None:
        found = examined(place)["device_plugin"]
        return found if found.warning and "more than one" in found.warning.what else None

    twice = Progress(300).until(doubled, every=0.5)

    assert mute.warning and (mute.warning.what, mute.error) == (f"{bare_node} has GPUs and offers none", None)
    assert "install" in str(mute.warning.next)
    assert twice.warning and bare_node in twice.warning.what
    assert f"{place.namespace}/plugin, {place.namespace}/the-operators-plugin" in str(twice.warning.why)


def test_what_shares_an_image_with_the_plugin_is_none() -> None:
    """Feature discovery and MPS come in the same image and register nothing; other makers' plugins hand out no GPU of NVIDIA's."""
    real, discovery, other = plugin("n", "a", "x"), plugin("n", "b", "x"), plugin("n", "c", "x")
    discovery["spec"]["template"]["spec"]["volumes"] = [{"name": "features", "hostPath": {"path": "/etc/kubernetes/node-feature-discovery/features.d"}}]
    other["spec"]["template"]["spec"]["containers"] = [{"name": "rdma", "image": "example.org/rdma:1"}]

    assert [registers_gpus(one) for one in (real, discovery, other)] == [True, False, False]
