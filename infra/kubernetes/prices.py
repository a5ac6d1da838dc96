"""prices on a cluster: what a release costs, by the nodes that its pods are on (shares.py); where it does not run, by those that it would need.

    it runs                    the shares of its pods, in the prices of their nodes; with other numbers of replicas those that stay, and those that come as it would
    it would                   each pod on the cheapest node that could run it; with a pool of our own what Karpenter would make (karpenter_types.py)
    it sleeps                  nodes of a pool of ours go when nothing is left on them (after ten minutes, or at once with the pool), and their price with
                               them; nodes of anybody else stay, and go on costing what they cost

Nodes are listed once per look. A pod on a node without GPUs costs one list more, of that node's pods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from infra import pricing
from infra.errors import PipelineError
from infra.idle import Rung
from infra.kubernetes import karpenter, karpenter_types, nodes, replicas, shares
from infra.kubernetes.api import Object
from infra.kubernetes.kinds import POD
from infra.kubernetes.nodes import Node, Wish
from infra.kubernetes.place import RELEASE, Place
from infra.kubernetes.pods import PART
from infra.kubernetes.requests import requests
from infra.kubernetes.shares import REGION, TYPE, Labels, together
from infra.kubernetes.weights_claim import Claim
from infra.planner.catalogue import catalogue
from infra.platform import Release

WORKS = "ray.io/node-type"
"""Label of KubeRay: head or worker."""


class KubernetesPricing:
    """`Pricing` of one place. What can not be read has no price: money stops nothing."""

    def __init__(self, place: Place) -> None:
        self._place, self._claims = place, Claim(place)

    def per_hour(self, release: Release) -> float | None:
        return _or_unknown(lambda: self._declared(release))

    def why(self, release: Release) -> str:
        for ask in (self._declared, lambda one: self._sum(self._pods(one))):
            try:
                ask(release)
            except Unpriced as error:
                return str(error)
            except PipelineError as error:
                return error.problem.what
        return ""

    def now(self, release: Release) -> float | None:
        return _or_unknown(lambda: self._sum(self._pods(release)))

    def freed(self, release: Release, rung: Rung) -> float | None:
        return _or_unknown(lambda: self._freed(release, rung)) if self._place.block.nodepool is not None else 0.0

    def of(self, pods: Sequence[Object]) -> float | None:
        """What these pods cost; those that wait for a node cost nothing yet."""
        return _or_unknown(lambda: self._sum(pods))

    def rate(self, labels: Labels) -> float | None:
        """USD per hour of a node with these labels."""
        return self._rates([labels])(labels)

    # ------------------------------------------------ private

    def _pods(self, release: Release) -> list[Object]:
        return [pod for pod in self._place.looks.ours(POD, PART) if _living(pod) and pod["metadata"]["labels"].get(RELEASE) == release.name]

    def _declared(self, release: Release) -> float:
        """With as many replicas as it declares: of those that are there, those that stay."""
        pods = self._pods(release)
        if not pods or not all(_node(pod) for pod in pods):
            return self._imagined(release)
        workers = [pod for pod in pods if pod["metadata"]["labels"].get(WORKS) != "head"]
        wanted, now = replicas.workers(release, len(workers), scaled=_scaled(pods)), self._sum(pods)
        if wanted >= len(workers):
            return round(now + (self._imagined(release, wanted - len(workers)) if wanted > len(workers) else 0.0), 6)
        each = [self._sum([pod]) for pod in workers]
        if max(each) - min(each) > CENT:
            raise Unpriced(f"its {len(workers)} replicas do not cost the same, and which of them go is not known")
        return round(now - (len(workers) - wanted) * each[0], 6)

    def _sum(self, pods: Sequence[Object]) -> float:
        mine = {pod["metadata"]["uid"] for pod in pods}
        names = {name for pod in pods if (name := _node(pod))}
        if not names:
            return 0.0
        found = [node for node in self._nodes() if node.name in names]
        if gone := names - {node.name for node in found}:
            raise Unpriced(f"its node {min(gone)} is not there any more")
        rates = self._rates([node.labels for node in found])
        return round(sum(self._on(node, pods, mine, rates) for node in found), 6)

    def _on(self, node: Node, pods: Sequence[Object], mine: set[str], rate: shares.Rate) -> float:
        """What ours among the pods of one node pay. Where it has GPUs nobody else needs to be known for that."""
        usd = rate(node.labels)
        if usd is None:
            raise Unpriced(f"its node {node.name} {shares.unpriced(node.labels)}")
        there = [pod for pod in pods if _node(pod) == node.name] if node.total["gpus"] else self._place.looks.on(node.name)
        paid = shares.shares(node.total, [nodes.requested(pod) for pod in there])
        return usd * sum(share for pod, share in zip(there, paid, strict=True) if pod["metadata"]["uid"] in mine)

    def _imagined(self, release: Release, workers: int | None = None) -> float:
        """The whole release; or so many more workers of it."""
        asked = requests(release, self._claims.config(release.manifest))
        wishes = [nodes.wish(one, self._place.block) for one in (asked.pods if workers is None else (asked.worker,) * workers)]
        found, why = self._nodes(), ""
        pool = self._place.block.nodepool if release.needs_gpu else None
        if pool is not None:
            made, why = self._made(pool, wishes, found)
            if made is not None:
                return made
        rates = self._rates([node.labels for node in found])
        usd = shares.cheapest(wishes, found, rates)
        if usd is None:
            raise Unpriced(why or _nowhere(wishes, found, rates))
        return usd

    def _made(self, pool: Mapping[str, Any], wishes: Sequence[Wish], found: Sequence[Node]) -> tuple[float | None, str]:
        """What Karpenter would make for these pods, or why that has no price. The region is the one that the pool names, else that of all nodes."""
        regions = {node.labels.get(REGION, "") for node in found}
        region = karpenter_types.place(pool.get("requirements") or ()) or (regions.pop() if len(regions) == 1 else "")
        types, marks = catalogue().instances, karpenter.marks(self._place)
        usd = karpenter_types.cheapest(pool, wishes, types, self._rates([{TYPE: one.name, REGION: region} for one in types]), region, marks)
        return usd, karpenter_types.unpriced(pool, types, region, marks) if usd is None else ""

    def _freed(self, release: Release, rung: Rung) -> float | None:
        """The nodes of our pool on which nothing stays that keeps them; all that it is on, where the pool itself goes. None: it is on no node now."""
        going = [pod for pod in self._pods(release) if _node(pod) and (rung not in WORKERS_ONLY or pod["metadata"]["labels"].get(WORKS) == "worker")]
        if not going:
            return None
        names, uids = {_node(pod) for pod in going}, {pod["metadata"]["uid"] for pod in going}
        whole = rung in WITH_POOL and all(pod["metadata"]["labels"].get(RELEASE) == release.name for pod in self._place.looks.ours(POD, PART) if _living(pod))
        ours = [node for node in self._nodes() if node.name in names and karpenter.marks(self._place).items() <= node.labels.items()]
        empty = [node for node in ours if whole or not any(_keeps(pod) for pod in self._place.looks.on(node.name) if pod["metadata"]["uid"] not in uids)]
        rates = self._rates([node.labels for node in empty])
        return together([rates(node.labels) for node in empty])

    def _nodes(self) -> tuple[Node, ...]:
        return nodes.counted(self._place.looks.nodes(), ())

    def _rates(self, labels: Sequence[Labels]) -> shares.Rate:
        """Prices of nodes such as these, of one region after the other: types that the catalogue lacks are asked for together."""
        machines = {found for one in labels if (found := shares.machine(one))}
        known = {region: pricing.current(region, self._place.settings, _today(), [name for name, where in machines if where == region]).usd for region in {where for _, where in machines}}

        def rate(one: Labels) -> float | None:
            found = shares.machine(one)
            return known[found[1]].get(found[0]) if found else None

        return rate


WORKERS_ONLY, WITH_POOL = ("replicas",), ("nodepool", "cluster")
"""Rungs on which a release keeps its head; and on which a pool of ours goes with its last release."""


CENT = 0.01
"""USD per hour: what differs by less costs the same."""


class Unpriced(Exception):
    """Something of it has no price that is known. Never leaves this module."""


def _or_unknown(ask: Callable[[], float | None]) -> float | None:
    try:
        return ask()
    except (PipelineError, Unpriced):
        return None


def _scaled(pods: Sequence[Object]) -> bool:
    """Whether Ray's autoscaler runs beside the head."""
    return any(container["name"] == "autoscaler" for pod in pods for container in pod["spec"].get("containers") or ())


def _nowhere(wishes: Sequence[Wish], found: Sequence[Node], rate: shares.Rate) -> str:
    """Why one of the pods has no node with a price."""
    for wish in wishes:
        able = [node for node in found if not nodes.obstacle(node, wish, total=True)]
        if not able:
            return f"no node that is there could run it: {nodes.reasons(found, wish, total=True)}"
        if all(rate(node.labels) is None for node in able):
            return f"its node would be {able[0].name}, which {shares.unpriced(able[0].labels)}"
    return ""


def _living(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")


def _node(pod: Object) -> str:
    return str(pod["spec"].get("nodeName") or "")


def _keeps(pod: Object) -> bool:
    """Whether Karpenter leaves a node for its sake: not for what every node has."""
    return not any(owner["kind"] in ("DaemonSet", "Node") for owner in pod["metadata"].get("ownerReferences") or ())


def _today() -> date:
    return datetime.now(UTC).date()
