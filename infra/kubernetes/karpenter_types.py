"""What a declared pool would make for a release: the cheapest type that its requirements allow and that has the GPUs. Pure.

Karpenter makes whole nodes, and nobody else is on them: the price is that of as many nodes of one type as hold all pods. A requirement that
can not be judged here leaves the price unknown, and so does one that allows spot nodes: Karpenter takes those first. Types without GPUs are
not in the catalogue.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from infra.kubernetes.nodes import Node, Wish, placed, quantity
from infra.kubernetes.requests import GPU
from infra.kubernetes.shares import REGION, TYPE, Labels, Rate
from infra.planner.capacity import allocatable
from infra.planner.catalogue import Instance

CAPACITY, ZONE = "karpenter.sh/capacity-type", "topology.kubernetes.io/zone"

OWNERS = ("karpenter.sh", "karpenter.k8s.aws", "eks.amazonaws.com", "kubernetes.io", "k8s.io")
"""Whose keys tell of the type; any other is a label that Karpenter writes onto the node."""

NEUTRAL = {CAPACITY, ZONE, REGION, "topology.k8s.aws/zone-id"}
"""Judged apart, or the same for every type."""

Requirement = Mapping[str, Any]


def cheapest(pool: Mapping[str, Any], pods: Sequence[Wish], types: Sequence[Instance], rate: Rate, region: str, labels: Labels) -> float | None:
    """USD per hour; None: not known. `region`: where the pool makes its nodes; `labels`: what it writes onto them."""
    asked: Sequence[Requirement] = pool.get("requirements") or ()
    if spot(asked):
        return None
    ceiling, best = pool.get("limits") or {}, math.inf
    for instance in types:
        wears = {**labels, **told(instance), REGION: region}
        usd = None if instance.excluded else rate(wears)
        allowed = [allows(one, wears) for one in asked if one["key"] not in NEUTRAL]
        if usd is None or False in allowed:
            continue
        if None in allowed:
            return None
        count = needed(instance, wears, pods)
        if count and _within(ceiling, instance, count):
            best = min(best, usd * count)
    return round(best, 6) if best < math.inf else None


def unpriced(pool: Mapping[str, Any], types: Sequence[Instance], region: str, labels: Labels) -> str:
    """Why there is no price, in the same order of questions."""
    asked: Sequence[Requirement] = pool.get("requirements") or ()
    if spot(asked):
        return "kubernetes.nodepool allows more than nodes on demand, and what a spot node costs differs by the hour"
    if not region:
        return "kubernetes.nodepool names no region or zone, or several, and the nodes that are there do not tell which"
    wears = {**labels, **told(types[0]), REGION: region}
    if open_ := [one["key"] for one in asked if one["key"] not in NEUTRAL and allows(one, wears) is None]:
        return f"which types meet the requirement {open_[0]} of kubernetes.nodepool is not known here"
    return f"no type with a known price in {region} that kubernetes.nodepool allows holds its pods"


def told(instance: Instance) -> dict[str, str]:
    """The labels by which requirements choose a type: Karpenter's, and those of EKS Auto Mode."""
    family, _, size = instance.name.partition(".")
    category, generation = re.match(r"([a-z]+)([0-9]*)", family).groups()  # type: ignore[union-attr]
    own = {
        "instance-family": family, "instance-size": size, "instance-category": category, "instance-generation": generation, "instance-cpu": str(instance.cpus),
        "instance-memory": str(instance.memory >> 20), "instance-gpu-count": str(instance.gpus), "instance-gpu-manufacturer": "nvidia",
        "instance-gpu-name": re.sub(r"-(40|80)$", "", instance.gpu.name).lower().replace(" ", "-"), "instance-local-nvme": str(instance.scratch // 10**9),
    }  # fmt: skip
    common = {TYPE: instance.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    return common | {f"{domain}/{key}": value for domain in ("karpenter.k8s.aws", "eks.amazonaws.com") for key, value in own.items()}


def allows(one: Requirement, wears: Labels) -> bool | None:
    """Whether a type with these labels meets it. None: it speaks of something that is not known here."""
    key, operator, values = one["key"], one["operator"], [str(value) for value in one.get("values") or ()]
    if key not in wears:
        return None if key.split("/")[0].endswith(OWNERS) else True
    has = wears[key]
    match operator:
        case "In" | "NotIn":
            return (has in values) is (operator == "In")
        case "Exists" | "DoesNotExist":
            return bool(operator == "Exists")
        case "Gt" | "Lt" if has.isdigit() and len(values) == 1 and values[0].isdigit():
            return int(has) > int(values[0]) if operator == "Gt" else int(has) < int(values[0])
        case _:
            return None


def spot(asked: Sequence[Requirement]) -> bool:
    """Whether anything but nodes on demand is allowed. Karpenter's default is on demand alone."""
    said = [one for one in asked if one["key"] == CAPACITY]
    return any(one["operator"] != "In" or set(one.get("values") or ()) != {"on-demand"} for one in said)


def place(asked: Sequence[Requirement]) -> str:
    """The region that region or zones name; empty: they name none, or several."""
    said = {str(value) for one in asked if one["key"] in (REGION, ZONE) and one["operator"] == "In" for value in one.get("values") or ()}
    regions = {re.sub(r"(?<=[0-9])[a-z]$", "", value) for value in said}
    return regions.pop() if len(regions) == 1 else ""


def needed(instance: Instance, wears: Labels, pods: Sequence[Wish]) -> int:
    """How many nodes of this type hold all of the pods; 0: no number does."""
    cpus, memory = allocatable(instance)
    total = {"gpus": float(instance.gpus), "cpus": cpus, "memory": float(memory), "disk": math.inf, "pods": 110.0}
    for count in range(1, len(pods) + 1):
        empty = [Node(str(number), wears, (), ready=True, cordoned=False, total=total, free=total) for number in range(count)]
        if placed(pods, empty)[1] is None:
            return count
    return 0


def _within(ceiling: Mapping[str, Any], instance: Instance, count: int) -> bool:
    """Whether the pool's limits let it make so many."""
    has = {"cpu": instance.cpus, "memory": instance.memory, GPU: instance.gpus}
    return all(has[name] * count <= quantity(most) for name, most in ceiling.items() if name in has)
