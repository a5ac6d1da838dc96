"""Weights: how many bytes they take once loaded, and on each GPU. From the headers of the files where they are at hand, else counted.

Headers are read without the data (infra/weights/outline.py); nothing here touches a network.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from infra.planner.architecture import BYTES, Architecture
from infra.planner.parameters import Parameters, count
from infra.planner.quantisation import CAPABILITY, Quantisation
from infra.weights.inspect import BITS

FLOATS = ("F64", "F32", "F16", "BF16")
"""Types that the engine converts to its own when it loads. Others, and scales beside packed numbers, stay as they are."""

LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


@dataclass(frozen=True)
class Stored:
    """Bytes of the tensors that an engine loads: `plain` 16 or 32-bit numbers that it converts (counted as numbers), `fixed` bytes."""

    plain: int
    fixed: int

    def bytes(self, dtype: str) -> int:
        """Once loaded as this type."""
        return self.plain * BYTES.get(dtype, 2) + self.fixed


@dataclass(frozen=True)
class Weights:
    """Loaded bytes: all of them, those that every GPU holds whole, and those of the key and value matrices.

    origin   "headers" (exact) or "config" (counted)
    """

    total: int
    whole: int
    cache: int
    origin: str

    def per_gpu(self, model: Architecture, parallel: int) -> int:
        """Bytes on each of `parallel` GPUs. Key and value heads are copied when there are more GPUs than heads."""
        heads = min(parallel, model.kv_heads or parallel)
        divided = self.total - self.whole - self.cache
        return self.whole + math.ceil(self.cache / heads) + math.ceil(divided / parallel)


def stored(headers: Iterable[Mapping[str, Mapping[str, Any]]], model: Architecture) -> Stored:
    """What the engine loads of these files: without layers for speculation, and without the output matrix where it is the embedding."""
    tensors = {name: tensor for one in headers for name, tensor in one.items() if _loaded(name, model)}
    quantised = {name.rpartition(".")[0] for name, tensor in tensors.items() if str(tensor["dtype"]) not in FLOATS}
    plain = fixed = 0
    for name, tensor in tensors.items():
        numbers, kind = math.prod(map(int, tensor["shape"])), str(tensor["dtype"])
        if kind in FLOATS and name.rpartition(".")[0] not in quantised:
            plain += numbers
        else:
            fixed += math.ceil(numbers * BITS.get(kind, 16) / 8)
    return Stored(plain, fixed)


def weigh(model: Architecture, dtype: str, files: Stored | None = None, made: Quantisation | None = None) -> Weights | None:
    """Loaded bytes. `files`: what the headers say, else the configuration counts. `made`: a quantisation by the engine itself.

    None: neither headers nor a known family.
    """
    numbers, kind = count(model), made or model.quantisation
    if numbers is None:
        if files is None or (made and model.quantisation is None):
            return None
        return Weights(files.bytes(dtype), 0, 0, "headers")
    bits, size = (kind.bits if kind else 8.0 * BYTES[dtype]), BYTES[dtype]
    attention = size * 8.0 if kind and not kind.attention else bits
    whole = math.ceil(numbers.latent * attention / 8) + numbers.small * size
    cache = math.ceil(numbers.cache * attention / 8)
    if files is not None and not (made and model.quantisation is None):
        total = files.bytes(dtype)
        return Weights(total, min(whole, total), min(cache, max(0, total - whole)), "headers")
    if kind and kind.kind not in CAPABILITY:
        return None
    return Weights(_counted(numbers, bits, attention, size), whole, cache, "config")


def _counted(numbers: Parameters, bits: float, attention: float, size: int) -> int:
    heads = numbers.attention + numbers.cache + numbers.latent
    matrices = numbers.mlp + numbers.experts
    return math.ceil((heads * attention + matrices * bits) / 8) + (numbers.embeddings + numbers.small) * size


def _loaded(name: str, model: Architecture) -> bool:
    layer = LAYER.search(name)
    if layer and model.layers and int(layer[1]) >= model.layers:
        return False
    return not (model.tied and name.endswith("lm_head.weight"))
