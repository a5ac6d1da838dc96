"""Obtain: one file of a revision, from wherever it is nearest: the store itself, this machine, the source.

Runs in several threads at once, one file each; `transfer` and `again` are asked by the thread that watches. One call is one attempt.
What to do after a failed one is decided in `again`: the count of attempts starts anew whenever a file got further than ever before, so
that a line that breaks every minute still brings 100 GB, while one that brings nothing, or damages every copy, gives up after a few.
"""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from threading import Event

from filelock import Timeout as Held

from infra.errors import CapacityError, Transient
from infra.waiting import Transfer
from infra.weights.blobs import Blobs, Entry, Partial
from infra.weights.digest import read
from infra.weights.disk import told
from infra.weights.manifest import File, Seen
from infra.weights.parallel import LOOK_EVERY, Stopped
from infra.weights.source import Source

WINDOW = 10.0
"""Seconds over which the rate is told: shorter jumps about, longer lies after a change."""
PATIENCE = 120.0
"""A Retry-After longer than this ends the call: the caller's own attempts are minutes apart."""


class Obtain:
    """The files of one revision on their way into the store."""

    def __init__(self, blobs: Blobs, source: Source, seen: Seen, *, attempts: int, pause: float) -> None:
        self.blobs, self.source, self.seen = blobs, source, seen
        self.attempts, self.pause = attempts, pause
        self._here = {file.path: 0 for file in seen.manifest.files}
        self._fetched = dict(self._here)
        self._reached = dict(self._here)
        self._failed: dict[int, tuple[int, int]] = {}
        self._waiting: set[str] = set()
        self._rates: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def __call__(self, entry: Entry, stop: Event) -> str:
        """The sha256 of the file, which is linked into its revision when this returns."""
        file, partial = entry.file, self.blobs.partial(entry.file)
        try:
            self._await(entry, partial, stop)
            name = self._known(entry) or self._linked(entry, stop) or self._nearby(entry, stop) or self._fetch(entry, partial, stop)
            self.blobs.link(name, entry.link)
        except OSError as error:
            if problem := told(self.blobs.root, f"{file.path} of {self.seen.source}", error):
                raise problem from error
            raise
        finally:
            partial.lock.release()
        self._here[file.path] = file.size
        return name

    @property
    def fetched(self) -> int:
        """Bytes that came from the source."""
        return sum(self._fetched.values())

    def transfer(self) -> Transfer:
        """How far all files together are."""
        now, fetched = time.monotonic(), self.fetched
        self._rates.append((now, fetched))
        while len(self._rates) > 2 and now - self._rates[0][0] > WINDOW:
            self._rates.popleft()
        since, before = self._rates[0]
        return Transfer(sum(self._here.values()), self.seen.manifest.size, max(0.0, fetched - before) / max(0.1, now - since))

    def waits(self) -> str:
        """Who else is at work, for people."""
        waiting = sorted(self._waiting)
        return f"; another process fetches {waiting[0]}{f' and {len(waiting) - 1} more' if len(waiting) > 1 else ''}" if waiting else ""

    def again(self, index: int, error: Exception) -> float | None:
        """Seconds until this file is tried again; None: that was it."""
        if not isinstance(error, Transient) or isinstance(error, CapacityError):
            return None
        path = self.seen.manifest.files[index].path
        count, most = self._failed.get(index, (0, 0))
        got = self._reached[path]
        count = 1 if got > most else count + 1
        self._failed[index] = (count, got)
        wait = error.retry_after if error.retry_after is not None else self.pause * count
        return wait if count < self.attempts and wait <= PATIENCE else None

    def _await(self, entry: Entry, partial: Partial, stop: Event) -> None:
        while True:
            try:
                partial.lock.acquire(timeout=LOOK_EVERY)
            except Held:
                self._waiting.add(entry.file.path)
                self._here[entry.file.path] = min(partial.size, entry.file.size)
                if stop.is_set():
                    raise Stopped from None
                continue
            self._waiting.discard(entry.file.path)
            return

    def _known(self, entry: Entry) -> str | None:
        """Its blob is here, and sealed."""
        return entry.sha256 if entry.sha256 and self.blobs.usable(entry.sha256, entry.file.size) else None

    def _linked(self, entry: Entry, stop: Event) -> str | None:
        """An earlier call linked it, and was killed or its seal broke: believed after reading it."""
        candidates = [entry.link] + ([self.blobs.blob(entry.sha256)] if entry.sha256 else [])
        return next((name for path in candidates if (name := self._adopt(path, entry, stop, keep=True))), None)

    def _nearby(self, entry: Entry, stop: Event) -> str | None:
        local = self.source.local(entry.file)
        return self._adopt(local, entry, stop, keep=True) if local else None

    def _fetch(self, entry: Entry, partial: Partial, stop: Event) -> str:
        file, have = entry.file, self._usable(entry.file, partial)
        self._here[file.path] = have

        def tick(count: int) -> None:
            self._here[file.path] += count
            self._reached[file.path] = max(self._reached[file.path], self._here[file.path])
            self._fetched[file.path] += max(0, count)
            if stop.is_set():
                raise Stopped

        partial.path.touch(mode=0o600)
        if have < file.size:
            self.source.fetch(self.seen, file, partial.path, have, tick)
        if partial.size < file.size:
            raise Transient(
                f"{self.seen.source}: {file.path} ended too early",
                why=f"{partial.size:,} of {file.size:,} bytes came, then the other side closed the connection",
                next="run the same command again: it goes on where it stopped",
            )
        if name := self._adopt(partial.path, entry, stop, keep=False):
            return name
        partial.unlink_sized()
        self._here[file.path] = 0
        raise Transient(
            f"{self.seen.source}: {file.path} arrived damaged",
            why=f"its digest is not the {file.digest} that the source promised; the damaged copy was thrown away",
            next="run the same command again: it fetches this file anew; if it stays so, suspect a proxy, or the disk",
        )

    def _usable(self, file: File, partial: Partial) -> int:
        """Bytes to go on from. A whole file counts only if its digest can be compared here, which an S3 ETag can not."""
        have = partial.size
        if have > file.size or (have == file.size and file.digest.startswith("s3:")):
            partial.unlink_sized()
            return 0
        return have

    def _adopt(self, path: Path, entry: Entry, stop: Event, *, keep: bool) -> str | None:
        """Its sha256, when this is the file: size, the source's digest, and what is known of its sha256 agree."""

        def tick(_: int) -> None:
            if stop.is_set():
                raise Stopped

        try:
            if path.stat().st_size != entry.file.size:
                return None
            found = read(path, entry.file, tick)
        except FileNotFoundError:
            return None
        if not found.fits(entry.file) or (keep and entry.sha256 and found.sha256 != entry.sha256):
            return None
        if keep and self._unknown(entry, path, found.sha256):
            return None
        self.blobs.take(path, found.sha256, keep=keep)
        return found.sha256

    def _unknown(self, entry: Entry, path: Path, name: str) -> bool:
        """Bytes of our own folder whose right sha256 nobody can tell: an S3 file of a call that was killed, changed since then."""
        own = path == entry.link and entry.sha256 is None and entry.file.digest.startswith("s3:")
        return own and not self.blobs.intact(path, name, entry.file.size)
