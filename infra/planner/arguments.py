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

RANKS = ("pipeline_parallel_size", "data_parallel_size", "nnodes", "decode_context_parallel_size", "prefill_context_parallel_size")

OFFLOADED, OVERRIDDEN = "a part of the weights would lie in main memory", "config.json is overridden"
SPECULATION, ADAPTERS, SHARED = "speculation loads a second model", "adapters take memory of their own", "the cache is shared with other engines"

OTHER_WEIGHTS = {
    **dict.fromkeys(("cpu_offload_gb", "cpu_offload_params", "offload_backend", "offload_group_size", "offload_params"), OFFLOADED),
    **dict.fromkeys(("hf_overrides", "hf_config_path", "model_weights"), OVERRIDDEN),
    **dict.fromkeys(("quantization_config", "load_in_4bit"), "the weights are quantised by the engine in a way that is not computed"),
    **{name: f"{name} is not 1" for name in RANKS[:3]},
}
"""Arguments with which a GPU holds other weights than are computed, and why: not even too large ones are refused then."""

LEAVE_ROOM = {
    **dict.fromkeys(("speculative_config", "spec_method", "spec_model", "spec_tokens"), SPECULATION),
    **dict.fromkeys(("enable_lora", "default_mm_loras"), ADAPTERS),
    **dict.fromkeys(("kv_transfer_config", "ec_transfer_config"), SHARED),
    **dict.fromkeys(("runner", "convert", "diffusion_config"), "it is not served as a model that writes text"),
    **{name: f"{name} is not 1" for name in RANKS[3:]},
    "num_gpu_blocks_override": "the number of cache blocks is forced",
    "kv_offloading_size": "a second cache would lie in main memory",
    "kv_cache_dtype_skip_layers": "its layers have caches of different types",
    "mamba_block_size": "it is set for a hybrid model",
    "enable_eplb": "some experts are held more than once",
    "enable_dbo": "two batches are computed at once",
    "performance_mode": "the engine chooses its batches by it",
    "disable_sliding_window": "the windows of its layers are switched off",
    "mm_ipc_gpu_memory_gb": "a part of the GPU is kept for images",
}
"""Arguments whose presence means that the rest of the arithmetic does not hold, and why."""

HARMLESS: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(RANKS, (1,)), "runner": ("auto", "generate"), "convert": ("auto", "none"), "offload_backend": ("auto",),
    "performance_mode": ("balanced",),
}  # fmt: skip
"""Values that mean what the silence of these arguments means."""

FP8_MADE = ("fp8", "fp8_per_tensor", "fp8_per_channel", "fp8_per_block")
"""What `quantization` says for 8 bits that the engine makes of 16 as it loads."""

STREAMED = ("runai_streamer", "runai_streamer_sharded", "tensorizer")
"""Ways to load (`load_format`) that never hold all weights in main memory."""


@dataclass(frozen=True)
class Arguments:
    """Null means the engine's own default. Sizes in tokens, `kv_cache_memory_bytes` in bytes per GPU.

    uncomputed     why the arithmetic does not hold with these arguments; empty when it does
    same_weights   whether each GPU holds the weights that are computed all the same
    """

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
    enable_chunked_prefill: bool = True
    enable_expert_parallel: bool = False
    disable_hybrid_kv_cache_manager: bool = False
    load_format: str = "auto"
    uncomputed: str = ""
    same_weights: bool = True

    @property
    def streamed(self) -> bool:
        return self.load_format in STREAMED

    def sequences(self, gpu: Gpu) -> int:
        """Requests at once (arg_utils.py, get_batch_defaults)."""
        return self.max_num_seqs or (1024 if _large(gpu) else 256)

    def batch(self, gpu: Gpu, length: int) -> int:
        """Tokens that one step works on. The API server's default depends on the chip and never exceeds what all sequences hold. `length` 0: nobody knows it."""
        if self.max_num_batched_tokens:
            return self.max_num_batched_tokens
        usual = 16384 if gpu.memory >= 160 * GIB else 8192 if _large(gpu) else 2048
        most = usual if self.enable_chunked_prefill else max(usual, length)
        return min(most, self.sequences(gpu) * length) if length else most


def read(given: Mapping[str, Any]) -> Arguments:
    """The engine's arguments by their own names, as `infra.engine.arguments` gives them."""
    wrong = [name for name, check in CHECKS.items() if given.get(name) is not None and not check(given[name])]
    known = {name: given[name] for name in Arguments.__dataclass_fields__ if name in CHECKS and given.get(name) is not None and name not in wrong}
    other, more = _present(given, OTHER_WEIGHTS), _present(given, LEAVE_ROOM)
    unread = f"the value of {wrong[0]} is not one that is computed" if wrong else ""
    same = not other and not {"tensor_parallel_size", "quantization"} & set(wrong)
    return Arguments(**known, uncomputed=unread or other or more, same_weights=same)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 50


def _share(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1


CHECKS = {
    **dict.fromkeys(
        ("max_model_len", "max_num_seqs", "max_num_batched_tokens", "tensor_parallel_size", "kv_cache_memory_bytes", "block_size"), _whole
    ),
    **dict.fromkeys(("dtype", "quantization", "load_format"), lambda value: isinstance(value, str)),
    **dict.fromkeys(("enforce_eager", "enable_chunked_prefill", "enable_expert_parallel", "disable_hybrid_kv_cache_manager"), lambda value: isinstance(value, bool)),
    "kv_cache_dtype": lambda value: value == "auto" or value in CACHE_TYPES,
    "gpu_memory_utilization": _share,
}


def _present(given: Mapping[str, Any], reasons: Mapping[str, str]) -> str:
    """The reason of the first argument that is given and says anything; empty: none is."""
    nothing: tuple[Any, ...] = (None, False, 0, "", {}, [])
    return next((why for name, why in reasons.items() if given.get(name) not in (*nothing, *HARMLESS.get(name, ()))), "")


def _large(gpu: Gpu) -> bool:
    """Chips that get the larger defaults: 70 GiB and more, save the A100."""
    return gpu.memory >= 70 * GIB and not gpu.name.upper().startswith("A100")
