"""The memory of one GPU: what of it an engine takes for what, and whether a model fits. Pure.

    requested  = total × gpu_memory_utilization          free at start must be at least that, else the engine stops
    cache      = requested − weights − RoPE − activation − non-torch − CUDA graphs
                 (vLLM 0.32.0, v1/worker/gpu_worker.py, determine_available_memory; graphs are subtracted since 0.21)

Weights, RoPE and cache follow from the model. The rest is estimated:

    RoPE        positions × rotated numbers × bytes, once (model_executor/layers/rotary_embedding/base.py)
    activation  tokens of a step × (3 × width / TP + 3 × hidden) × bytes, and 4 bytes × vocabulary per sequence.
                Gate, up and their product; residual, its norm and the result; logits in 32 bits. Own formula: 0.85 GiB for
                Llama 3.1 8B with 8,192 tokens, as a log of it on one A10G says (docs/planning.md). Experts not compared with a log.
    non-torch   0.06 to 0.2 GiB were seen on one GPU, 0.2 to 1.4 with NCCL between several
    graphs      0.3 to 1.2 GiB were seen in 2026; none with enforce_eager

A verdict keeps 5 % of the cache as margin for what is estimated. After the start the engine's own numbers count (drift.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from infra.planner.architecture import BYTES, NO_FLOAT16, ORDINARY, Architecture
from infra.planner.arguments import FP8_MADE, Arguments
from infra.planner.cache import Cache, cache
from infra.planner.catalogue import GIB, Gpu
from infra.planner.parameters import FAMILIES
from infra.planner.quantisation import ABSENT, CAPABILITY, FP8, Quantisation
from infra.planner.weights import Stored, Weights, weigh

Verdict = Literal["fits", "refused", "unknown"]

MARGIN = 0.05
"""Of the wanted cache: what the estimates may be wrong by."""

CONTEXT = int(0.06 * GIB)
"""Bytes of a GPU that the engine's own process has taken before it looks how much is free: the least that any log shows beside torch."""

HOST = 1.2
"""Main memory per byte of weights while they are loaded, unless they are streamed. Own rule: 8B in 16 bits does not fit 16 GiB."""


@dataclass(frozen=True)
class Overheads:
    """Bytes that no formula gives, per GPU. Pass what an earlier start of the same image measured, where it is known."""

    alone: int = int(0.2 * GIB)
    together: int = int(0.8 * GIB)
    graphs: int = int(0.5 * GIB)


@dataclass(frozen=True)
class Plan:
    """One replica on GPUs of one kind; bytes per GPU, null where it is not known.

    because      what refused it: a word of `REFUSALS`; empty when nothing did
    concurrency  sequences of full length that the cache holds; `wanted` of them were asked for
    margin       of the cache beyond what is wanted; 0.05 is the least that is accepted
    host         main memory that one replica needs while it loads
    """

    verdict: Verdict
    why: str
    because: str
    gpu: str
    parallel: int
    length: int
    wanted: int
    total: int
    requested: int
    weights: int | None = None
    rope: int | None = None
    activation: int | None = None
    non_torch: int | None = None
    graphs: int | None = None
    cache: int | None = None
    token: int | None = None
    tokens: int | None = None
    concurrency: float | None = None
    margin: float | None = None
    host: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        return self.verdict == "fits"

    def to_dict(self) -> dict[str, Any]:
        """As JSON; sizes in bytes, unknown is null."""
        return {**asdict(self), "notes": list(self.notes)}


REFUSALS = ("dtype", "quantisation", "heads", "context", "batch", "free", "weights", "cache", "concurrency", "host")
"""What can refuse a plan, in the order in which it is looked at."""


def plan(
    model: Architecture, gpu: Gpu, arguments: Arguments, *, files: Stored | None = None, concurrency: int = 1,
    free: int | None = None, host: int | None = None, overheads: Overheads | None = None,
) -> Plan:  # fmt: skip
    """Whether one replica fits on `tensor_parallel_size` GPUs of this kind.

    files        what the headers of the weights say; else they are counted
    concurrency  sequences of full length that the cache shall hold at once
    free         bytes free on the GPU now; null: all of it
    host         bytes of main memory that a replica can have; null: not looked at
    """
    length = arguments.max_model_len or model.usual
    terms = _Terms(model, gpu, arguments, files, length, max(1, concurrency), overheads or Overheads())
    for because, why in _rules(terms, free):
        return terms.plan("refused", why, because)
    if terms.weights is not None and terms.weights >= terms.requested:
        return terms.plan("refused", f"{terms.place}: the weights alone take {gib(terms.weights)}, the engine may use {gib(terms.requested)}", "weights")
    unknown = uncomputed(model, arguments) or _lacking(terms)
    if unknown:
        return terms.plan("unknown", f"not computed: {unknown}", "")
    return _decide(terms, host)


def uncomputed(model: Architecture, arguments: Arguments) -> str:
    """Why the arithmetic does not hold for this model with these arguments; empty: it does."""
    return model.uncomputed or arguments.uncomputed or _made_otherwise(model, arguments)


def _made_otherwise(model: Architecture, arguments: Arguments) -> str:
    asked = arguments.quantization
    known = asked is None or model.quantisation is not None or asked in FP8_MADE
    return "" if known else f"the engine would quantise the weights itself ({asked}) in a way that is not computed"


def _rules(terms: _Terms, free: int | None) -> Iterator[tuple[str, str]]:
    """What the engine refuses before it looks at memory."""
    model, gpu, parallel = terms.model, terms.gpu, terms.arguments.tensor_parallel_size
    if terms.dtype == "bfloat16" and not gpu.bfloat16:
        yield "dtype", f"{gpu.name} can not compute in bfloat16 (compute capability {gpu.capability}, 8.0 is needed)"
    if terms.dtype == "float16" and model.family in NO_FLOAT16:
        yield "dtype", f"the engine refuses to compute {model.family} in float16"
    if model.quantisation and model.quantisation.kind in ABSENT:
        yield "quantisation", f"the engine has no quantisation {model.quantisation.kind}"
    for kind in terms.kinds:
        if gpu.capability < CAPABILITY.get(kind, 0.0):
            yield "quantisation", f"{gpu.name} can not compute with {kind} (compute capability {gpu.capability}, {CAPABILITY[kind]} is needed)"
    yield from (("heads", f"tensor_parallel_size {parallel} {why}") for why in _undivided(model, terms.arguments, parallel))
    if model.positions and terms.length > model.positions:
        yield "context", f"the model was made for contexts of {model.positions:,} tokens, {terms.length:,} are asked for"
    if most := _too_small(terms):
        yield "batch", most
    if terms.requested > gpu.memory - CONTEXT:
        share = terms.arguments.gpu_memory_utilization
        yield "free", f"gpu_memory_utilization {share:g} leaves nothing of {gpu.name} for what the engine's process takes before it looks"
    if free is not None and free < terms.requested:
        yield "free", f"{gib(free)} of {gpu.name} are free, and the engine takes {gib(terms.requested)} (gpu_memory_utilization)"


def _undivided(model: Architecture, arguments: Arguments, parallel: int) -> Iterator[str]:
    """What a group of GPUs can not share evenly. Groups of quantised numbers must not be split between two of them."""
    if model.heads and model.heads % parallel:
        yield f"does not divide the {model.heads} attention heads"
    if not model.latent and model.kv_heads and model.kv_heads % parallel and parallel % model.kv_heads:
        yield f"and the {model.kv_heads} key/value heads do not divide one another"
    experts = model.experts.width if model.experts and not arguments.enable_expert_parallel else 0
    for width in (model.width, experts):
        if width % parallel:
            yield f"does not divide the width {width} of the MLP"
    group = model.quantisation.group if model.quantisation and not model.experts else 1
    if parallel > 1 and model.width // parallel % group:
        yield f"splits groups of {group} numbers that are quantised together (the width of the MLP is {model.width})"


def _too_small(terms: _Terms) -> str:
    """Batches with which the engine does not start (config/scheduler.py); empty: it does."""
    batch, told = terms.batch, terms.arguments
    sequences = told.max_num_seqs or 0
    if batch < sequences:
        return f"max_num_batched_tokens {batch:,} is less than max_num_seqs {sequences:,}"
    if batch < terms.length and not told.enable_chunked_prefill:
        return f"max_num_batched_tokens {batch:,} is less than max_model_len {terms.length:,}, and enable_chunked_prefill is false"
    return ""


def _lacking(terms: _Terms) -> str:
    if terms.weights is None:
        return "the size of the weights is not known without their headers"
    return "" if terms.length else "config.json does not say the longest context, and max_model_len is not set"


def _decide(terms: _Terms, host: int | None) -> Plan:
    """By the cache that is left."""
    blocks, wanted, left = terms.blocks, terms.wanted, terms.left
    need = f"{wanted if wanted > 1 else 'one'} sequence{'s' if wanted > 1 else ''} of {terms.length:,} tokens"
    if blocks.margin(left, 1) < 0:
        return terms.plan("refused", terms.sentence(f"{gib(left)} are left for the cache, {gib(blocks.bytes())} are needed for one sequence"), "cache")
    if blocks.margin(left, wanted) < MARGIN:
        short = f"{gib(left)} are left for the cache, {gib(blocks.bytes(wanted))} and {MARGIN:.0%} are needed for {need}"
        return terms.plan("refused", terms.sentence(short), "concurrency" if wanted > 1 and blocks.margin(left, 1) >= MARGIN else "cache")
    if host is not None and terms.host is not None and host < terms.host:
        return terms.plan("refused", f"loading needs {gib(terms.host)} of main memory, {gib(host)} are there", "host")
    return terms.plan("fits", terms.sentence(f"{blocks.tokens(left):,} tokens of cache, {blocks.concurrency(left):.1f} sequences at full length"), "")


@dataclass(frozen=True)
class _Terms:
    """The terms of the sum; each a property, so that one can be read beside its formula."""

    model: Architecture
    gpu: Gpu
    arguments: Arguments
    files: Stored | None
    length: int
    wanted: int
    overheads: Overheads

    @property
    def dtype(self) -> str:
        return self.model.computes_in(self.arguments.dtype, bfloat16=self.gpu.bfloat16)

    @property
    def made(self) -> Quantisation | None:
        """Quantised by the engine while it loads 16-bit weights."""
        return FP8 if self.arguments.quantization in FP8_MADE and self.model.quantisation is None else None

    @property
    def kinds(self) -> list[str]:
        """Number types that the chip must know, beside the one it computes in."""
        quantised = self.made or self.model.quantisation
        return [*([quantised.kind] if quantised else []), *(["fp8"] if self.arguments.kv_cache_dtype.startswith("fp8") else [])]

    @property
    def requested(self) -> int:
        return math.ceil(self.gpu.memory * self.arguments.gpu_memory_utilization)

    @property
    def host(self) -> int | None:
        """The files pass through, as they are stored: what the engine makes of them comes after."""
        files = weigh(self.model, self.model.dtype, self.files)
        return None if files is None or self.arguments.streamed else math.ceil(files.total * HOST)

    @property
    def weights(self) -> int | None:
        loaded = self._loaded
        return None if loaded is None else loaded.per_gpu(self.model, self.arguments.tensor_parallel_size)

    @property
    def _loaded(self) -> Weights | None:
        if not self.arguments.same_weights or _made_otherwise(self.model, self.arguments):
            return None
        return weigh(self.model, self.dtype if self.dtype in BYTES else "bfloat16", self.files, self.made)

    @property
    def rope(self) -> int:
        return self.model.rope * self.size

    @property
    def size(self) -> int:
        return BYTES.get(self.dtype, 2)

    @property
    def activation(self) -> int:
        return activation(self.model, self.arguments, self.size, self.batch, self.arguments.sequences(self.gpu))

    @property
    def batch(self) -> int:
        return self.arguments.batch(self.gpu, self.length)

    @property
    def non_torch(self) -> int:
        return self.overheads.alone if self.arguments.tensor_parallel_size == 1 else self.overheads.together

    @property
    def graphs(self) -> int:
        return 0 if self.arguments.enforce_eager else self.overheads.graphs

    @property
    def blocks(self) -> Cache:
        return cache(self.model, self.arguments, self.dtype, self.length, self.batch, block=64 if self.model.latent else 16)

    @property
    def left(self) -> int:
        """For the cache. An explicit kv_cache_memory_bytes counts as far as the whole GPU has room for it."""
        beside = (self.weights or 0) + self.rope + self.activation + self.non_torch + self.graphs
        explicit = self.arguments.kv_cache_memory_bytes
        if explicit is None:
            return self.requested - beside
        return explicit if explicit + beside <= self.gpu.memory else self.gpu.memory - beside - explicit

    @property
    def place(self) -> str:
        parallel = self.arguments.tensor_parallel_size
        return f"each of {parallel} × {self.gpu.name}" if parallel > 1 else self.gpu.name

    def sentence(self, found: str) -> str:
        return f"{self.place}: {found}; of {gib(self.requested)} the weights take {gib(self.weights or 0)}"

    def plan(self, verdict: Verdict, why: str, because: str) -> Plan:
        known = not (uncomputed(self.model, self.arguments) or _lacking(self) or self.dtype not in BYTES)
        sums: dict[str, Any] = {}
        if known:
            left, blocks = self.left, self.blocks
            sums = {
                "activation": self.activation, "non_torch": self.non_torch, "graphs": self.graphs, "cache": max(0, left), "token": blocks.token,
                "tokens": blocks.tokens(left), "concurrency": round(blocks.concurrency(left), 3), "margin": round(blocks.margin(left, self.wanted), 4),
            }  # fmt: skip
        return Plan(
            verdict, why, because, self.gpu.name, self.arguments.tensor_parallel_size, self.length, self.wanted, self.gpu.memory, self.requested,
            weights=self.weights, rope=self.rope if self.model.rope else None, host=self.host, notes=tuple(self._notes()), **sums,
        )  # fmt: skip

    def _notes(self) -> Iterator[str]:
        if self.model.dtype == "bfloat16" and self.arguments.dtype == "auto" and not self.gpu.bfloat16:
            yield f"{self.gpu.name} has no bfloat16: the engine computes in {self.dtype}"
        if not self.gpu.seen:
            yield f"the memory of {self.gpu.name} was never read in a log: taken as {gib(self.gpu.memory)}"
        if self.files is None and self.weights is not None:
            yield "the weights were counted from config.json: their headers were not at hand"
        if self.model.family not in (*FAMILIES, *ORDINARY) and not self.model.uncomputed:
            yield f"{self.model.family or 'its family'} was never compared with an engine: taken for a model of ordinary attention"


def activation(model: Architecture, arguments: Arguments, size: int, batch: int, sequences: int) -> int:
    """Bytes of the largest step. Of experts the caches of the fused kernel count: gate and up (or the result), and the product."""
    parallel = arguments.tensor_parallel_size
    width = math.ceil(3 * (model.width + (model.experts.shared if model.experts else 0)) / parallel)
    if model.experts:
        own = math.ceil(model.experts.width / parallel)
        width = max(width, model.experts.per_token * (max(2 * own, model.hidden) + own))
    return batch * (width + 3 * model.hidden) * size + sequences * model.vocab * BYTES["float32"]


def gib(size: int) -> str:
    """1.5 GiB, for sentences."""
    return f"{size / GIB:.2f} GiB" if abs(size) < 10 * GIB else f"{size / GIB:.1f} GiB"
