"""`inventory` on every platform: everything of ours, read from the platform itself, and nothing else.

What is ours is known by marks of processes and folders on `local`, and by labels on a cluster: tests/kubernetes/test_inventory.py.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.local.processes import MARK, mark_of
from infra.platform import Platform
from infra.states import Leftover, Route
from infra.waiting import Progress
from tests.platform.conftest import LocalStand, killed

pytestmark = pytest.mark.only("local")

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def running(platform: Platform) -> tuple[Leftover, ...]:
    """What is not data."""
    return tuple(found for found in platform.inventory.find() if not found.data)


def test_nothing_is_found_where_nothing_was_made(platform: Platform) -> None:
    """Not even an empty folder."""
    assert running(platform) == ()


def test_everything_that_runs_is_found_with_its_proof_and_can_be_removed(stand: LocalStand, platform: Platform) -> None:
    """Each row names model and release; removing what was found leaves nothing, and removing it again is no error."""
    release = stand.release()
    state = platform.ray_service.apply(release, Progress(250))
    assert state.address
    platform.endpoint.apply(Route("demo", "demo", release.name, state.address), Progress(250))

    found = {row.part: row for row in running(platform)}

    assert (found["ray_service"].model, found["ray_service"].release) == ("demo", release.name)
    assert all(row.why_ours for row in found.values())
    assert set(found) == {"ray_service", "endpoint"}
    for row in (*found.values(), *found.values()):
        platform.inventory.remove(row, Progress(250))
    assert running(platform) == ()
    assert stand.processes() == set()


def test_it_works_without_records_and_without_folders(stand: LocalStand, platform: Platform) -> None:
    """Processes are found by their mark when everything that described them is gone."""
    release = stand.release()
    platform.ray_service.apply(release, Progress(250))
    shutil.rmtree(stand.settings.home)

    (service,) = [row for row in running(platform) if row.part == "ray_service"]
    platform.inventory.remove(service, Progress(250))

    assert service.release == release.name
    assert stand.processes() == set()


def test_a_killed_start_is_found(stand: LocalStand, platform: Platform) -> None:
    """Nobody else would come back for it."""
    release = stand.release("slow 600")
    killed(lambda progress: stand.again().ray_service.apply(release, progress), "engine: import")

    (row,) = running(platform)
    platform.inventory.remove(row, Progress(250))

    assert row.release == release.name
    assert running(platform) == ()


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


def test_data_is_listed_with_its_size_and_marked_as_data(stand: LocalStand, platform: Platform) -> None:
    """It is kept by `down`, so people want to know what it costs."""
    release = stand.release()
    platform.records.put("demo", "deployment", {"wanted": False}, None)

    rows = {row.part: row for row in platform.inventory.find()}

    assert rows["model_weights"].data
    assert rows["model_weights"].bytes >= release.manifest.size
    assert rows["records"].data
    platform.inventory.remove(rows["model_weights"], Progress(250))
    assert platform.model_weights.observe(release) is None


def test_a_row_that_points_elsewhere_removes_nothing(stand: LocalStand, platform: Platform, tmp_path: Path) -> None:
    """Whoever made it up: only what lies in our folders is removed."""
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    made_up = Leftover("model_weights", str(foreign), "", None, None, "trust me", data=True)

    platform.inventory.remove(made_up, Progress(250))

    assert foreign.is_dir()
