"""A pool of nodes of our own, made by Karpenter: where `kubernetes.nodepool` asks for one.

Karpenter makes nodes when pods of ours wait for one, and takes them away when nothing runs on them; never earlier, since a model that is
moved loads again for minutes. A ceiling has to be declared: without limits a mistake has no price.

    NodePool llm-pipeline-<cluster>-<namespace>     goes, with its nodes, when no release is left that could use them
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from infra.errors import ConfigError, Timeout
from infra.kubernetes import diff, kinds
from infra.kubernetes.api import Object
from infra.kubernetes.place import CLUSTER, OURS, Place
from infra.kubernetes.shares import together
from infra.states import Difference, Leftover
from infra.waiting import Progress

PART, NAMESPACE = "gpu_nodepool", "llm-pipeline/namespace"
KEYS = {"requirements", "limits", "nodeClassRef"}
BLOCK = re.compile(r"^spec\.(?:template\.spec\.)?(?=requirements|limits|nodeClassRef)")
"""Where in the object those are."""

EMPTY_SECONDS = 600
"""Seconds that a node stays empty before it goes: a release that follows another finds it there."""

TERMINATION = "15m"
"""The longest that a node's end may take; without it one pod that does not end keeps the node, and the teardown, for ever."""

READY_SECONDS = 60.0


def name(place: Place) -> str:
    """Pools are known to the whole cluster: the namespace tells ours from those of our neighbours."""
    return f"llm-pipeline-{place.cluster.replace('_', '-')}-{place.namespace}"[:63].strip("-")


def manifest(place: Place) -> Object:
    """The pool as declared. ConfigError for what is no pool, or has no ceiling."""
    block = dict(place.block.nodepool or {})
    if unknown := sorted(block.keys() - KEYS):
        raise ConfigError(f"kubernetes.nodepool has keys that are not ours to set: {', '.join(unknown)}", next=f"write {', '.join(sorted(KEYS))}; for anything else make a pool yourself, and name its label in kubernetes.node_selector")
    for key, why in (("limits", "nothing would stop it from making nodes"), ("nodeClassRef", "Karpenter would not know what to make")):
        if not block.get(key):
            raise ConfigError(f"kubernetes.nodepool has no {key}", why=why, next="limits: {cpu: '32', nvidia.com/gpu: '2'}; nodeClassRef: {group: …, kind: …, name: …}")
    labels = marks(place)
    node: Object = {"nodeClassRef": block["nodeClassRef"], "requirements": block.get("requirements") or [], "expireAfter": "Never", "terminationGracePeriod": TERMINATION}
    disruption = {"consolidationPolicy": "WhenEmpty", "consolidateAfter": f"{EMPTY_SECONDS}s"}
    spec: Object = {"template": {"metadata": {"labels": labels}, "spec": node}, "limits": block["limits"], "disruption": disruption}
    return {"apiVersion": kinds.NODE_POOL.api_version, "kind": kinds.NODE_POOL.name, "metadata": {"name": name(place), "labels": labels}, "spec": spec}


def pending(place: Place) -> tuple[Difference, ...]:
    """What `ensure` would make (one, without a field) or change (the fields, as the declaration calls them). Raises ConfigError for what can not be a pool here."""
    wanted = manifest(place)
    if not place.api.serves(kinds.NODE_POOL):
        raise ConfigError("the cluster has no Karpenter", why=f"it does not know {kinds.NODE_POOL.api_version} {kinds.NODE_POOL.name}", next="install Karpenter, or remove kubernetes.nodepool: the nodes that are there are used then")
    live, made = place.api.get(kinds.NODE_POOL, name(place)), place.api.apply(wanted, dry=True)
    if live is None:
        return (Difference(kinds.NODE_POOL.name, name(place), "", None, "is there"),)
    return tuple(Difference(kinds.NODE_POOL.name, name(place), _declared(path), now, then) for path, now, then in diff.fields(diff.shown(live), diff.shown(made)))


def ensure(place: Place, progress: Progress) -> bool:
    """The pool is there as declared, and Karpenter takes it; whether anything was changed."""
    due = pending(place)
    if due:
        place.api.apply(manifest(place))
    progress.phase("nodepool", name(place))
    last: list[str] = []

    def ready(now: Sequence[Object]) -> bool | None:
        for row in (row for item in now for row in item.get("status", {}).get("conditions", []) if row["type"] == "Ready"):
            last[:] = [str(row.get("message") or row.get("reason"))]
            if row["status"] == "True":
                return True
        return None

    try:
        place.api.until(kinds.NODE_POOL, None, ready, Progress(min(READY_SECONDS, progress.left), stop=progress.check), fields=f"metadata.name={name(place)}")
    except Timeout as error:
        raise ConfigError(f"Karpenter does not take the pool {name(place)}", why="; ".join(last) or "it says nothing of it: does Karpenter run?", next="correct kubernetes.nodepool: its nodeClassRef, and the values of its requirements") from error
    return bool(due)


def found(place: Place, rate: Callable[[Mapping[str, str]], float | None] = lambda _: None) -> tuple[Leftover, ...]:
    """The pool, and nodes of it that outlive it. `rate`: USD per hour of a node with these labels."""
    mark = ",".join(f"{key}={value}" for key, value in marks(place).items())
    pools = place.api.list(kinds.NODE_POOL, labels=mark).items
    claims = place.api.list(kinds.NODE_CLAIM, labels=mark).items if pools or place.block.nodepool is not None else ()
    if not pools and not claims:
        return ()
    why = f"{len(pools)} NodePool and {len(claims)} NodeClaims with the labels {mark}"
    each = [rate(claim["metadata"]["labels"]) for claim in claims]
    return (Leftover(PART, name(place), place.cluster, None, None, why, usd_per_hour=together(each)),)


def remove(place: Place, progress: Progress) -> None:
    """Waits until Karpenter has given its nodes back. Absent already: done."""
    mark = ",".join(f"{key}={value}" for key, value in marks(place).items())
    for item in place.api.list(kinds.NODE_POOL, labels=mark).items:
        progress.phase("stop", f"pool {item['metadata']['name']}")
        place.api.delete(kinds.NODE_POOL, item["metadata"]["name"], uid=item["metadata"]["uid"])
    for kind in (kinds.NODE_POOL, kinds.NODE_CLAIM):
        if place.api.list(kind, labels=mark).items:
            place.api.until(kind, None, lambda now: True if not now else None, progress, labels=mark)


def marks(place: Place) -> dict[str, str]:
    """Labels of the pool, of its claims and of its nodes."""
    return {**OURS, CLUSTER: place.cluster, NAMESPACE: place.namespace, "llm-pipeline/part": PART}


def _declared(path: str) -> str:
    """A field of the object, by its name in the cluster's YAML where it has one."""
    return BLOCK.sub("kubernetes.nodepool.", path)
