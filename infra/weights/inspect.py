"""Inspect: what lies in a folder of weights, from its headers alone. Finds before an engine starts what would kill it after a minute.

A safetensors file begins with 8 bytes (length of the header, little-endian), the header (JSON: name -> dtype, shape, data_offsets)
and then the data, without gaps to the end of the file. (https://huggingface.co/docs/safetensors: "Format")
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from infra.errors import ConfigError, PipelineError
from infra.weights.manifest import INDEX, PICKLE, Manifest

HEADER_LIMIT = 100_000_000
"""Bytes of header that safetensors itself accepts."""

BITS = dict.fromkeys(("F64", "I64", "U64", "C64"), 64)
BITS |= dict.fromkeys(("F32", "I32", "U32"), 32) | dict.fromkeys(("F16", "BF16", "I16", "U16"), 16)
BITS |= dict.fromkeys(("F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "BOOL"), 8)
BITS |= {"F6_E2M3": 6, "F6_E3M2": 6, "F4": 4}

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tekken.json", "spiece.model", "vocab.json", "vocab.txt", "sentencepiece.bpe.model")


@dataclass(frozen=True)
class Facts:
    """What a person wants to know of weights.

    architecture   as config.json names it
    dtype          the one that most parameters have, as safetensors names it (BF16, F32, …); "pickle" when nobody knows
    parameters     numbers stored; packed quantised ones count as the integers that hold them; 0: unknown (pickle)
    shards         files that hold weights
    bytes          size of those files
    """

    architecture: str
    dtype: str
    parameters: int
    shards: int
    bytes: int


def facts(path: Path) -> Facts:
    """Reads config.json and the headers. Raises ConfigError as `problems` would return it."""
    config = _config(path)
    shards = sorted(path.glob("*.safetensors"))
    counts: Counter[str] = Counter()
    for shard in shards:
        for tensor in _tensors(shard).values():
            counts[tensor["dtype"]] += math.prod(tensor["shape"])
    files = shards or [one for one in sorted(path.glob("*.bin")) if PICKLE.fullmatch(one.name)]
    named = config.get("architectures") or [config.get("model_type") or "unknown"]
    dtype = counts.most_common(1)[0][0] if counts else "pickle"
    return Facts(str(named[0]), dtype, counts.total(), len(files), sum(file.stat().st_size for file in files))


def problems(path: Path, manifest: Manifest, allow_pickle: bool) -> tuple[PipelineError, ...]:
    """Everything that would keep an engine from loading this folder, the gravest first. Empty: nothing found."""
    checks: list[Callable[[], object]] = [
        partial(_config, path),
        partial(_loadable, manifest, allow_pickle),
        partial(_complete, path),
        partial(_tokenizer, path),
        *(partial(_tensors, shard) for shard in sorted(path.glob("*.safetensors"))),
    ]
    found: list[PipelineError] = []
    for check in checks:
        try:
            check()
        except PipelineError as error:
            found.append(error)
    return tuple(found)


def _config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError:
        raise _unusable(
            "config.json is missing", "without it no engine knows the architecture", "add the model's config.json to the source"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise _unusable("config.json can not be read", str(error), "put a whole config.json into the source") from error
    if not isinstance(config, dict):
        raise _unusable("config.json is not a configuration", "it holds no JSON object", "put the model's own config.json into the source")
    return config


def _loadable(manifest: Manifest, allow_pickle: bool) -> None:
    names = [file.path for file in manifest.files]
    if any(name.endswith(".safetensors") for name in names):
        return
    if not any(PICKLE.fullmatch(name) for name in names):
        raise _unusable("there are no weights", "no *.safetensors is in the manifest", "name a source that has them")
    if not allow_pickle:
        raise _unusable(
            "there are only pickle files (.bin)",
            "loading a pickle runs whatever code its author put in",
            "choose a repository with *.safetensors, or, if you trust the author: allow_pickle: true",
        )


def _complete(path: Path) -> None:
    """The index and the shards agree: each one it names is here and holds the tensors that it says."""
    index = path / INDEX
    if not index.exists():
        return
    try:
        where: dict[str, str] = json.loads(index.read_text())["weight_map"]
        shards = sorted(set(where.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unusable(
            f"{INDEX} can not be read", f"{type(error).__name__}: {error}", "publish the index that belongs to these shards"
        ) from error
    if lacking := [name for name in shards if not (path / name).is_file()]:
        raise _unusable(
            f"{len(lacking)} of {len(shards)} shards are missing",
            f"{INDEX} names {', '.join(lacking[:3])}, which the source does not have",
            "upload the missing shards, or choose a revision that has them all",
        )
    held = {name: _tensors(path / name).keys() for name in shards}
    if astray := sorted(tensor for tensor, name in where.items() if tensor not in held[name]):
        raise _unusable(
            "index and shards do not belong together",
            f"{len(astray)} tensors are not where {INDEX} says, the first is {astray[0]} in {where[astray[0]]}",
            "publish index and shards of one export",
        )


def _tokenizer(path: Path) -> None:
    if not any((path / name).is_file() for name in TOKENIZERS) and not any(path.glob("*.tiktoken")):
        raise _unusable(
            "the tokenizer is missing",
            f"none of {', '.join(TOKENIZERS[:4])} … is here, and without it no engine can read a prompt",
            "add the model's tokenizer files to the source",
        )


def _tensors(shard: Path) -> dict[str, dict[str, Any]]:
    """The header, once it was compared with the length of the file and with itself."""
    size = shard.stat().st_size
    with shard.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, HEADER_LIMIT):
            raise _header(shard, f"the header claims {length:,} bytes, the file has {size:,}")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
        spans = sorted((*tensor["data_offsets"], name) for name, tensor in tensors.items())
        _spans(shard, tensors, spans, size - 8 - length)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _header(shard, f"the header is not one: {type(error).__name__}: {error}") from error
    return tensors


def _spans(shard: Path, tensors: dict[str, dict[str, Any]], spans: list[tuple[int, int, str]], data: int) -> None:
    at = 0
    for begin, end, name in spans:
        bits = BITS.get(tensors[name]["dtype"])
        if begin != at or (bits is not None and (end - begin) * 8 != bits * math.prod(tensors[name]["shape"])):
            raise _header(shard, f"the place of tensor {name} ({begin:,} to {end:,}) does not fit its shape and its neighbours")
        at = end
    if at != data:
        raise _header(shard, f"the header describes {at:,} bytes of data, the file has {data:,}: it was cut short, or is of another export")


def _header(shard: Path, why: str) -> ConfigError:
    return _unusable(
        f"{shard.name} is not a whole safetensors file", why, "export or upload this file again; the copy here is what the source has"
    )


def _unusable(what: str, why: str, then: str) -> ConfigError:
    return ConfigError(f"these weights can not be served: {what}", why=why, next=then)
