"""Outline: what a planner needs of a revision, and nothing more: config.json and the headers of the weights. No weights are fetched.

A safetensors file begins with 8 bytes that say how long its header is, then comes the header (https://huggingface.co/docs/safetensors:
"Format"). Of a file at a distance its first FIRST bytes are asked for, which hold most headers whole, and the rest of a longer one: one
or two ranges per file, several files at once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.errors import ConfigError, Transient
from infra.waiting import Progress
from infra.weights.inspect import BITS, HEADER_LIMIT
from infra.weights.manifest import File, Manifest, Seen
from infra.weights.parallel import each
from infra.weights.source import Source

FIRST = 128 << 10
"""Bytes of the first range: the header of a file with some hundred tensors has 10 to 60 KiB."""

THREADS = 8
"""Ranges at once: each waits for an answer more than for its bytes."""

ATTEMPTS, PAUSE = 3, 1.0
"""How often one range is asked for, and seconds times the number of the attempt in between."""

CONFIG = "config.json"

Part = Callable[[File, int, int], bytes]
"""Bytes of a file: from which one, and how many."""


@dataclass(frozen=True)
class Outline:
    """One revision.

    config     config.json; empty: it has none
    headers    per safetensors file: name -> dtype, shape. Empty: pickles, or a header that can not be read
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    headers: tuple[Mapping[str, Mapping[str, Any]], ...] = ()


def outlined(source: Source, seen: Seen, progress: Progress) -> Outline:
    """By ranges of the source; what lies on this machine already is read here. Raises what the source raises, and ConfigError for a config.json that is none."""
    progress.phase("weights", f"reading the headers of {seen.source}")
    tries: dict[int, int] = {}

    def part(file: File, first: int, length: int) -> bytes:
        here = source.local(file)
        return _read(here, first, length) if here else source.part(seen, file, first, length)

    def again(index: int, error: Exception) -> float | None:
        tries[index] = tries.get(index, 0) + 1
        return PAUSE * tries[index] if isinstance(error, Transient) and tries[index] < ATTEMPTS and not error.retry_after else None

    wanted = _wanted(seen.manifest)
    found = each(wanted, lambda file, stop: _of(file, part), progress, threads=THREADS, again=again)
    return _outline(seen.source, wanted, found)


def lying(folder: Path, manifest: Manifest) -> Outline:
    """Of a revision that is here whole. Raises ConfigError for a config.json that is none."""
    wanted = _wanted(manifest)
    return _outline(str(folder), wanted, [_of(file, lambda one, first, length: _read(folder / one.path, first, length)) for file in wanted])


def header_bytes(first: bytes) -> int:
    """Length of the header, from the first 8 bytes of a safetensors file. Its range is 8 to 8 + this - 1. Raises ConfigError."""
    length = int.from_bytes(first[:8], "little")
    if len(first) < 8 or not 2 <= length <= HEADER_LIMIT:
        raise _unreadable(f"it claims {length:,} bytes")
    return length


def header(raw: bytes) -> dict[str, dict[str, Any]]:
    """A header (without the 8 bytes before it) as name -> dtype, shape. Raises ConfigError."""
    try:
        read = json.loads(raw)
        tensors = {str(name): dict(tensor) for name, tensor in read.items() if name != "__metadata__"}
        wrong = [name for name, tensor in tensors.items() if not (_shape(tensor["shape"]) and tensor["dtype"] in BITS)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _unreadable(f"{type(error).__name__}: {error}") from error
    if wrong:
        tensor = tensors[wrong[0]]
        raise _unreadable(f"its tensor {wrong[0][:80]} has the shape {str(tensor['shape'])[:80]} and the number type {str(tensor['dtype'])[:20]}")
    return tensors


# ------------------------------------------------ private


def _shape(value: object) -> bool:
    """Whether these are sizes; safetensors itself counts with 64 bits."""
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value) and math.prod(value) < 1 << 63


def _wanted(manifest: Manifest) -> list[File]:
    return [file for file in manifest.files if file.path == CONFIG or file.path.endswith(".safetensors")]


def _of(file: File, part: Part) -> bytes:
    """config.json whole; of a file with weights the header alone, empty where it claims a length that no header has."""
    if file.path == CONFIG:
        return part(file, 0, file.size)
    begin = part(file, 0, min(FIRST, file.size))
    try:
        length = header_bytes(begin)
    except ConfigError:
        return b""
    lacks = min(8 + length, file.size) - len(begin)
    return (begin + (part(file, len(begin), lacks) if lacks > 0 else b""))[8 : 8 + length]


def _outline(where: str, wanted: list[File], found: list[bytes]) -> Outline:
    raw = {file.path: content for file, content in zip(wanted, found, strict=True)}
    config = _config(where, raw.pop(CONFIG)) if CONFIG in raw else {}
    return Outline(config, _headers(raw.values()))


def _headers(raw: Iterable[bytes]) -> tuple[Mapping[str, Mapping[str, Any]], ...]:
    """None of them where one can not be read, or where none has a tensor: the sum of the others would be taken for the whole. Whoever fetches the files judges them."""
    try:
        found = tuple(header(one) for one in raw)
    except ConfigError:
        return ()
    return found if any(found) else ()


def _config(where: str, raw: bytes) -> Mapping[str, Any]:
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _unusable(where, f"config.json is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise _unusable(where, "config.json holds no JSON object")
    return config


def _read(path: Path, first: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(first)
        return file.read(length)


def _unusable(where: str, why: str) -> ConfigError:
    return ConfigError(f"the weights of {where} can not be served", why=why, next="put the model's own config.json into the source")


def _unreadable(why: str) -> ConfigError:
    return ConfigError(
        "the header of a weights file can not be read", why=why,
        next="export or upload this file again; the source does not hold a safetensors file",
    )  # fmt: skip
