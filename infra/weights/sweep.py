"""What lies in a store, one by one, and taking one of it away: the broom's view, where `Store` has the reader's.

A removal may be killed anywhere: its manifest goes first, so that nobody takes the revision for whole, then its folder, then the
blobs that no other revision leads to. What a killed one left is a folder without a manifest, or a blob that nobody leads to: both are
shown here again.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import Timeout as Busy

from infra.weights.store import Store, read_document

LOOSE_SECONDS = 3600.0
"""A blob that nobody leads to may belong to a fetch that is about to link it; its last change lies further back than this."""


@dataclass(frozen=True)
class Row:
    """One thing. kind: revision (key: 16 hex of its manifest) · partial (key of its content) · blob (its sha256)."""

    kind: str
    key: str
    what: str
    blobs: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    at: float = 0.0


def rows(store: Store) -> tuple[Row, ...]:
    """Everything: revisions, whole or not; bytes of downloads; blobs that belong to nobody."""
    sizes = {path.name: stat.st_size for path in _files(store.root / "blobs") if (stat := _stat(path))}
    revisions = tuple(_revisions(store, sizes))
    led_to = {name for row in revisions for name in row.blobs}
    return (*revisions, *_partials(store), *_loose(store, sizes, led_to))


def drop(store: Store, row: Row) -> int:
    """Removes one; bytes freed. 0 when it is gone already, or when somebody works with it."""
    if row.kind == "revision":
        return _drop_revision(store, row)
    if row.kind == "blob":
        return store.blobs.release(row.key)
    return _drop_partial(store, row.key)


def _revisions(store: Store, sizes: dict[str, int]) -> Iterator[Row]:
    documents = {path.stem[:16]: document for path in _files(store.root / "manifests") if (document := read_document(path))}
    folders = {path.name for path in (store.root / "revisions").glob("*") if path.is_dir()}
    for key in sorted({*documents, *folders}):
        document = documents.get(key)
        names = _names(document) if document else store.blobs.linked(store.root / "revisions" / key)
        blobs = {name: sizes[name] for name in sorted(names) if name in sizes}
        yield Row("revision", key, _what(document), blobs, sum(blobs.values()), float(document["at"]) if document else 0.0)


def _partials(store: Store) -> Iterator[Row]:
    for path in _files(store.root / "partial"):
        if stat := _stat(path):
            yield Row("partial", path.name, "bytes of a download that is not whole", {}, stat.st_size, stat.st_mtime)


def _loose(store: Store, sizes: dict[str, int], led_to: set[str]) -> Iterator[Row]:
    for name in sorted(set(sizes) - led_to):
        stat = _stat(store.blobs.blob(name))
        if stat and time.time() - stat.st_ctime > LOOSE_SECONDS:
            yield Row("blob", name, "a file of no revision", {}, stat.st_size, stat.st_ctime)


def _drop_revision(store: Store, row: Row) -> int:
    for path in (store.root / "manifests").glob(f"{row.key}*.json"):
        path.unlink(missing_ok=True)
    shutil.rmtree(store.root / "revisions" / row.key, ignore_errors=True)
    return sum(store.blobs.release(name) for name in sorted(row.blobs))


def _drop_partial(store: Store, name: str) -> int:
    """Under the lock of its fetcher (or, for what is about to become a blob, of that blob): who holds it is at work."""
    key = name.split(".", maxsplit=1)[0]
    lock = store.blobs.lock(key if name.endswith(".new") else f"fetch-{key}")
    path = store.root / "partial" / name
    with contextlib.suppress(Busy), lock.acquire(timeout=0):
        stat = _stat(path)
        path.unlink(missing_ok=True)
        return stat.st_size if stat else 0
    return 0


def _what(document: dict[str, Any] | None) -> str:
    if document is None:
        return "a revision that is not whole"
    return f"{document.get('source', '')}@{str(document.get('revision', ''))[:12]}"


def _names(document: dict[str, Any]) -> set[str]:
    return set(document["sha256"].values())


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.glob("*") if path.is_file()) if folder.is_dir() else ()


def _stat(path: Path) -> Any:
    with contextlib.suppress(OSError):
        return path.stat()
    return None
