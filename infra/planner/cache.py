"""The key/value cache: how its blocks are laid out, as vLLM 0.32.0 does it (v1/core/kv_cache_utils.py, v1/kv_cache_interface.py). Pure.

    page        block × bytes per token and layer; keys and values: 2 × heads × head size × bytes. Latent attention keeps one
                vector instead, which tensor parallelism does not divide
    group       layers that share one table of blocks. All layers of one kind: one group. Full and sliding layers: groups of the
                smaller number (of the larger one when that is less than half more), the last of each kind padded
    block       one page for every layer of a group; all groups take their blocks from one pool
    sequence    per full group: ceil(length / block). Per sliding group: ceil(min(window − 1 + tokens in flight, length) / block) + 1
                since a window need not begin where a block does; two batches are in flight (asynchronous scheduling)

One block is always held back. The engine starts when the pool without it holds one sequence of full length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from infra.planner.architecture import BYTES, Architecture
from infra.planner.arguments import CACHE_TYPES, Arguments

IN_FLIGHT = 2
"""Batches scheduled and not settled (config/vllm.py, max_concurrent_batches with asynchronous scheduling, the default)."""


@dataclass(frozen=True)
class Cache:
    """Bytes per token (all layers, within the window), bytes of one block of the pool, blocks of one sequence of `length` tokens."""

    token: int
    block: int
    blocks: int
    length: int

    def held(self, memory: int) -> int:
        """Blocks in so many bytes, the one that is held back included."""
        return max(0, memory) // self.block

    def concurrency(self, memory: int) -> float:
        """Sequences of full length, as the engine prints it."""
        return self.held(memory) / self.blocks

    def tokens(self, memory: int) -> int:
        """`GPU KV cache size`, as the engine prints it."""
        return self.held(memory) * self.length // self.blocks

    def bytes(self, sequences: int = 1) -> int:
        """What so many sequences of full length need."""
        return (self.blocks * sequences + 1) * self.block

    def margin(self, memory: int, sequences: int) -> float:
        """By how much the pool is larger than what so many sequences need; negative: it is too small, −1: there is none."""
        return max(0, self.held(memory) - 1) / (self.blocks * sequences) - 1


def cache(model: Architecture, arguments: Arguments, dtype: str, length: int, batch: int, block: int = 16) -> Cache:
    """The cache per GPU. `length`: the longest sequence; `batch`: tokens of one step; `block`: tokens, where nobody says otherwise."""
    size = arguments.block_size or block
    token = per_token(model, arguments, dtype)
    sliding = 0 if arguments.disable_hybrid_kv_cache_manager and model.sliding < model.layers else model.sliding
    full = model.layers - sliding
    group = _group(full, sliding)
    window = math.ceil(min(model.window - 1 + IN_FLIGHT * batch, length) / size) + 1
    blocks = math.ceil(full / group) * math.ceil(length / size) + math.ceil(sliding / group) * window
    return Cache(token * model.layers, group * size * token, blocks, length)


def per_token(model: Architecture, arguments: Arguments, dtype: str) -> int:
    """Bytes per token and layer on one GPU."""
    kind = arguments.kv_cache_dtype
    size = CACHE_TYPES.get(dtype if kind == "auto" else kind, 2)
    if model.latent:
        # fp8_ds_mla: 512 bytes, 4 scales and 64 numbers of 16 bit (v1/attention/backends/mla/flashmla_sparse.py).
        return 656 if kind == "fp8_ds_mla" else model.latent.cached * size
    heads = max(1, model.kv_heads // arguments.tensor_parallel_size)
    scales = 2 * heads * BYTES["float32"] if kind.endswith("per_token_head") else 0
    return heads * (model.head_dim + model.value_dim) * size + scales


def _group(full: int, sliding: int) -> int:
    """Layers per group (_get_kv_cache_groups_uniform_page_size)."""
    if not full or not sliding:
        return full or sliding
    few, many = sorted((full, sliding))
    return many if many < few * 1.5 else few
