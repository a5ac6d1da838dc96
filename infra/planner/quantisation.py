"""Quantisation: how many bits a stored number takes, and which chips can compute with it. Pure; never raises.

Bits count the scales: AWQ and GPTQ with groups of 128 are 4 + 16/128 (scale) + 4/128 (zero point) = 4.156; MXFP4 is 4 + 8/32 = 4.25
(an 8-bit scale per 32 numbers, OCP Microscaling 1.0); NVFP4 is 4 + 8/16 = 4.5. Scales of fp8 are too few to count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

CAPABILITY = {"fp8": 8.9, "nvfp4": 8.0, "mxfp4": 8.0, "awq": 7.5, "gptq": 7.5, "int8": 7.5}
"""The least compute capability per kind. fp8 arithmetic begins with Ada and Hopper; for the others vLLM's own get_min_capability."""

ABSENT = ("bitsandbytes", "hqq", "aqlm", "eetq", "vptq", "bitnet")
"""Methods that other engines have and vLLM 0.32.0 has not (`Unknown quantization method`)."""


@dataclass(frozen=True)
class Quantisation:
    """`bits` per number of the matrices that are quantised. `attention`: whether those of attention are among them.

    kind    a key of `CAPABILITY`; else, as one of `ABSENT` or "unknown", only the headers tell the size
    group   numbers with one scale, which two GPUs can not share
    """

    kind: str
    bits: float
    attention: bool = True
    group: int = 1


FP8 = Quantisation("fp8", 8.0)
"""What the engine makes of 16-bit weights when told `quantization: fp8`."""


def read(config: object) -> Quantisation | None:
    """`quantization_config` of config.json. None: the weights are not quantised."""
    if not isinstance(config, Mapping) or not config:
        return None
    method = str(config.get("quant_method") or "").lower()
    algorithm = str(config.get("quant_algo") or "").lower()
    kind, bits = _kind(config, method, algorithm)
    return Quantisation(kind, bits, attention=not _skips_attention(config), group=_group(config, kind))


def _group(config: Mapping[str, Any], kind: str) -> int:
    """Of 4-bit integers the group, of fp8 the block along the input (vLLM: verify_group_size_divides_partition, validate_fp8_block_shape)."""
    if kind in ("awq", "gptq"):
        weights = _weights(config)
        return _count(config, "group_size", "q_group_size") or _count(weights, "group_size") or 1
    block = config.get("weight_block_size")
    return block[1] if kind == "fp8" and isinstance(block, list) and len(block) == 2 and isinstance(block[1], int) and block[1] > 0 else 1


def _kind(config: Mapping[str, Any], method: str, algorithm: str) -> tuple[str, float]:
    if method == "compressed-tensors":
        return _compressed(config)
    if "nvfp4" in algorithm or "nvfp4" in method:
        return "nvfp4", 4.5
    if "mxfp4" in method:
        return "mxfp4", 4.25
    if "fp8" in method or "fp8" in algorithm:
        return "fp8", 8.0
    if method in ("awq", "gptq", "auto-round", "auto_round", "awq_marlin", "gptq_marlin"):
        bits = _count(config, "bits", "w_bit") or 4
        return ("gptq" if "gptq" in method else "awq"), grouped(bits, _count(config, "group_size", "q_group_size") or 128)
    return (method if method in ABSENT else "unknown"), 16.0


def grouped(bits: int, group: int) -> float:
    """Bits with a 16-bit scale and a zero point of `bits` per group."""
    return bits + (16 + bits) / group


def _compressed(config: Mapping[str, Any]) -> tuple[str, float]:
    weights = _weights(config)
    bits, group, float_ = _count(weights, "num_bits"), _count(weights, "group_size"), weights.get("type") == "float"
    if bits == 8:
        return ("fp8", 8.0) if float_ else ("int8", 8.0)
    if bits == 4:
        return ("nvfp4", 4.5) if float_ and group == 16 else ("mxfp4", 4.25) if float_ else ("gptq", grouped(4, group or 128))
    return "unknown", 16.0


def _weights(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What compressed-tensors says of the weights of its first group; empty: nothing."""
    groups = config.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    return weights if isinstance(weights, Mapping) else {}


def _count(config: Mapping[str, Any], *names: str) -> int:
    found = (config.get(name) for name in names)
    return next((value for value in found if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 1 << 16), 0)


def _skips_attention(config: Mapping[str, Any]) -> bool:
    lists = (config.get(name) for name in ("modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules"))
    named = [str(entry) for one in lists if isinstance(one, Iterable) and not isinstance(one, (str, Mapping)) for entry in one]
    return any("self_attn" in entry and not entry.endswith(("_bias", "norm")) for entry in named)
