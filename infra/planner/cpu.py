"""An engine on CPUs: main memory, and the space for the cache that it is started with. Pure.

vLLM on CPUs takes what `kv_cache_memory_bytes` says (v1/worker/cpu_worker.py); without it it would take 92 % of the machine. So the
space is computed here: every sequence at full length, in blocks of 128 tokens (platforms/cpu.py; 16 for latent attention), and the
one block that is always held back. Weights and cache lie in main memory beside what Python, Ray and the engine take, which is measured
per kind of engine and passed in as `overhead`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from infra.planner.architecture import BYTES, Architecture
from infra.planner.arguments import Arguments
from infra.planner.cache import Cache, cache
from infra.planner.memory import Verdict, activation, gib, uncomputed
from infra.planner.weights import Stored, weigh

LOAD = 1.1
"""Main memory per byte of weights while one file after the other is copied."""

BATCH = 2048
"""Tokens of one step, where nobody says otherwise (engine/arg_utils.py)."""

LEAST = 64 << 20
"""Bytes of cache that are always given: less saves nothing."""

UNKNOWN = 1 << 30
"""Bytes of cache for a model whose cache is not computed."""


@dataclass(frozen=True)
class CpuPlan:
    """One replica in main memory, in bytes; null where it is not known. `cache` is what each of its processes is started with."""

    verdict: Verdict
    why: str
    length: int
    sequences: int
    weights: int | None
    rope: int | None
    activation: int | None
    cache: int
    overhead: int
    needs: int
    free: int | None = None
    margin: float | None = None
    token: int | None = None
    tokens: int | None = None
    concurrency: float | None = None

    @property
    def fits(self) -> bool:
        return self.verdict == "fits"

    def to_dict(self) -> dict[str, Any]:
        """As JSON; unknown is null."""
        return asdict(self)


def cache_space(model: Architecture, arguments: Arguments) -> int:
    """`kv_cache_memory_bytes` for an engine on CPUs. An explicit one wins; 1 GiB when the model's cache is not computed."""
    if arguments.kv_cache_memory_bytes:
        return arguments.kv_cache_memory_bytes
    blocks = _blocks(model, arguments)
    return max(LEAST, blocks.bytes(arguments.max_num_seqs or 256)) if blocks else UNKNOWN


def plan_cpu(
    model: Architecture, arguments: Arguments, *, overhead: int, files: Stored | None = None, free: int | None = None, size: int = 0
) -> CpuPlan:
    """Whether one replica fits into `free` bytes of main memory (null: only what it needs).

    overhead   of this kind of engine, measured
    size       bytes of the files, for a model whose weights can be neither counted nor read
    """
    blocks, space, processes = _blocks(model, arguments), cache_space(model, arguments), arguments.tensor_parallel_size
    sequences = arguments.max_num_seqs or 256
    dtype = model.computes_in(arguments.dtype)
    loaded = weigh(model, dtype if dtype in BYTES else "bfloat16", files)
    weights = loaded.per_gpu(model, processes) * processes if loaded else size or None
    number = BYTES.get(dtype, 2)
    busy = activation(model, arguments, number, min(arguments.max_num_batched_tokens or BATCH, 1 << 20), sequences) if blocks else 0
    table = model.rope * number * bool(blocks)
    needs = int((weights or 0) * LOAD) + (table + busy + space + overhead) * processes
    made = CpuPlan(
        "unknown", "", arguments.max_model_len or model.usual, sequences, weights, table * processes if blocks else None,
        busy * processes if blocks else None, space, overhead * processes, needs, free,
    )  # fmt: skip
    if blocks:
        tokens, at_once = blocks.tokens(space), round(blocks.concurrency(space), 3)
        made = replace(made, token=blocks.token, tokens=tokens, concurrency=at_once)
    return _judged(made, blocks, uncomputed(model, arguments))


def _judged(made: CpuPlan, blocks: Cache | None, unknown: str) -> CpuPlan:
    if blocks and blocks.margin(made.cache, 1) < 0:
        short = f"{gib(made.cache)} of cache hold no sequence of {made.length:,} tokens: {gib(blocks.bytes())} are needed"
        return replace(made, verdict="refused", why=short)
    free = made.free
    if free is None:
        return replace(made, why=f"not computed: {unknown}" if unknown else f"needs {gib(made.needs)} of memory")
    told = f"needs {gib(made.needs)} of memory, {gib(max(0, free))} are free"
    made = replace(made, margin=round(free / made.needs - 1, 4), why=told)
    if free < made.needs:
        return replace(made, verdict="refused")
    if unknown or made.weights is None:
        return replace(made, why=f"{told}; not computed: {unknown or 'the size of the weights'}")
    return replace(made, verdict="fits")


def _blocks(model: Architecture, arguments: Arguments) -> Cache | None:
    length = arguments.max_model_len or model.usual
    if uncomputed(model, arguments) or not length:
        return None
    batch = min(arguments.max_num_batched_tokens or BATCH, (arguments.max_num_seqs or 256) * length)
    return cache(model, arguments, model.computes_in(arguments.dtype), length, batch, block=16 if model.latent else 128)
