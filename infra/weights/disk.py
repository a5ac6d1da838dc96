"""What lies on the disk, and what its errors mean in our words.

Whatever they are: bytes that came and were verified stay, and the next call goes on from them.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from infra.errors import CapacityError, Conflict, Denied, PipelineError, Transient

FULL = (errno.ENOSPC, errno.EDQUOT)
LOCKED = (errno.EPERM, errno.ENOTSUP, errno.EACCES, errno.EROFS)


def files_below(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every file below, links followed. What another process removes meanwhile is left out: it is not there."""
    for where, _, names in os.walk(folder):
        for name in sorted(names):
            path = Path(where, name)
            with contextlib.suppress(OSError):
                yield path, path.stat()


def told(root: Path, what: str, error: OSError) -> PipelineError | None:
    """The error behind one of the system's, while `what` was being stored in `root`. None: a bug, not a circumstance."""
    if error.errno in FULL:
        return CapacityError(
            f"the disk filled up while {what} was stored",
            why=f"{_free(root)} at {root}; what came so far is kept",
            next="free some space, or name a larger disk in LLM_PIPELINE_CACHE, then run the same command again: it goes on where it stopped",
            log=str(error),
        )
    if error.errno == errno.EFBIG:
        return Denied(
            f"{what} is larger than a file may be at {root}",
            why="the file system (FAT: 4 GiB) or this user's limit (ulimit -f) allows no larger one",
            next="name a folder on another file system in LLM_PIPELINE_CACHE, or raise the limit, then run the same command again",
            log=str(error),
        )
    if error.errno in LOCKED:
        return Denied(
            f"{what} can not be stored",
            why=f"{root}: {error.strerror}; the store needs a file system with hard links that this user may write to",
            next="name a folder on a local disk in LLM_PIPELINE_CACHE",
            log=str(error),
        )
    if error.errno == errno.EIO:
        return Transient(
            f"the disk failed while {what} was stored",
            why=f"{root}: {error.strerror}; the device itself says so",
            next="look at `dmesg`; if it stays so, name a folder on another disk in LLM_PIPELINE_CACHE",
            log=str(error),
        )
    if error.errno == errno.ENOENT:
        return Conflict(
            f"{what} was removed while it was stored",
            why="another process removes revisions from this store",
            next="run the same command again",
            log=str(error),
        )
    return None


def _free(root: Path) -> str:
    found = os.statvfs(root)
    text = f"{found.f_bavail * found.f_frsize / 1e9:,.2f} GB are free"
    return text if found.f_favail or not found.f_files else f"{text}, but no file more can be made (inodes)"
