"""Arguments: what the engine is told, as far as memory depends on it. Pure; never raises.

Names, defaults and rules are vLLM's own (0.32.0: config/cache.py, config/scheduler.py, engine/arg_utils.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra.planner.architecture import BYTES
from infra.planner.catalogue import GIB, Gpu

CACHE_TYPES = {
    **BYTES, "half": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1, "fp8_inc": 1, "int8_per_token_head": 1, "fp8_per_token_head": 1, "fp8_ds_mla": 1,
}  # fmt: skip
"""Bytes of a number in the cache. `auto` is the type that the engine computes in."""

LEAVE_ROOM = {
    "speculative_config": "speculation loads a second model",
    "enable_lora": "adapters take memory of their own",
    "cpu_offload_gb": "a part of the weights would lie in main memory",
    "hf_overrides": "config.json is overridden",
    "num_gpu_blocks_override": "the number of cache blocks is forced",
    "kv_transfer_config": "the cache is shared with other engines",
    "mamba_block_size": "it is set for a hybrid model",
    "load_in_4bit": "the weights are quantised by the engine in a way that is not computed",
}
"""Arguments whose presence means that the arithmetic does not hold, and why."""

RANKS = ("pipeline_parallel_size", "data_parallel_size", "decode_context_parallel_size", "prefill_context_parallel_size")

STREAMED = ("runai_streamer", "runai_streamer_sharded", "tensorizer")
"""Ways to load (`load_format`) that never hold all weights in main memory."""


@dataclass(frozen=True)
class Arguments:
    """Null means the engine's own default. Sizes in tokens, `kv_cache_memory_bytes` in bytes per GPU."""

    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    tensor_parallel_size: int = 1
    dtype: str = "auto"
    quantization: str | None = None
    kv_cache_dtype: str = "auto"
    kv_cache_memory_bytes: int | None = None
    gpu_memory_utilization: float = 0.92
    block_size: int | None = None
    enforce_eager: bool = False
    disable_hybrid_kv_cache_manager: bool = False
    load_format: str = "auto"
    uncomputed: str = ""

    @property
    def streamed(self) -> bool:
        return self.load_format in STREAMED

    def sequences(self, gpu: Gpu) -> int:
        """Requests at once (arg_utils.py, get_batch_defaults)."""
        return self.max_num_seqs or (1024 if _large(gpu) else 256)

    def batch(self, gpu: Gpu, length: int) -> int:
        """Tokens that one step works on. The API server's default depends on the chip and never exceeds what all sequences hold."""
        if self.max_num_batched_tokens:
            return self.max_num_batched_tokens
        usual = 16384 if gpu.memory >= 160 * GIB else 8192 if _large(gpu) else 2048
        return min(usual, self.sequences(gpu) * length)


def read(given: Mapping[str, Any]) -> Arguments:
    """The engine's arguments by their own names, as `infra.engine.arguments` gives them."""
    wrong = [name for name, check in CHECKS.items() if given.get(name) is not None and not check(given[name])]
    known = {name: given[name] for name in Arguments.__dataclass_fields__ if name in CHECKS and given.get(name) is not None and name not in wrong}
    return Arguments(**known, uncomputed=f"the value of {wrong[0]} is not one that it can have" if wrong else _uncomputed(given))


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 50


def _share(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1


CHECKS = {
    **dict.fromkeys(
        ("max_model_len", "max_num_seqs", "max_num_batched_tokens", "tensor_parallel_size", "kv_cache_memory_bytes", "block_size"), _whole
    ),
    **dict.fromkeys(("dtype", "quantization", "load_format"), lambda value: isinstance(value, str)),
    **dict.fromkeys(("enforce_eager", "disable_hybrid_kv_cache_manager"), lambda value: isinstance(value, bool)),
    "kv_cache_dtype": lambda value: value == "auto" or value in CACHE_TYPES,
    "gpu_memory_utilization": _share,
}


def _uncomputed(given: Mapping[str, Any]) -> str:
    for name, reason in LEAVE_ROOM.items():
        if given.get(name) not in (None, False, 0, "", {}, []):
            return reason
    ranks = [name for name in RANKS if given.get(name) not in (None, 1)]
    return f"{ranks[0]} is not 1" if ranks else ""


def _large(gpu: Gpu) -> bool:
    """Chips that get the larger defaults: 70 GiB and more, save the A100."""
    return gpu.memory >= 70 * GIB and not gpu.name.upper().startswith("A100")
