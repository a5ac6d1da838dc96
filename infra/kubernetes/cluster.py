"""cluster on Kubernetes: one that exists, proved to be the same as before, with what we need: rights, KubeRay, a storage class, a namespace.

Upstream     nothing            Downstream     everything

The identity is the server, its certificate authority and the UID of kube-system. It is recorded in the cluster itself, as everything is,
and on this machine (identity.py).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from infra.errors import ConfigError, Denied
from infra.kubernetes import identity, kinds, kuberay, namespace, nodes, rights
from infra.kubernetes.endpoint import KubernetesEndpoint
from infra.kubernetes.failures import Busy
from infra.kubernetes.nodes import Node
from infra.kubernetes.place import Place
from infra.specs import ClusterSpec
from infra.states import ClusterState
from infra.waiting import Progress

OLDEST = (1, 28)
"""The oldest server that we would try; 1.35 was run."""

PATIENCE = 2.0
"""Seconds in which a connection that breaks at once is tried again."""

DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


class KubernetesCluster:
    """`Part[ClusterSpec, ClusterState]`."""

    def __init__(self, place: Place, endpoint: KubernetesEndpoint) -> None:
        self._place, self._endpoint = place, endpoint

    def observe(self, spec: ClusterSpec) -> ClusterState | None:
        """None: our namespace is not there. Raises Transient within seconds when the cluster does not answer, Blocked when it is another one."""
        this = self._identity()
        self._compare(this)
        here = self._place.api.glance(kinds.NAMESPACE, self._place.namespace)
        if here is None or namespace.leaving(here):
            return None
        return ClusterState(this, {"namespace": self._place.namespace, "context": self._place.block.context})

    def apply(self, spec: ClusterSpec, progress: Progress) -> ClusterState:
        """Checks before it makes anything; then makes the namespace."""
        progress.phase("identity", self._place.block.context)
        try:
            this = self._identity()
        except Denied:
            rights.insist(self._place)
            raise
        self._compare(this)
        version = supported(self._place.api.version())
        progress.phase("rights")
        rights.insist(self._place)
        progress.phase("what is there")
        storage = self._storage_class()
        ray = kuberay.look(self._place.api)
        if not kuberay.ours_to_install(self._place, ray):
            kuberay.insist(self._place, ray)
        made = namespace.ensure(self._place, progress)
        ray, installed = kuberay.ensure(self._place, ray, progress)
        first = identity.remember(self._place.cache, this)
        facts = {
            "version": version, "endpoint": self._endpoint.url, "namespace": self._place.namespace, "context": self._place.block.context, "storage_class": storage,
            "kuberay": str(ray.operator(self._place.namespace) or "known, its operator is not seen"), **offer(nodes.look(self._place.api, ())),
        }  # fmt: skip
        return ClusterState(this, facts, changed=made or installed or first)

    def delete(self, spec: ClusterSpec, progress: Progress) -> None:
        """The cluster stays, with namespace and data; what of ours serves all of it (the router) ends, and this machine forgets which one it was."""
        self._compare(self._identity())
        self._endpoint.stop(progress)
        identity.forget(self._place.cache)

    # ------------------------------------------------ private

    def _identity(self) -> dict[str, str]:
        api, began = self._place.api, time.monotonic()
        while True:
            try:
                system = api.glance(kinds.NAMESPACE, "kube-system")
                break
            except Busy:
                if time.monotonic() - began > PATIENCE:
                    raise
                Progress(10).sleep(0.5)
        if system is None:
            raise ConfigError(f"{api.server} is not a Kubernetes cluster", why="it has no namespace kube-system", next="look at kubernetes.context of the cluster's YAML")
        return {"server": api.server, "ca": api.ca_hash, "uid": system["metadata"]["uid"]}

    def _compare(self, found: dict[str, str]) -> None:
        identity.insist(self._place.cache, self._place.cluster, found)

    def _storage_class(self) -> str:
        """The one of the claims; ConfigError when there is none, since a claim would wait for it forever."""
        found = self._place.api.list(kinds.STORAGE_CLASS).items
        names = sorted(item["metadata"]["name"] for item in found)
        wanted = self._place.block.storage_class
        default = next((item["metadata"]["name"] for item in found if (item["metadata"].get("annotations") or {}).get(DEFAULT_CLASS) == "true"), None)
        if wanted is None and default is None:
            raise ConfigError(
                f"cluster {self._place.cluster} has no default storage class", why=f"it has {', '.join(names) or 'none at all'}",
                next="name one as kubernetes.storage_class in the cluster's YAML" if names else "install a provisioner of volumes, or ask whoever runs the cluster",
            )  # fmt: skip
        if wanted and wanted not in names:
            raise ConfigError(f"cluster {self._place.cluster} has no storage class {wanted}", why=f"it has {', '.join(names) or 'none'}", next="name one of these as kubernetes.storage_class")
        return wanted or str(default)


def supported(version: str) -> str:
    """The version itself; ConfigError when it is too old."""
    major, minor = (int("".join(c for c in part if c.isdigit()) or 0) for part in version.lstrip("v").split(".")[:2])
    if (major, minor) < OLDEST:
        raise ConfigError(f"Kubernetes {version} is too old", why=f"{'.'.join(map(str, OLDEST))} is the oldest that we would try", next="upgrade the cluster, or use another one")
    return version


def offer(found: Sequence[Node]) -> dict[str, Any]:
    """What the nodes have in sum: CPUs, bytes, GPUs; only of those that take pods."""
    open_ = [node for node in found if node.ready and not node.cordoned]
    total = {name: sum(node.total[name] for node in open_) for name in ("cpus", "memory", "gpus")}
    return {"nodes": len(found), "nodes_ready": len(open_), "cpus": round(total["cpus"], 1), "memory": int(total["memory"]), "gpus": int(total["gpus"])}
