"""Store: every file once, named by its sha256; every revision a folder of hard links; the manifest written last.

    <root>/blobs/<sha256>                 the bytes
    <root>/revisions/<manifest>/<path>    hard links to blobs: what an engine is pointed at
    <root>/manifests/<manifest>.json      written last and atomically: a revision without it is not there
    <root>/partial/<key>                  bytes that came so far; a later call goes on from them
    <root>/locks/<key>                    one OS lock per content and per blob, gone with its holder

A file becomes a blob only after its size, the source's digest and its own sha256 were made from the bytes on disk. Then it is
*sealed*: the part of its modification time below a second is derived from its sha256. Every later write moves that time, so that
`find` sees a changed file with one `stat` and reads nothing; what changes without a write (a dying disk) is found by `verify`, which
reads everything. A list of times beside the blobs was refused: two processes that share a blob would have to keep two lists equal.

Two calls that want the same content meet at its lock: the second waits, then finds the blob. Nothing is done in place, so a call may
be killed anywhere; the next one adopts what is there.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from infra.errors import CapacityError
from infra.waiting import Progress, Transfer
from infra.weights.blobs import Blobs, Entry
from infra.weights.digest import sha256
from infra.weights.disk import told
from infra.weights.manifest import Manifest, Seen
from infra.weights.obtain import Obtain
from infra.weights.parallel import Stopped, each
from infra.weights.source import Source

THREADS = os.cpu_count() or 2
DOWNLOADS = 4
"""Files at once: one connection rarely fills a line, and the Hub limits requests, not connections."""
RESERVE = 256 << 20
"""Bytes that stay free on the disk: logs, records and Dagster's database lie on the same one."""


@dataclass(frozen=True)
class Stored:
    """A revision that is here whole.

    path            folder of its files
    size            bytes of its files, shared ones included
    fetched_bytes   what this call brought from the source; neither adopted nor linked files count
    changed         False: this call only looked
    seconds         how long this call took
    source          where it came from, and `revision` what it is called there, as told when it was stored
    at              Unix seconds since when it is here
    """

    manifest_digest: str
    path: Path
    size: int
    fetched_bytes: int = 0
    changed: bool = False
    seconds: float = 0.0
    source: str = ""
    revision: str = ""
    at: float = 0.0


@dataclass(frozen=True)
class Bad:
    """A file that is not what the manifest says, and why."""

    path: str
    why: str


class Store:
    """The store in one folder. Several processes may use it at once."""

    def __init__(self, root: Path, *, attempts: int = 5, pause: float = 1.0) -> None:
        """`attempts` in a row without a new byte end a download; `pause` seconds times their number lie between them."""
        self.root, self.attempts, self.pause = root, attempts, pause
        self.blobs = Blobs(root)

    def find(self, manifest: Manifest) -> Stored | None:
        """The revision when it is here whole and unchanged since it was stored. One `stat` per file and blob; reads nothing."""
        document = self._document(manifest.digest)
        if document is None:
            return None
        names: dict[str, str] = document["sha256"]
        folder = self.folder(manifest)
        if any(not self.blobs.intact(folder / file.path, names.get(file.path, ""), file.size) for file in manifest.files):
            return None
        return _stored(document, folder)

    def fill(self, source: Source, seen: Seen, progress: Progress) -> Stored:
        """Makes the revision be here, whole and verified. Fetches only what lacks, repairs only what is bad.

        Raises CapacityError before the first byte when the disk has no room; the source's own errors; Timeout, or whatever ends
        the wait, within a second of the reason. What was fetched until then stays, and the next call goes on from it.
        """
        begun = time.monotonic()
        if found := self.find(seen.manifest):
            return found
        self.blobs.prepare()
        entries = self._entries(seen.manifest)
        self._room(source, entries)
        work = Obtain(self.blobs, source, seen, attempts=self.attempts, pause=self.pause)

        def tell() -> None:
            progress.phase("weights", f"{work.transfer()}{work.waits()}")

        progress.phase("weights", f"{seen.source}, {seen.manifest.size / 1e6:,.0f} MB")
        digests = each(entries, work, progress, threads=DOWNLOADS, tick=tell, again=work.again)
        names = {entry.file.path: digest for entry, digest in zip(entries, digests, strict=True)}
        try:
            return self._commit(seen, names, work.fetched, time.monotonic() - begun)
        except OSError as error:
            raise told(self.root, f"the list of files of {seen.source}", error) or error from error

    def verify(self, manifest: Manifest, progress: Progress) -> tuple[Bad, ...]:
        """Reads every byte again, on all cores. What is bad loses its place among the blobs, so that the next `fill` repairs it.

        The folder's own link stays: whoever has the file open, or mapped, is not disturbed.
        """
        document = self._document(manifest.digest)
        names: dict[str, str] = document["sha256"] if document else {}
        folder, begun, read = self.folder(manifest), time.monotonic(), [0]

        def check(path: str, stop: Event) -> Bad | None:
            def tick(count: int) -> None:
                read[0] += count
                if stop.is_set():
                    raise Stopped

            if path not in names or not (folder / path).is_file():
                return Bad(path, "is not here")
            if sha256(folder / path, tick) == names[path]:
                return None
            self.blobs.discard(names[path], folder / path)
            return Bad(path, f"its content is not {names[path][:12]}… any more")

        def tell() -> None:
            progress.phase("verify", str(Transfer(read[0], manifest.size, read[0] / max(1e-3, time.monotonic() - begun))))

        largest_first = [file.path for file in sorted(manifest.files, key=lambda file: -file.size)]
        found = each(largest_first, check, progress, threads=THREADS, tick=tell)
        return tuple(sorted((bad for bad in found if bad), key=lambda bad: bad.path))

    def remove(self, manifest: Manifest) -> int:
        """Removes the revision; bytes freed. Blobs that another revision has stay. Absent already: 0."""
        document = self._document(manifest.digest)
        names: set[str] = set(document["sha256"].values()) if document else set()
        for path in (self._path(manifest.digest), _beside(self._path(manifest.digest))):
            path.unlink(missing_ok=True)
        folder = self.folder(manifest)
        if document is None:
            names = self.blobs.linked(folder)
        shutil.rmtree(folder, ignore_errors=True)
        freed = sum(self.blobs.partial(file).unlink_sized() for file in manifest.files)
        return freed + sum(self.blobs.release(name) for name in sorted(names))

    def stored(self) -> list[Stored]:
        """Every revision that has been stored, by name of its source; cheap, so a damaged one is among them."""
        documents = [document for path in sorted(self.root.glob("manifests/*.json")) if (document := read_document(path))]
        return sorted((_stored(d, self.folder(Manifest.from_dict(d["manifest"]))) for d in documents), key=lambda one: (one.source, one.at))

    def sha256(self, manifest: Manifest) -> dict[str, str]:
        """The sha256 of each file of a revision that is here, by path."""
        return dict((self._document(manifest.digest) or {"sha256": {}})["sha256"])

    def folder(self, manifest: Manifest) -> Path:
        """Where the files of this revision are, or will be."""
        return self.root / "revisions" / manifest.digest[:16]

    def _path(self, digest: str) -> Path:
        return self.root / "manifests" / f"{digest}.json"

    def _document(self, digest: str) -> dict[str, Any] | None:
        return read_document(self._path(digest))

    def _entries(self, manifest: Manifest) -> list[Entry]:
        """What is wanted, with what earlier revisions say of its sha256: the source may know it by another digest only."""
        own = (self._document(manifest.digest) or {"sha256": {}})["sha256"]
        known: dict[str, str] = {}
        for path in self.root.glob("manifests/*.json"):
            if document := read_document(path):
                known |= {file.key: document["sha256"][file.path] for file in Manifest.from_dict(document["manifest"]).files}
        folder = self.folder(manifest)
        return [Entry(file, folder / file.path, file.sha256 or own.get(file.path) or known.get(file.key)) for file in manifest.files]

    def _room(self, source: Source, entries: list[Entry]) -> None:
        lacks = sum(self.blobs.lacks(entry) for entry in entries if source.local(entry.file) is None)
        free = shutil.disk_usage(self.root).free
        if lacks and lacks + RESERVE > free:
            raise no_room(source.uri, self.root, lacks, free, self.stored())

    def _commit(self, seen: Seen, names: dict[str, str], fetched: int, seconds: float) -> Stored:
        document = seen.to_dict() | {"sha256": names, "bytes": seen.manifest.size, "at": time.time()}
        with self.blobs.lock(f"manifest-{seen.manifest.digest[:16]}"):
            _write(self._path(seen.manifest.digest), document)
        return _stored(document, self.folder(seen.manifest), fetched=fetched, changed=True, seconds=seconds)


def no_room(uri: str, root: Path, lacks: int, free: int, others: list[Stored]) -> CapacityError:
    """The disk is too small: with numbers, and what could go."""
    could = "; ".join(f"{one.source}@{one.revision[:10]} {one.size / 1e9:,.1f} GB" for one in sorted(others, key=lambda o: -o.size)[:5])
    return CapacityError(
        f"no room on disk for {uri}",
        why=f"{lacks / 1e9:,.2f} GB lack here, {free / 1e9:,.2f} GB are free at {root}, and {RESERVE / 1e9:,.2f} GB of them stay free",
        next=(f"what could go: {could}; " if could else "") + "free some space, or name a larger disk in LLM_PIPELINE_CACHE",
    )


def _stored(document: dict[str, Any], folder: Path, *, fetched: int = 0, changed: bool = False, seconds: float = 0.0) -> Stored:
    digest = Manifest.from_dict(document["manifest"]).digest
    source, revision = str(document.get("source", "")), str(document.get("revision", ""))
    return Stored(digest, folder, int(document["bytes"]), fetched, changed, round(seconds, 3), source, revision, float(document["at"]))


def read_document(path: Path) -> dict[str, Any] | None:
    """None: absent, or not whole. A manifest is written atomically, so the latter is somebody's hand or a dying disk."""
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return document if {"manifest", "sha256", "bytes", "at"} <= document.keys() else None


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def _write(path: Path, document: dict[str, Any]) -> None:
    beside = _beside(path)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(document, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
