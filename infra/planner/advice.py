"""Advice: the nearest thing that would fit when something does not. Every piece was planned again and fits. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from infra.planner.architecture import Architecture
from infra.planner.arguments import Arguments
from infra.planner.catalogue import Gpu, catalogue
from infra.planner.cpu import CpuPlan
from infra.planner.memory import CONTEXT, Overheads, Plan, plan
from infra.planner.weights import Stored

SHORTEST = 256
"""Tokens; a shorter context is no advice."""

GROUPS = (2, 4, 8)
"""GPUs that machines are sold with."""


@dataclass(frozen=True)
class Suggestion:
    """One change. `kind`: type · room · fewer · shorter · fp8 · parallel · bigger; `text` says what to write; `plan` is what it leads to."""

    kind: str
    text: str
    plan: Plan | CpuPlan


@dataclass(frozen=True)
class Question:
    """What did not fit: the arguments of `memory.plan`."""

    model: Architecture
    gpu: Gpu
    arguments: Arguments
    files: Stored | None = None
    concurrency: int = 1
    free: int | None = None
    host: int | None = None
    overheads: Overheads | None = None

    def plan(self) -> Plan:
        return plan(
            self.model, self.gpu, self.arguments, files=self.files, concurrency=self.concurrency, free=self.free, host=self.host,
            overheads=self.overheads,
        )  # fmt: skip

    def but(self, **changed: object) -> Question:
        """The same with other engine arguments."""
        return replace(self, arguments=replace(self.arguments, **changed))  # type: ignore[arg-type]


def advise(asked: Question) -> tuple[Suggestion, ...]:
    """Single changes that make it fit, the one that changes least first. Empty when it fits, and when no single change is enough."""
    if asked.plan().verdict != "refused":
        return ()
    return tuple(one for find in (_type, _room, _fewer, _shorter, _fp8, _parallel, _bigger) if (one := find(asked)) is not None)


def advise_on_cpus(plan: Callable[[Arguments], CpuPlan], told: Arguments) -> tuple[Suggestion, ...]:
    """The same in main memory. `plan`: what comes of other arguments than `told`, which do not fit."""
    own = replace(told, kv_cache_memory_bytes=None)
    fewer = _largest(lambda count: plan(replace(told, max_num_seqs=count)).fits, 1, (told.max_num_seqs or 256) - 1)
    shorter = 16 * _largest(lambda blocks: plan(replace(told, max_model_len=16 * blocks)).fits, SHORTEST // 16, (plan(told).length - 1) // 16)
    tried = (
        ("room", told.kv_cache_memory_bytes, f"raise engine.extra.kv_cache_memory_bytes: the planner would give {plan(own).cache}", own),
        ("fewer", fewer, f"set engine.max_num_seqs: {fewer}", replace(told, max_num_seqs=fewer or None)),
        ("shorter", shorter, f"set engine.max_model_len: {shorter}", replace(told, max_model_len=shorter or None)),
    )
    return tuple(Suggestion(kind, text, made) for kind, found, text, changed in tried if found and (made := plan(changed)).fits)


def sentence(found: tuple[Suggestion, ...]) -> str:
    """For people, as the `next` of an error."""
    return "; or ".join(one.text for one in found) or "no single change is enough: use a smaller model, or a quantised one on a bigger GPU"


def _type(asked: Question) -> Suggestion | None:
    return None if asked.arguments.dtype == "auto" else _found("type", "set engine.dtype: auto", asked.but(dtype="auto"))


def _room(asked: Question) -> Suggestion | None:
    """The engine's own share of the GPU, or what is free of it."""
    free = asked.gpu.memory - CONTEXT if asked.free is None else asked.free
    share = min(Arguments.gpu_memory_utilization, math.floor(100 * free / asked.gpu.memory) / 100)
    if share <= 0 or share == asked.arguments.gpu_memory_utilization:
        return None
    return _found("room", f"set engine.extra.gpu_memory_utilization: {share:g}", asked.but(gpu_memory_utilization=share))


def _fewer(asked: Question) -> Suggestion | None:
    most = _largest(lambda count: replace(asked, concurrency=count).plan().fits, 1, asked.concurrency - 1)
    if most:
        return _found("fewer", f"ask for {most} sequences at full length at once", replace(asked, concurrency=most))
    now = asked.arguments.sequences(asked.gpu)
    most = _largest(lambda count: asked.but(max_num_seqs=count).plan().fits, 1, now - 1)
    return _found("fewer", f"set engine.max_num_seqs: {most}", asked.but(max_num_seqs=most)) if most else None


def _shorter(asked: Question) -> Suggestion | None:
    now = asked.plan().length
    most = _largest(lambda blocks: asked.but(max_model_len=16 * blocks).plan().fits, SHORTEST // 16, (now - 1) // 16)
    return _found("shorter", f"set engine.max_model_len: {16 * most}", asked.but(max_model_len=16 * most)) if most else None


def _fp8(asked: Question) -> Suggestion | None:
    return None if asked.model.quantisation else _found("fp8", "set engine.extra.quantization: fp8", asked.but(quantization="fp8"))


def _parallel(asked: Question) -> Suggestion | None:
    now = asked.arguments.tensor_parallel_size
    attempts = (asked.but(tensor_parallel_size=count) for count in GROUPS if count > now)
    return _first(
        ("parallel", f"use {one.arguments.tensor_parallel_size} × {asked.gpu.name} (engine.tensor_parallel_size)", one) for one in attempts
    )


def _bigger(asked: Question) -> Suggestion | None:
    larger = sorted((gpu for gpu in catalogue().gpus if gpu.memory > asked.gpu.memory), key=lambda gpu: gpu.memory)
    return _first(("bigger", f"use a GPU such as {gpu.name}", replace(asked, gpu=gpu, free=None)) for gpu in larger)


def _first(attempts: Iterator[tuple[str, str, Question]]) -> Suggestion | None:
    return next((one for attempt in attempts if (one := _found(*attempt)) is not None), None)


def _found(kind: str, text: str, changed: Question) -> Suggestion | None:
    made = changed.plan()
    return Suggestion(kind, text, made) if made.fits else None


def _largest(fits: Callable[[int], bool], least: int, most: int) -> int:
    """The largest number of a range that fits, given that less always fits too; 0 when none does."""
    if most < least or not fits(least):
        return 0
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if fits(middle) else (least, middle - 1)
    return least
