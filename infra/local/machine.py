"""What this machine has and who uses it: CPUs, memory, disk, GPUs, ports. Reads only."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """Bytes; `gpus` are names as the driver gives them."""

    cpus: int
    memory: int
    gpus: tuple[str, ...]
    kernel: str
    python: str
    host: str
    machine_id: str


def look() -> Machine:
    """This machine."""
    with contextlib.suppress(OSError):
        machine_id = Path("/etc/machine-id").read_text().strip()
        return _machine(machine_id or "none")
    return _machine("none")


def _machine(machine_id: str) -> Machine:
    return Machine(
        len(os.sched_getaffinity(0)), memory_limit(), gpus(), platform.release(), platform.python_version(), socket.gethostname(), machine_id,
    )  # fmt: skip


def memory_limit() -> int:
    """Memory of the machine, or of the control group that we are in when that is less."""
    total = psutil.virtual_memory().total
    with contextlib.suppress(OSError, ValueError):
        total = min(total, int((CGROUP / "memory.max").read_text()))
    return int(total)


def memory_free() -> int:
    """Bytes that new processes can have without swapping.

    Of what a control group is charged for, the file cache that nobody touched lately is free: after reading weights it would
    otherwise look as if the weights were in memory already.
    """
    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text()) - _idle_cache()
        free = min(free, max(0, limit - used))
    return int(free)


def _idle_cache() -> int:
    rows = dict(line.split(None, 1) for line in (CGROUP / "memory.stat").read_text().splitlines())
    return int(rows.get("inactive_file", 0))


def disk_free(path: Path) -> int:
    """Bytes free where `path` lies or will lie."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def folder_size(path: Path) -> int:
    """Bytes on disk below a folder; a file with several names counts once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for found in path.rglob("*"):
        try:
            stat = found.lstat()
        except OSError:
            continue
        if (stat.st_dev, stat.st_ino) not in seen:
            seen.add((stat.st_dev, stat.st_ino))
            total += stat.st_blocks * 512
    return total


def gpus() -> tuple[str, ...]:
    """GPUs that the driver shows; none when there is no driver. Asked by its own program, which can be left alone when a driver hangs (`infra.local.driver` asks in this process)."""
    program = shutil.which("nvidia-smi")
    if not program:
        return ()
    try:
        done = subprocess.run([program, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip()) if done.returncode == 0 else ()


def holder(port: int) -> str | None:
    """Who listens on this TCP port: `name (pid 123, user)`; None when nobody does, or it can not be told."""
    with contextlib.suppress(psutil.Error, OSError):
        for found in psutil.net_connections(kind="tcp"):
            if found.status == psutil.CONN_LISTEN and found.laddr and found.laddr.port == port:
                return describe(found.pid) if found.pid else "a process of another user"
    return None


def listener_folder(port: int) -> Path | None:
    """The working directory of whoever listens on this TCP port; None when nobody does, or it can not be told."""
    with contextlib.suppress(psutil.Error, OSError):
        for found in psutil.net_connections(kind="tcp"):
            if found.status == psutil.CONN_LISTEN and found.laddr and found.laddr.port == port and found.pid:
                return Path(psutil.Process(found.pid).cwd())
    return None


def describe(pid: int) -> str:
    """A process in words."""
    try:
        process = psutil.Process(pid)
        return f"{process.name()} (pid {pid}, user {process.username()})"
    except psutil.Error:
        return f"pid {pid}"
