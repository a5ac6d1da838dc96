"""Blobs: bytes under their sha256, sealed, and the hard links that lead to them.

Everything here is short and is done under the lock of the blob that it is about; what takes long (fetching) is in obtain.py.
"""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from infra.errors import Denied
from infra.settings import private
from infra.weights.disk import files_below
from infra.weights.manifest import File


@dataclass(frozen=True)
class Entry:
    """A file that is wanted: where its link goes, and its sha256 when somebody knows it already."""

    file: File
    link: Path
    sha256: str | None


@dataclass(frozen=True)
class Partial:
    """Bytes of one content that came so far, and the lock that its fetcher holds."""

    path: Path
    lock: FileLock

    @property
    def size(self) -> int:
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def unlink_sized(self) -> int:
        """Removes it; bytes freed."""
        size = self.size
        self.path.unlink(missing_ok=True)
        return size


class Blobs:
    """The lower half of a store."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Makes the folders, for this user only: weights may be licensed to one person."""
        try:
            for name in ("blobs", "revisions", "manifests", "partial", "locks"):
                private(self.root / name)
        except OSError as error:
            raise Denied(
                f"weights can not be stored at {self.root}",
                why=f"{error.filename}: {error.strerror}",
                next="make that folder writable for the user that runs this, or name another in LLM_PIPELINE_CACHE",
            ) from error

    def blob(self, name: str) -> Path:
        return self.root / "blobs" / name

    def partial(self, file: File) -> Partial:
        return Partial(self.root / "partial" / file.key, self.lock(f"fetch-{file.key}"))

    def intact(self, link: Path, name: str, size: int) -> bool:
        """The link leads to the blob of this name, which nobody has written to since it was sealed."""
        try:
            there, blob = link.stat(), self.blob(name).stat()
        except OSError:
            return False
        return bool(name) and there.st_size == size and os.path.samestat(there, blob) and sealed(blob, name)

    def usable(self, name: str, size: int) -> bool:
        """There is a blob of this name that nobody has written to since it was sealed."""
        try:
            stat = self.blob(name).stat()
        except OSError:
            return False
        return stat.st_size == size and sealed(stat, name)

    def lacks(self, entry: Entry) -> int:
        """Bytes that will have to be fetched, by the look of it."""
        size = entry.file.size
        here = [self.blob(entry.sha256)] if entry.sha256 else []
        if any(path.is_file() and path.stat().st_size == size for path in [entry.link, *here]):
            return 0
        return max(0, size - self.partial(entry.file).size)

    def take(self, path: Path, name: str, *, keep: bool) -> None:
        """Makes a verified file the blob of its name; `keep`: the file itself stays where it is."""
        with self.lock(name):
            blob = self.blob(name)
            if self.usable(name, path.stat().st_size):
                if not keep:
                    path.unlink()
                return
            beside = self._beside(name)
            if keep:
                share(path, beside)
            else:
                path.replace(beside)
            seal(beside, name)
            _put(beside, blob)
            _sync(blob.parent)

    def link(self, name: str, to: Path) -> None:
        """Puts a link to the blob there, in place of whatever is there. FileNotFoundError when somebody removed the blob."""
        with self.lock(name):
            private(to.parent)
            if to.exists() and to.samefile(self.blob(name)):
                return
            beside = self._beside(name)
            os.link(self.blob(name), beside)
            _put(beside, to)

    def discard(self, name: str, bad: Path) -> None:
        """Takes the blob away when it is this very file: its content is not its name any more."""
        with self.lock(name):
            blob = self.blob(name)
            if blob.exists() and blob.samefile(bad):
                blob.unlink()

    def release(self, name: str) -> int:
        """Removes the blob when no revision leads to it; bytes freed (none while the Hub's cache still has the file)."""
        with self.lock(name):
            try:
                stat = self.blob(name).stat()
            except OSError:
                return 0
            if any(os.path.samestat(stat, other) for _, other in files_below(self.root / "revisions")):
                return 0
            self._beside(name)
            stat = self.blob(name).stat()
            self.blob(name).unlink()
            return stat.st_size if stat.st_nlink == 1 else 0

    def linked(self, folder: Path) -> set[str]:
        """Which blobs the files below a folder lead to."""
        names = {stat.st_ino: blob.name for blob, stat in files_below(self.root / "blobs")}
        return {names[stat.st_ino] for _, stat in files_below(folder) if stat.st_ino in names}

    def lock(self, name: str) -> FileLock:
        """The OS lock of one content. Never the soft kind: a file that outlives a killed holder would stop everybody for ever."""
        return FileLock(self.root / "locks" / name, mode=0o600, fallback_to_soft=False, preserve_lock_file=True)

    def _beside(self, name: str) -> Path:
        """A place to prepare the next step, which only the holder of the blob's lock uses; a killed one's remains are cleared."""
        path = self.root / "partial" / f"{name}.new"
        path.unlink(missing_ok=True)
        return path


def seal(path: Path, name: str) -> None:
    """Marks a verified file: from here on its modification time says that nobody has written to it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns // SECOND * SECOND + _mark(name)))


def sealed(stat: os.stat_result, name: str) -> bool:
    return stat.st_mtime_ns % SECOND == _mark(name)


def share(path: Path, to: Path) -> None:
    """A hard link; a copy where there can be none: another disk, a file of another user."""
    try:
        os.link(path.resolve(), to)
        os.utime(to, ns=(to.stat().st_atime_ns, to.stat().st_mtime_ns))
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP):
            raise
        to.unlink(missing_ok=True)
        to.touch(mode=0o600)
        shutil.copyfile(path, to)


SECOND = 10**9


def _mark(name: str) -> int:
    """A number below a second, in steps of 100 ns, which every file system with hard links keeps; never a round one."""
    return (int(name[:12], 16) % 9_999_999 + 1) * 100


def _put(path: Path, to: Path) -> None:
    """Atomic. Renaming one link of a file onto another of the same file does nothing at all, so the first is removed then."""
    path.replace(to)
    path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
