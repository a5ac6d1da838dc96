"""Which process works on something, told from any later one with the same number; and whether it is provably gone.

What is left of a killed process says that it goes on: a run in Dagster, a claim in the records. Neither time nor the number of the
process tells the truth about that: clocks are set, and numbers are used again.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path


def boot_id() -> str:
    """Changes with every start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when there is none."""
    fields = stat(pid)
    return int(fields[19]) if fields else None


def is_zombie(pid: int) -> bool:
    """Ended, but not yet collected by its parent."""
    fields = stat(pid)
    return bool(fields) and fields[0] == "Z"


def stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat after the name (which may hold spaces and parentheses): state first. Empty: there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def myself() -> str:
    """This process, for a tag or a record: `<host>:<boot id>:<pid>:<start ticks>`."""
    return f"{platform.node()}:{boot_id()}:{os.getpid()}:{start_ticks(os.getpid())}"


def gone(worker: str) -> bool:
    """Whether this process is provably over. False for one on another machine, and for no name at all: that can not be told."""
    try:
        host, boot, pid, ticks = worker.rsplit(":", 3)
    except ValueError:
        return False
    if host != platform.node():
        return False
    return boot != boot_id() or start_ticks(int(pid)) != int(ticks) or is_zombie(int(pid))
