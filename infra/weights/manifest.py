"""Manifest: the files of a revision that an engine needs, each with the digest that its source gives it.

Its hash is known before a byte of weights is downloaded. It is the data version of `model_revision` and `model_weights`, so a
commit that only touches the README, or a branch that is moved back, changes nothing downstream.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from infra.errors import ConfigError


@dataclass(frozen=True, order=True)
class File:
    """One file. `size` in bytes; `digest` as the source says it: `sha256:<hex>`, `git:<sha1 blob id>` or `s3:<etag>`."""

    path: str
    size: int
    digest: str

    def __post_init__(self) -> None:
        plain = PurePosixPath(self.path)
        if not plain.parts or plain.is_absolute() or ".." in plain.parts or str(plain) != self.path or not self.path.isprintable():
            raise ConfigError(
                f"the weights name a file {self.path!r} that would lie outside their folder",
                why="file names of a revision are relative and have neither '..' nor control characters",
                next="don't use this source: no model is published like this",
            )

    @property
    def key(self) -> str:
        """A name for the content before its sha256 is known: equal keys are equal bytes.

        sha256 and git blob ids name the content alone. An S3 ETag is an md5 or less, so there the path counts too.
        """
        where = self.path if self.digest.startswith("s3:") else ""
        return hashlib.sha256(f"{self.digest}\n{self.size}\n{where}".encode()).hexdigest()[:40]

    @property
    def sha256(self) -> str | None:
        """The sha256 of the content where the source says it."""
        kind, _, value = self.digest.partition(":")
        return value if kind == "sha256" else None


@dataclass(frozen=True)
class Manifest:
    """Files, sorted by path."""

    files: tuple[File, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", tuple(sorted(self.files)))
        names = [file.path for file in self.files]
        if len(set(names)) != len(names):
            raise ConfigError("the weights name one file twice", why=", ".join(sorted({n for n in names if names.count(n) > 1})))

    @property
    def digest(self) -> str:
        """64 hex digits over one line per file."""
        lines = "".join(f"{file.path}\t{file.size}\t{file.digest}\n" for file in self.files)
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def to_dict(self) -> dict[str, Any]:
        return {"files": [[file.path, file.size, file.digest] for file in self.files]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Manifest:
        return cls(tuple(File(str(path), int(size), str(digest)) for path, size, digest in data["files"]))


@dataclass(frozen=True)
class Seen:
    """What a source holds now. `revision`: Hub commit sha, hash of an S3 listing, or content hash of a folder.

    `run`: Dagster's run that made it, where an asset is the source; empty: nobody knows.
    """

    source: str
    revision: str
    manifest: Manifest
    run: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {"source": self.source, "revision": self.revision, "manifest": self.manifest.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Seen:
        return cls(str(data["source"]), str(data["revision"]), Manifest.from_dict(data["manifest"]))


def needed(paths: Iterable[str], allow_pickle: bool) -> list[str]:
    """The files that an engine reads, sorted; the rest of a repository is never fetched.

    Weights first. vLLM loads *every* `*.safetensors` in a folder that has no index, so of several copies (`model.fp16`,
    `consolidated`, one whole beside its shards) exactly one is taken, else the engine would load two models into one.
    `.bin` only when it is allowed and there is nothing else: unpickling runs code. Python files of the repository are taken
    because an architecture may need them; they run only when the engine is told to trust them.
    """
    top = sorted(path for path in paths if "/" not in path)
    extra = sorted(path for path in paths if TEMPLATES.fullmatch(path))
    return sorted(_weights(top, allow_pickle) + [path for path in top if _config(path)] + extra)


def select(paths: Iterable[str], allow_pickle: bool, source: str) -> list[str]:
    """`needed`, after a look whether there are weights at all: nothing is fetched of a source that no engine could load."""
    names = list(paths)
    if not _weights([name for name in names if "/" not in name], allow_pickle):
        raise _nothing(names, source)
    return needed(names, allow_pickle)


INDEX = "model.safetensors.index.json"
PICKLE_INDEX = "pytorch_model.bin.index.json"
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
PICKLE = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")
TEMPLATES = re.compile(r"additional_chat_templates/[^/]+\.jinja")
CONFIG = re.compile(
    r".+\.(json|jinja|model|tiktoken|py)|(vocab|merges|added_tokens|chat_template|tokenizer|spiece)[^/]*\.txt", re.IGNORECASE
)
NOT_CONFIG = re.compile(
    r".+\.index\.json|adapter_config\.json|(trainer_state|training_args|.*results?)\.json|(train|setup|convert|test)[^/]*\.py|\..*",
    re.IGNORECASE,
)


def _config(path: str) -> bool:
    return bool(CONFIG.fullmatch(path)) and not NOT_CONFIG.fullmatch(path)


def _weights(top: list[str], allow_pickle: bool) -> list[str]:
    tensors = [path for path in top if path.endswith(".safetensors")]
    shards = [path for path in tensors if SHARD.fullmatch(path)]
    if INDEX in top and shards:
        return [INDEX, *shards]
    if "model.safetensors" in tensors:
        return ["model.safetensors"]
    if tensors:
        plain = [path for path in tensors if not path.startswith(("consolidated", "adapter_"))]
        return shards or plain or [path for path in tensors if not path.startswith("adapter_")]
    pickles = [path for path in top if PICKLE.fullmatch(path)] if allow_pickle else []
    return [*pickles, PICKLE_INDEX] if pickles and PICKLE_INDEX in top else pickles


def _nothing(names: list[str], source: str) -> ConfigError:
    what = f"{source} has no weights that may be loaded"
    if any(PICKLE.fullmatch(name) for name in names):
        return ConfigError(
            what,
            why="it has only pickle files (.bin), and loading a pickle runs whatever code its author put in",
            next="choose a repository with *.safetensors, or, if you trust the author: allow_pickle: true",
        )
    other = sorted(
        {PurePosixPath(name).suffix for name in names if name.endswith((".gguf", ".onnx", ".pt", ".pth", ".h5", ".msgpack", ".bin"))}
    )
    found = f"it has only {', '.join(other)}" if other else "it has no *.safetensors at its top level"
    if any(name.startswith("adapter_") for name in names):
        found += "; it looks like an adapter (LoRA), which is not a model"
    return ConfigError(what, why=found, next="name a source that has config.json and *.safetensors at its top level")
