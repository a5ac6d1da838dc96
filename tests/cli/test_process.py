"""The installed command in a process of its own, as people start it; without a Dagster, so that its run is a child on the same storage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

PROGRAM = Path(sys.executable).parent / "llm-pipeline"


def typed(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command in another folder, with a home and an instance of its own."""
    environment = {
        "PATH": os.defpath, "HOME": str(folder), "LLM_PIPELINE_HOME": str(folder / "home"), "DAGSTER_HOME": str(folder / "dagster"),
        "LLM_PIPELINE_DAGSTER_PORT": "1", "LLM_PIPELINE_ENDPOINT_PORT": "0",
    }  # fmt: skip
    return subprocess.run([PROGRAM, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=110, check=False)


def test_it_works_from_any_directory_and_on_a_machine_where_nothing_is(tmp_path: Path) -> None:
    """The clone is found from the package, not from where somebody stands."""
    done = typed(tmp_path, "status", "--json")

    assert done.returncode == 0, done.stderr
    assert {row["model"]: row["state"] for row in json.loads(done.stdout)["models"]}["demo"] == "absent"
    assert not (tmp_path / "home").exists(), "looking changes nothing"


@pytest.mark.real
def test_without_a_dagster_the_run_is_a_child_on_the_same_storage(tmp_path: Path) -> None:
    """`down` of what is not up: a whole run, followed to its end, and found by its id afterwards."""
    (tmp_path / "dagster").mkdir()

    done = typed(tmp_path, "down", "demo", "--json")

    found = json.loads(done.stdout)
    with dg.DagsterInstance.from_config(str(tmp_path / "dagster")) as instance:
        run = instance.get_run_by_id(found["report_run_id"])
    assert done.returncode == 0 and found["removed"] == found["left"] == []
    assert run is not None and run.status.value == "SUCCESS" and run.tags["llm/down"] == "demo"
