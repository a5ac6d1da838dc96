"""Capacity: which instance types, how many of them and with how much tensor parallelism, by price; and why not the others. Pure.

What a node leaves to pods (the formulas of EKS' own start-up code, and Karpenter's default for what the hypervisor takes):

    memory   type × (1 − 7.5 %) − (255 MiB + 11 MiB × 110 pods) − 100 MiB for eviction − what daemons take
    CPUs     type − 6 % of the first − 1 % of the second − 0.5 % of the next two − 0.25 % of the rest − what daemons take
    disk     20 GiB for the system and the image twice (packed and unpacked lie side by side) stay; each pod asks for the weights, a tenth of
             them, and 10 GiB for logs and what the engine compiles
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date

from infra.planner.advice import Question
from infra.planner.architecture import Architecture
from infra.planner.arguments import Arguments
from infra.planner.catalogue import GIB, Catalogue, Instance, Prices, catalogue
from infra.planner.memory import Overheads, Plan, gib
from infra.planner.weights import Stored, weigh

HYPERVISOR, PODS, EVICTION = 0.075, 110, 100 << 20
DAEMON_CPUS, DAEMON_MEMORY = 0.5, 512 << 20
SYSTEM_DISK, SCRATCH = 20 * GIB, 10 * GIB

PARALLEL = (1, 2, 4, 8)


@dataclass(frozen=True)
class Requests:
    """What the pod of one replica asks for. Bytes; `scratch` is ephemeral storage."""

    gpus: int
    cpus: float
    memory: int
    scratch: int


@dataclass(frozen=True)
class Disk:
    """Of one node. `local`: the type's own NVMe is large enough; else a root volume of this size is needed."""

    size: int
    local: bool


@dataclass(frozen=True)
class Candidate:
    """`count` instances that together hold all replicas. `usd` per hour for all of them; null: the price is not known there."""

    instance: str
    gpu: str
    count: int
    parallel: int
    usd: float | None
    plan: Plan
    requests: Requests
    disk: Disk


@dataclass(frozen=True)
class Rejection:
    """A type that was not taken, and why."""

    instance: str
    why: str


@dataclass(frozen=True)
class Choice:
    """Cheapest first; candidates without a known price come last. Every type of the catalogue is in one of the two."""

    candidates: tuple[Candidate, ...]
    rejected: tuple[Rejection, ...]
    prices: Prices
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Wish:
    """What is wanted.

    parallel  tensor parallelism that is declared; null: whatever is cheapest
    gpu       only this chip, by any of its names; most_usd: per hour, for all instances together
    surcharge on top of the instance's price, as a share (EKS Auto Mode: about 0.12)
    image     bytes of the unpacked image
    """

    model: Architecture
    arguments: Arguments
    files: Stored | None = None
    replicas: int = 1
    concurrency: int = 1
    parallel: int | None = None
    gpu: str | None = None
    most_usd: float | None = None
    surcharge: float = 0.0
    image: int = 20 * GIB
    overheads: Overheads | None = None


def choose(wish: Wish, today: date, prices: Prices | None = None, region: str = "us-east-1", known: Catalogue | None = None) -> Choice:
    """All types, judged. `prices`: live ones; else the snapshot's for this region."""
    types, prices = known or catalogue(), prices or (known or catalogue()).prices(region)
    judged = [_judge(wish, one, prices, types) for one in types.instances]
    candidates = [one for one in judged if isinstance(one, Candidate)]
    base = types.prices()
    ordered = sorted(candidates, key=lambda one: (one.usd is None, one.usd or base.usd.get(one.instance, math.inf) * one.count, one.instance))
    return Choice(tuple(ordered), tuple(one for one in judged if isinstance(one, Rejection)), prices, tuple(_warnings(wish, prices, today, types)))


def allocatable(instance: Instance) -> tuple[float, int]:
    """CPUs and bytes of memory that a node of this type leaves to our pods."""
    shares = (0.06, 0.01, 0.005, 0.005, *[0.0025] * max(0, instance.cpus - 4))
    cpus = instance.cpus - sum(shares[: instance.cpus]) - DAEMON_CPUS
    memory = int(instance.memory * (1 - HYPERVISOR)) - ((255 + 11 * PODS) << 20) - EVICTION - DAEMON_MEMORY
    return max(0.0, cpus), max(0, memory)


def disk_of(instance: Instance, image: int, weights: int, pods: int = 1) -> Disk:
    """What a node needs for system, image and what its pods ask for."""
    size = SYSTEM_DISK + 2 * image + pods * scratch(weights)
    return Disk(size, instance.scratch >= size)


def scratch(weights: int) -> int:
    """Ephemeral storage of one pod."""
    return math.ceil(weights * 1.1) + SCRATCH


def _judge(wish: Wish, instance: Instance, prices: Prices, types: Catalogue) -> Candidate | Rejection:
    wanted = types.gpu(wish.gpu) if wish.gpu else None
    if instance.excluded:
        return Rejection(instance.name, instance.excluded)
    if wish.gpu and (wanted is None or wanted.name != instance.gpu.name):
        return Rejection(instance.name, f"it has {instance.gpu.name}, {wish.gpu} is asked for")
    groups = [wish.parallel] if wish.parallel else [count for count in PARALLEL if count <= instance.gpus]
    if wish.parallel and wish.parallel > instance.gpus:
        return Rejection(instance.name, f"it has {instance.gpus} GPU{'s' if instance.gpus > 1 else ''}, one replica needs {wish.parallel}")
    tried = list(_plans(wish, instance, groups))
    fitting = next((made for made in tried if made.fits), None)
    if fitting is None:
        return Rejection(instance.name, tried[-1].why)
    return _priced(wish, instance, fitting, prices)


def _plans(wish: Wish, instance: Instance, groups: list[int]) -> Iterator[Plan]:
    _, memory = allocatable(instance)
    for parallel in groups:
        arguments = replace(wish.arguments, tensor_parallel_size=parallel)
        yield Question(
            wish.model, instance.gpu, arguments, wish.files, wish.concurrency, host=memory // _together(wish, instance, parallel),
            overheads=wish.overheads,
        ).plan()  # fmt: skip


def _together(wish: Wish, instance: Instance, parallel: int) -> int:
    """Replicas on one instance."""
    return max(1, min(instance.gpus // parallel, wish.replicas))


def _priced(wish: Wish, instance: Instance, made: Plan, prices: Prices) -> Candidate | Rejection:
    together = _together(wish, instance, made.parallel)
    count = math.ceil(wish.replicas / together)
    each = prices.usd.get(instance.name)
    usd = None if each is None else round(each * count * (1 + wish.surcharge), 6)
    if usd is None and prices.source == "live":
        return Rejection(instance.name, f"it is not sold on demand in {prices.region}")
    if wish.most_usd is not None and usd is None:
        return Rejection(instance.name, f"its price in {prices.region} is not known, so no ceiling can be kept")
    if wish.most_usd is not None and usd is not None and usd > wish.most_usd:
        return Rejection(instance.name, f"{count} × {instance.name} cost {usd:.2f} USD per hour, the ceiling is {wish.most_usd:.2f}")
    files = weigh(wish.model, wish.model.dtype, wish.files)
    weights = 0 if files is None or wish.arguments.streamed else files.total
    cpus, memory = allocatable(instance)
    disk = disk_of(instance, wish.image, weights, together)
    asks = Requests(made.parallel, math.floor(cpus / together * 10) / 10, memory // together, scratch(weights))
    return Candidate(instance.name, instance.gpu.name, count, made.parallel, usd, made, asks, disk)


def _warnings(wish: Wish, prices: Prices, today: date, types: Catalogue) -> Iterator[str]:
    if prices.note:
        yield prices.note
    if old := prices.warning(today):
        yield old
    if not prices.usd:
        yield f"no price is known in {prices.region}: the order is that of us-east-1" + ("" if prices.note else "; AWS is asked where there are credentials (AWS_PROFILE)")
    if wish.gpu and types.gpu(wish.gpu) is None:
        yield f"{wish.gpu} is not a GPU of the catalogue: {', '.join(gpu.name for gpu in types.gpus)}"


def summary(choice: Choice) -> str:
    """The first candidate in words, or that there is none."""
    if not choice.candidates:
        return "no instance type holds it"
    best = choice.candidates[0]
    price = "at an unknown price" if best.usd is None else f"at {best.usd:.2f} USD per hour"
    margin = f"{best.plan.margin:.0%}" if best.plan.margin is not None else "unknown"
    return f"{best.count} × {best.instance} ({best.parallel} × {best.gpu} per replica) {price}; margin of the cache {margin}, {gib(best.plan.weights or 0)} of weights per GPU"
