"""What a pod pays of its node: the share that it takes away from others. Pure.

    a node with GPUs    its GPUs of the node's; a pod without any pays nothing there: nobody rents such a machine for its CPUs
    any other           the larger of its shares of CPUs and of memory, since who has all of the one leaves nothing of the other to use;
                        where these add up to more than the node, each pays in proportion

So the shares of a node are never more than the node, whatever runs there, and what nobody asked for is paid by nobody here.

A node costs what its type costs on demand in its region, by the labels that every cloud sets. No price is told for a spot node (it differs by
zone and by the hour), for capacity that was bought in advance, and for a node that does not say what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from infra.kubernetes.nodes import Amounts, Node, Wish, obstacle

TYPE, REGION = "node.kubernetes.io/instance-type", "topology.kubernetes.io/region"

BOUGHT = ("karpenter.sh/capacity-type", "eks.amazonaws.com/capacityType", "node.kubernetes.io/lifecycle")
"""Labels that tell how a node was bought: of Karpenter, of EKS' node groups, and what people write on nodes that neither of them made. Without any it is on demand."""

Labels = Mapping[str, str]
Rate = Callable[[Labels], float | None]
"""USD per hour of a node with these labels; None: not known."""


def machine(labels: Labels) -> tuple[str, str] | None:
    """Type and region of a node that was bought on demand; None: it is none, or does not say."""
    how = {labels[key].lower().replace("_", "-") for key in BOUGHT if key in labels}
    if how - {"on-demand", "normal"} or not labels.get(TYPE) or not labels.get(REGION):
        return None
    return labels[TYPE], labels[REGION]


def unpriced(labels: Labels) -> str:
    """Why a node with these labels has no price."""
    how = ", ".join(sorted({labels[key] for key in BOUGHT if key in labels}))
    if lacks := [key for key in (TYPE, REGION) if not labels.get(key)]:
        return f"has no label {lacks[0]}"
    return f"was not bought on demand ({how})" if machine(labels) is None else f"is a {labels[TYPE]} in {labels[REGION]}, whose price is not known"


def shares(total: Amounts, pods: Sequence[Amounts]) -> list[float]:
    """Of each of the pods of one node."""
    if total.get("gpus"):
        return [pod.get("gpus", 0) / total["gpus"] for pod in pods]
    larger = [max(_part(total, pod, "cpus"), _part(total, pod, "memory")) for pod in pods]
    return [one / max(1.0, sum(larger)) for one in larger]


def alone(node: Node, pods: Sequence[Wish], rate: Rate) -> float | None:
    """Of these pods on this node, with nobody else there."""
    usd = rate(node.labels)
    return None if usd is None else usd * min(1.0, sum(shares(node.total, [pod.amounts for pod in pods])))


def cheapest(pods: Sequence[Wish], found: Sequence[Node], rate: Rate) -> float | None:
    """Each on the node that costs least of those that it could ever run on. None: there is none with a price for one of them."""
    each = [min((usd for node in found if not obstacle(node, pod, total=True) and (usd := alone(node, [pod], rate)) is not None), default=None) for pod in pods]
    return together(each)


def together(amounts: Sequence[float | None]) -> float | None:
    """Their sum; one that is unknown makes it unknown."""
    known = [one for one in amounts if one is not None]
    return round(sum(known), 6) if len(known) == len(amounts) else None


def _part(total: Amounts, pod: Amounts, name: str) -> float:
    return pod.get(name, 0) / total[name] if total.get(name) else 0.0
