"""What the world does meanwhile: storage is deleted, disks fill up, people say two things at once; and clients go on asking."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.sweep import load
from tests.sweep.cells import Outcome as Row
from tests.sweep.cells import fresh, gone, serve, whole
from tests.sweep.points import Point
from tests.sweep.stand import Stand, empty_storage


@pytest.fixture
def stand() -> Iterator[Stand]:
    made = fresh()
    yield made
    made.close()


def test_dagsters_storage_deleted_while_a_model_serves_is_no_loss(stand: Stand) -> None:
    """Records and platform know it all: it answers, can be changed, rolled back and taken down; a killed run's claim is no ghost."""
    serve(stand)
    first = stand.live
    stand.declare(engine={"max_model_len": 256})
    killed = stand.up(at=Point("ray_service", "phase first answer"))
    shutil.rmtree(stand.root / ".dagster")
    shutil.copytree(empty_storage(), stand.root / ".dagster")

    assert killed.code == -9 and stand.ask() == (200, f"demo-{first}")
    assert stand.up().value["result"] == "serving"
    assert stand.rollback().value["release"] == first
    assert whole(stand) == [] and nothing_stays(stand) == []


def test_two_downs_at_once_are_both_green_and_leave_nothing(stand: Stand) -> None:
    """One of them finds nothing to remove; the next word is obeyed."""
    serve(stand)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: stand.down(), range(2)))

    assert [result.code for result in results] == [0, 0] and all(result.value["left"] == [] for result in results), [result.value for result in results]
    assert stand.processes() == {}
    assert stand.up().value["result"] == "serving"
    assert whole(stand) == [] and nothing_stays(stand) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_is_told_and_up_goes_on_when_there_is_room(stand: Stand) -> None:
    """Records stay whole; nothing half-written is taken for something."""
    home = stand.settings.home
    home.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "sweep", str(home)], check=False).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        filler = home / "filler"
        filler.write_bytes(b"x" * ((1 << 20) - 40 * 1024))
        full = stand.up()
        told = full.value.get("problem") or full.value
        filler.unlink()
        after = stand.up()

        assert full.code == 0 and "No space left" in f"{told.get('why')} {told.get('log')}" and told.get("next"), full.value
        assert after.value["result"] == "serving" and whole(stand) == []
        assert nothing_stays(stand) == []
    finally:
        stand.down()
        subprocess.run(["umount", "--lazy", str(home)], check=True)


def test_a_rollout_whose_run_was_cancelled_leaves_what_serves_and_says_how_to_go_on(stand: Stand) -> None:
    """Terminate in the UI sends SIGINT to the run: never a reason to touch the endpoint."""
    serve(stand)
    live = stand.live
    stand.declare(engine={"max_model_len": 256})

    done = stand.up(at=Point("smoke_test", "phase golden_answers"), strike=cancel)

    problem = done.value["problem"]
    assert stand.ask() == (200, f"demo-{live}") and stand.live == live
    assert (problem["what"], problem["next"]) == ("a person ended the run", "llm-pipeline up demo goes on from here")
    assert stand.up().value["result"] == "serving" and whole(stand) == []


def test_nobody_notices_a_change_a_rollback_a_refusal_or_a_killed_run(stand: Stand) -> None:
    """Clients of four kinds get a whole answer each time, from whichever release serves."""
    serve(stand)
    out, done = stand.root / "heard.json", Counter()
    with load.clients(stand.platform.endpoint.url("demo"), out, 0.02):
        load.a_round(stand, done)

    heard = load.heard(out)
    assert heard.failed == [] and heard.asked > 300
    assert len(heard.releases) == 2


def cancel(stand: Stand) -> None:
    """As Dagster ends a run that a person terminates: it is marked, then interrupted."""
    import signal

    import dagster as dg

    with dg.DagsterInstance.from_config(str(stand.root)) as instance:
        run = next(iter(instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]), limit=1)))
        instance.report_run_canceling(run)
    os.kill(os.getpid(), signal.SIGINT)


def nothing_stays(stand: Stand) -> list[str]:
    """`down`, and what is wrong afterwards."""
    row = Row("", Point("", ""), "")
    gone(stand, row)
    return row.wrong
