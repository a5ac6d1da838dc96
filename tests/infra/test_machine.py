"""What this machine has, as far as it can be told."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from infra.local import machine


def test_the_machine_is_looked_at_as_it_is() -> None:
    """CPUs that we may use, memory that we may use; twice the same."""
    here = machine.look()

    assert here == machine.look()
    assert here.cpus == len(os.sched_getaffinity(0))
    assert 0 < here.memory <= psutil.virtual_memory().total
    assert here.host == socket.gethostname()
    assert here.machine_id


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A control group as a container sees it."""
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    return tmp_path


def limit(group: Path, most: str, used: int, idle: int) -> None:
    """Writes the kernel's files."""
    (group / "memory.max").write_text(f"{most}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 1\nfile 2\ninactive_file {idle}\nactive_file 3\n")


def test_a_containers_limit_counts_and_its_idle_file_cache_does_not(group: Path) -> None:
    """Else a machine that has just read 10 GB of weights would seem full."""
    limit(group, str(100 << 20), used=90 << 20, idle=50 << 20)

    assert machine.memory_limit() == 100 << 20
    assert machine.memory_free() == 60 << 20


@pytest.mark.parametrize(("most", "used", "free"), [(str(10 << 20), 20 << 20, 0), ("max", 0, None)])
def test_a_group_over_its_limit_has_nothing_and_one_without_has_the_machines(group: Path, most: str, used: int, free: int | None) -> None:
    """Never a negative number."""
    limit(group, most, used, idle=0)

    found = machine.memory_free()

    assert found == free if free is not None else found > 1 << 20


def test_a_machine_without_control_groups_has_its_own_memory(group: Path) -> None:
    """The files are not there."""
    assert machine.memory_limit() == psutil.virtual_memory().total
    assert machine.memory_free() > 0


def test_free_disk_is_told_for_places_that_do_not_exist_yet(tmp_path: Path) -> None:
    """The home is made later."""
    assert machine.disk_free(tmp_path / "a" / "b") == pytest.approx(machine.disk_free(tmp_path), rel=0.1)


def test_who_holds_a_port_is_told_by_name_and_number() -> None:
    """That is what a person needs to stop it; nobody is None."""
    code = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        port = int(other.stdout.readline())
        found = machine.holder(port)
        other.kill()

    assert found
    assert f"pid {other.pid}" in found
    assert machine.holder(port) is None
    assert machine.describe(2**22 - 1) == f"pid {2**22 - 1}"


@pytest.mark.parametrize(
    ("script", "gpus"),
    [("echo 'NVIDIA H200'; echo 'NVIDIA H200'", ("NVIDIA H200", "NVIDIA H200")), ("echo 'No devices were found'; exit 6", ()), ("exit 0", ())],
)
def test_gpus_are_those_that_the_driver_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, gpus: tuple[str, ...]) -> None:
    """A driver without a GPU says so by its exit status."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    assert machine.gpus() == gpus


def test_without_a_driver_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No error: a laptop is a fine machine."""
    monkeypatch.setenv("PATH", str(tmp_path))

    assert machine.gpus() == ()
