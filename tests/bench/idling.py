"""What the control plane costs while nothing happens: CPU and memory of webserver, daemon and code server with 50 models."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.bench.frame import Figure, Lab
from tests.bench.location import declared
from tests.life.clone import free_port

SETTLE, WATCH = 25.0, 45.0
"""Seconds until imports and first ticks are over; seconds that are watched, three ticks of the loop."""


def figures(lab: Lab) -> Iterator[Figure]:
    """Ours with its loop running every 15 s, against `dagster dev` with as many bare assets and nothing that runs."""
    models = 5 if lab.quick else 50
    clone = declared(lab.folder / "idle", models)
    cpu, memory, other = [], [], []
    for _ in range(1 if lab.quick else lab.rounds):
        clone.run("dagster", "start")
        try:
            pids = [pid for pid, mark in clone.processes().items() if ":dagster:" in mark]
            used, held = watched(pids)
        finally:
            clone.run("dagster", "stop")
        cpu.append(100 * used)
        memory.append(held / 1e6)
        other.append(bare(lab.folder / "bare-dagster", models)[1] / 1e6)
    yield Figure(f"idle control plane, {models} models: CPU", "% of a core", tuple(cpu), how="value", goal=10)
    yield Figure(f"idle control plane, {models} models: memory", "MB", tuple(memory), tuple(other), "dagster dev with as many bare assets", goal=1.15)


def bare(folder: Path, models: int) -> tuple[float, float]:
    """The same of `dagster dev` over the bare location."""
    folder.mkdir(parents=True, exist_ok=True)
    root = Path(__file__).resolve().parents[2]
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    env = {"PATH": f"{Path(sys.executable).parent}:{os.defpath}", "HOME": str(folder), "DAGSTER_HOME": str(folder), "PYTHONPATH": str(root), "MODELS": str(models), "PYTHONWARNINGS": "ignore"}
    argv = [str(Path(sys.executable).parent / "dagster"), "dev", "-m", "tests.bench.bare_location", "-h", "127.0.0.1", "-p", str(free_port())]
    with (folder / "dev.log").open("wb") as log:
        process = subprocess.Popen(argv, env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            time.sleep(10)
            return watched([process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))])
        finally:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def watched(pids: list[int]) -> tuple[float, float]:
    """CPU seconds per second, and proportional set size in bytes at the end."""
    time.sleep(SETTLE)
    processes = [psutil.Process(pid) for pid in pids]
    before, began = sum(busy(process) for process in processes), time.monotonic()
    time.sleep(WATCH)
    used = (sum(busy(process) for process in processes) - before) / (time.monotonic() - began)
    return used, float(sum(process.memory_full_info().pss for process in processes))


def busy(process: psutil.Process) -> float:
    """User and system seconds of a process and of those of its children that ended."""
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)
