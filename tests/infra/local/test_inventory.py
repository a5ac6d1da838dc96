"""What is ours on this machine is known by marks of processes and by folders. The contract itself: tests/platform/test_inventory.py."""

from __future__ import annotations

import shutil
import subprocess
import sys

from infra.local.processes import MARK, mark_of
from infra.platform import Platform
from infra.waiting import Progress
from tests.platform.conftest import LocalStand
from tests.platform.test_inventory import running

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def test_it_works_without_records_and_without_folders(stand: LocalStand, platform: Platform) -> None:
    """Processes are found by their mark when everything that described them is gone."""
    release = stand.release()
    platform.ray_service.apply(release, Progress(250))
    shutil.rmtree(stand.settings.home)

    (service,) = [row for row in running(platform) if row.part == "ray_service"]
    platform.inventory.remove(service, Progress(250))

    assert service.release == release.name
    assert stand.processes() == set()


def test_a_session_folder_whose_service_is_gone_is_found(stand: LocalStand, platform: Platform) -> None:
    """After a reboot, or a kill between two removals."""
    release = stand.release()
    platform.ray_service.apply(release, Progress(250))
    temp = platform.ray_service.temp  # type: ignore[attr-defined]
    platform.ray_service.delete(release, Progress(250))
    (temp / "0123456789").mkdir(parents=True)

    (row,) = running(platform)
    platform.inventory.remove(row, Progress(250))
    temp.rmdir()

    assert row.part == "session"


def test_stray_processes_of_ours_are_found_and_those_of_others_never_touched(stand: LocalStand, platform: Platform) -> None:
    """Another home's mark, a name like ours, no mark at all: none of our business."""
    ours = mark_of(stand.settings.home, "benchmark", "x")
    theirs = mark_of(stand.folder / "another", "benchmark", "x")
    with (
        subprocess.Popen(SLEEP, env={MARK: ours}, start_new_session=True) as mine,
        subprocess.Popen(SLEEP, env={MARK: theirs}, start_new_session=True) as other,
        subprocess.Popen([*SLEEP, "haproxy", "ray", "vllm"], start_new_session=True) as foreign,
    ):
        Progress(250).until(lambda: len(running(platform)) == 1 or None, every=0.02)
        (row,) = running(platform)
        platform.inventory.remove(row, Progress(250))
        gone = mine.wait(60)
        left = [other.poll(), foreign.poll()]
        other.kill()
        foreign.kill()

    assert row.id == ours
    assert gone < 0
    assert left == [None, None]
