"""gpu_nodepool on a cluster: whether a release fits, before anything is applied. Nothing is made but a pool of ours, where one is declared.

The pods of the release (requests.py) are laid onto the nodes as the scheduler would: free is what a node can allocate less what the pods
on it request; labels and taints count. Pods that have ended take nothing, and those that fill weights pass. First of all it is told what
no waiting mends: a pod that fits on no node as it is made.

    never         no node has the label, bears no such taint, or is large enough       ConfigError, with the numbers
    not now       others have it                                                       CapacityError, with the numbers
    Karpenter     makes nodes by itself: what does not fit now may fit then

Upstream     deployment            Downstream     ray_service
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from infra.errors import CapacityError, ConfigError
from infra.fitting import insisted, judge, told
from infra.kubernetes import karpenter, kinds, machines, nodes, quota, room, weights_job
from infra.kubernetes.api import Object
from infra.kubernetes.nodes import Node, Wish, amount
from infra.kubernetes.place import OURS, PART, RELEASE, Place
from infra.kubernetes.ray_service import KubernetesService
from infra.kubernetes.records import KubernetesRecords
from infra.kubernetes.requests import PodRequests, Requests, requests
from infra.kubernetes.weights_claim import Claim
from infra.platform import Release, WeightsPart, model_of
from infra.states import Capacity, Fit
from infra.waiting import Progress
from infra.weights import Outline


class KubernetesCapacity:
    """`CapacityPart` as arithmetic over what nodes have free."""

    def __init__(self, place: Place, weights: WeightsPart, service: KubernetesService) -> None:
        self._place, self._weights, self._service = place, weights, service
        self._records, self._claims = KubernetesRecords(place), Claim(place)

    def observe(self, release: Release) -> Capacity:
        """Raises ConfigError where a pool is declared that can not be made here."""
        return replace(self.room(release), changes=karpenter.pending(self._place) if self._place.block.nodepool is not None else ())

    def apply(self, release: Release, progress: Progress) -> Capacity:
        """Raises ConfigError for what can never run here; CapacityError when it does not fit even with all else of its model gone."""
        fit = None if self._runs(release) else self._planned(release, progress)
        changed = karpenter.ensure(self._place, progress) if self._place.block.nodepool is not None else False
        found = replace(self.room(release), changed=changed, fit=fit)
        if found.fits:
            return found
        others = tuple(state.release for state in self._service.running(release.model) if state.release != release.name)
        alone = self.room(release, without=others)
        if alone.fits:
            return replace(found, fits=True, why=f"only without {', '.join(others)}: {found.why}")
        raise self._no_room(release, alone, others)

    def delete(self, release: Release, progress: Progress) -> None:
        """What a release needs counts as long as its pods are there: there is nothing to forget. A pool of ours goes with the last release."""
        if self._place.block.nodepool is not None and not any(state.release != release.name and state.phase != "suspended" for state in self._service.running()):
            karpenter.remove(self._place, progress)

    def fits(self, release: Release, outline: Outline) -> Fit:
        return machines.fit(self._place, release, outline)

    def room(self, release: Release, without: tuple[str, ...] = ()) -> Capacity:
        asked, away = self._asked(release), (release.name, *without)
        if self._runs(release):
            return Capacity(fits=True, why="it runs already", needs=_needs(asked), free={})
        staying = [pod for pod in nodes.living(self._place.api) if not (self._mine(pod) and _release(pod) in away) and not self._passing(pod)]
        found = nodes.look(self._place.api, staying)
        wishes = [nodes.wish(one, self._place.block) for one in asked.pods]
        promised = room.promised(self._place, staying, away)
        if why := self._never(wishes, found) or self._over_quota(asked, staying, promised):
            return Capacity(fits=False, why=why, needs=_needs(asked), free=_free(wishes, found))
        return self._judged(asked, wishes, self._taken(found, staying, promised))

    @contextmanager
    def reserve(self, release: Release, progress: Progress, without: tuple[str, ...] = ()) -> Iterator[Capacity]:
        """See `CapacityPart`. One look at a time; what it found free counts as taken until its pods are there, or the block ends."""
        until_up = ExitStack()
        with self._records.lock("room", f"a look for room for {release.name}", progress):
            found = self.room(release, without)
            if found.fits:
                until_up.enter_context(room.kept(self._place, release, self._asked(release).pods))
        with until_up:
            yield found

    # ------------------------------------------------ private

    def _runs(self, release: Release) -> bool:
        return any(state.release == release.name and state.computes for state in self._service.running(release.model))

    def _planned(self, release: Release, progress: Progress) -> Fit:
        """The planner's word that lets it go on. Raises ConfigError for what it refuses, and for what no node can ever run."""
        fit = judge(self, self._weights, release, progress)
        self._insist_on_a_place(release, fit)
        return insisted(fit, release)

    def _config(self, release: Release) -> dict[str, Any]:
        return self._claims.config(release.manifest)

    def _asked(self, release: Release) -> Requests:
        return requests(release, self._config(release))

    def _insist_on_a_place(self, release: Release, fit: Fit) -> None:
        wishes = [nodes.wish(one, self._place.block) for one in self._asked(release).pods]
        if never := self._never(wishes, nodes.look(self._place.api, ())):
            raise ConfigError(
                f"{release.name} can never run on this cluster", why=f"{never}; {told(fit)}" if fit.verdict == "refused" and fit.numbers else never,
                next=f"{fit.next}; or " * bool(fit.numbers and fit.next) + "correct resources, or kubernetes.node_selector and kubernetes.tolerations; or add such a node",
            )  # fmt: skip
        if over := quota.refusal(quota.ceilings(self._place), self._asked(release).pods):
            raise ConfigError(f"{release.name} can never run in the namespace {self._place.namespace}", why=over, next="raise the ResourceQuota, or lower resources or replicas in the declaration")

    def _never(self, wishes: Sequence[Wish], found: Sequence[Node]) -> str:
        """Why one of the pods fits on no node, as nodes are made; empty: each fits on one, or Karpenter may make one."""
        for wish in wishes:
            if all(nodes.obstacle(node, wish, total=True) for node in found):
                return "" if self._karpenter() else f"needs {_told(wish)} on one node; {nodes.reasons(found, wish, total=True)}"
        return ""

    def _over_quota(self, asked: Requests, staying: Sequence[Object], promised: Mapping[str, Sequence[PodRequests]]) -> str:
        """What a quota of our namespace refuses beside what stays there; empty: nothing."""
        here = [pod for pod in staying if pod["metadata"]["namespace"] == self._place.namespace]
        return quota.refusal(quota.ceilings(self._place), asked.pods, here, [one for asks in promised.values() for one in asks])

    def _judged(self, asked: Requests, wishes: Sequence[Wish], now: Sequence[Node]) -> Capacity:
        _, short = nodes.placed(wishes, now)
        needs, free = _needs(asked), _free(wishes, now)
        if short is None:
            return Capacity(fits=True, why=f"needs {_told(wishes[0])}{f' on each of {asked.replicas} nodes or places' if asked.replicas > 1 else ''}, and there is room", needs=needs, free=free)
        why = f"needs {_told(short)} on one node; {nodes.reasons(now, short, total=False)}"
        if self._karpenter():
            return Capacity(fits=True, why=f"{why}; Karpenter may make a node", needs=needs, free=free)
        return Capacity(fits=False, why=why, needs=needs, free=free)

    def _taken(self, found: Sequence[Node], pods: Sequence[Object], promised: Mapping[str, Sequence[PodRequests]]) -> Sequence[Node]:
        """The nodes with what is about to come onto them: pods of ours that wait for a node, and room that others got."""
        waiting = [nodes.of_pod(pod) for pod in pods if self._mine(pod) and not pod["spec"].get("nodeName")]
        kept = [nodes.wish(one, self._place.block) for asks in promised.values() for one in asks]
        now = found
        for wish in (*waiting, *kept):
            now, _ = nodes.placed([wish], now)
        return now

    def _mine(self, pod: Object) -> bool:
        """Whether it is of a release in our namespace."""
        return bool(pod["metadata"]["namespace"] == self._place.namespace and _release(pod))

    def _passing(self, pod: Object) -> bool:
        """Whether it fills or reads weights of ours. Its own release starts after it, and another one would wait for it for minutes only:
        to be refused for it, or to take down what serves, would last longer.
        """
        labels = pod["metadata"].get("labels") or {}
        ours = all(labels.get(key) == value for key, value in {**OURS, PART: weights_job.PART}.items())
        return bool(ours and pod["metadata"]["namespace"] == self._place.namespace)

    def _karpenter(self) -> bool:
        return self._place.block.nodepool is not None or bool(self._place.api.list(kinds.NODE_POOL).items)

    def _no_room(self, release: Release, found: Capacity, others: tuple[str, ...]) -> CapacityError:
        running = [state.release for state in self._service.running() if state.release not in (*others, release.name)]
        return CapacityError(
            f"{release.name} does not fit on this cluster now", why=found.why,
            next=f"take another model down first: llm-pipeline down {model_of(running[0])}" if running else "make room on a node, add one, or lower resources",
        )  # fmt: skip


def _release(pod: Object) -> str:
    return str((pod["metadata"].get("labels") or {}).get(RELEASE, ""))


def _needs(asked: Requests) -> dict[str, float]:
    """Of all pods of the release together."""
    each = [nodes.amounts(one.quantities()) for one in asked.pods]
    return {name: sum(one[name] for one in each) for name in nodes.NAMES}


def _free(wishes: Sequence[Wish], found: Sequence[Node]) -> dict[str, float]:
    """Of all nodes together on which the first of the pods could run."""
    able = [node for node in found if not nodes.obstacle(node, Wish({}, wishes[0].selector, wishes[0].tolerations), total=False)]
    return {name: sum(max(0.0, node.free[name]) for node in able) for name in nodes.NAMES}


def _told(wish: Wish) -> str:
    """What a pod asks for, in words."""
    return ", ".join(amount(name, wish.amounts[name]) for name in ("gpus", "memory", "cpus", "disk") if wish.amounts.get(name))
