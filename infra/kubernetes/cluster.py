"""cluster on Kubernetes: one that exists, proved to be the same as before, with what we need: rights, KubeRay, a storage class, a namespace.

Upstream     nothing            Downstream     everything

The identity is the server, its certificate authority and the UID of kube-system. It is recorded in the cluster itself, as everything is,
and on this machine (identity.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from infra.errors import ConfigError
from infra.kubernetes import identity, kinds, kuberay, lease, namespace
from infra.kubernetes.checkup import Checkup
from infra.kubernetes.conditions import CONDITIONS, Conditions, offer
from infra.kubernetes.endpoint import KubernetesEndpoint
from infra.kubernetes.failures import Busy
from infra.kubernetes.place import Place
from infra.kubernetes.service_endpoint import ServiceEndpoint
from infra.specs import ClusterSpec
from infra.states import ClusterState, Condition, Difference
from infra.waiting import Progress

FRESH = 60.0
"""Seconds for which an `apply` believes what was examined."""

PATIENCE = 2.0
"""Seconds in which a connection that breaks at once is tried again."""

LEAST = 0.5
"""Seconds that an answer gets, also where there is no time left."""


class KubernetesCluster:
    """`ClusterPart`."""

    def __init__(self, place: Place, endpoint: KubernetesEndpoint | ServiceEndpoint) -> None:
        self._place, self._endpoint = place, endpoint
        self._examined: tuple[float, Conditions] = (-FRESH, Conditions(place, self._same))

    def observe(self, spec: ClusterSpec) -> ClusterState | None:
        """None: our namespace is not there. Raises Transient within seconds when the cluster does not answer, Blocked when it is another one."""
        this = self._same()
        here = self._place.api.glance(kinds.NAMESPACE, self._place.namespace)
        if here is None or namespace.leaving(here):
            return None
        return ClusterState(this, {"namespace": self._place.namespace, "context": self._place.block.context})

    @property
    def conditions(self) -> Mapping[str, str]:
        return CONDITIONS

    def examine(self, spec: ClusterSpec) -> Iterator[Condition]:
        """An `apply` within a minute does not ask all of it again."""
        found = Conditions(self._place, self._same)
        yield from found
        if found.met:
            self._examined = (time.monotonic(), found)

    def pending(self, spec: ClusterSpec) -> tuple[Difference, ...]:
        """An operator of ours, where the declaration has one. Of a namespace that went, as of all else, `observe` tells."""
        return kuberay.pending(self._place)

    def checkup(self, until: float) -> Checkup:
        """The same conditions for who asks them side by side, and what else can be told of it. How it is now is asked once, and waited for until then (monotonic)."""
        return Checkup(self._place, lambda: self._same(until))

    def apply(self, spec: ClusterSpec, progress: Progress) -> ClusterState:
        """Checks before it makes anything; then makes the namespace."""
        progress.phase("conditions", self._place.block.context)
        found = Conditions(self._place, self._same)
        found.insist()
        if isinstance(self._endpoint, ServiceEndpoint):
            self._endpoint.insist_on_no_key()
        made = namespace.ensure(self._place, progress)
        ray, installed = kuberay.ensure(self._place, found.kuberay, progress)
        first = identity.remember(self._place.cache, found.identity)
        lease.sweep(self._place)
        facts = {
            "version": found.version, "endpoint": self._endpoint.url("MODEL"), "namespace": self._place.namespace, "context": self._place.block.context, "storage_class": found.storage_class,
            "kuberay": str(ray.operator(self._place.namespace) or "known, its operator is not seen"), **offer(found.nodes),
        }  # fmt: skip
        return ClusterState(found.identity, facts, changed=made or installed or first)

    def delete(self, spec: ClusterSpec, progress: Progress) -> None:
        """The cluster stays, with namespace and data; what of ours serves all of it (the router) ends, and this machine forgets which one it was."""
        self._same()
        self._endpoint.stop(progress)
        identity.forget(self._place.cache)

    # ------------------------------------------------ private

    def _same(self, until: float | None = None) -> dict[str, str]:
        """Raises Blocked when it is another cluster than the recorded one."""
        found = self._identity(until)
        identity.insist(self._place.cache, self._place.cluster, found)
        return found

    def _identity(self, until: float | None) -> dict[str, str]:
        api, began = self._place.api, time.monotonic()
        while True:
            try:
                system = api.glance(kinds.NAMESPACE, "kube-system", seconds=max(LEAST, until - began) if until else None)
                break
            except Busy:
                if until or time.monotonic() - began > PATIENCE:
                    raise
                Progress(10).sleep(0.5)
        if system is None:
            raise ConfigError(f"{api.server} is not a Kubernetes cluster", why="it has no namespace kube-system", next="look at kubernetes.context of the cluster's YAML")
        return {"server": api.server, "ca": api.ca_hash, "uid": system["metadata"]["uid"]}
