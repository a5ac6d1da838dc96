"""The asset graph of the declarations that this clone ships, as a text that people read: tests/graph.txt.

After a change that is meant:  python -c "from tests.test_graph import write; write()"   and read the difference.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

from llm_pipeline.definitions import defs

ROOT = Path(__file__).resolve().parents[1]
GRAPH = Path(__file__).with_name("graph.txt")

pytestmark = [
    pytest.mark.filterwarnings("ignore:Property .OpDefinition.version:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.parse_obj_as. is deprecated:DeprecationWarning"),
]
"""Both are Dagster's own."""

LAYERS = [
    {"cluster", "model_revision"},
    {"deployment"},
    {"model_weights", "image", "gpu_nodepool"},
    {"ray_service"},
    {"smoke_test"},
    {"endpoint"},
    {"benchmark", "teardown_report"},
]
"""One model and its cluster, from what needs nothing to what needs everything."""


@cache
def shipped() -> dg.Definitions:
    """The graph of this clone."""
    return defs()


def graph() -> AssetGraph:
    return shipped().resolve_asset_graph()


def picture() -> str:
    """Every asset with what a person sees of it; then checks, jobs, sensors and schedules."""
    found = graph()
    lines = [line for key in sorted(found.get_all_asset_keys()) for line in asset_lines(found, key)]
    checks = (f"{key.asset_key.to_user_string()}:{key.name}{' blocking' if found.get(key).blocking else ''}" for key in found.asset_check_keys)
    jobs = (f"{job.name} {dict(job.tags or {})}" for job in shipped().jobs or ())
    sensors = (f"{sensor.name} every {sensor.minimum_interval_seconds} s, {sensor.default_status.value}" for sensor in shipped().sensors or ())
    schedules = (f"{schedule.name} {schedule.cron_schedule}, {schedule.default_status.value}" for schedule in shipped().schedules or ())
    for title, rows in (("checks", checks), ("jobs", jobs), ("sensors", sensors), ("schedules", schedules)):
        lines += ["", title, *(f"    {row}" for row in sorted(rows))]
    return "\n".join(lines) + "\n"


def asset_lines(found: AssetGraph, key: dg.AssetKey) -> Iterator[str]:
    node = found.get(key)
    how = "materialised" if node.is_materializable else "observed" if node.is_observable else "shown"
    icons = ", ".join(sorted(name.removeprefix("dagster/kind/") for name in node.tags if name.startswith("dagster/kind/")))
    yield f"{key.to_user_string()}"
    yield f"    {how}, group {node.group_name}, kinds {icons or 'none'}, owners {', '.join(node.owners) or 'none'}"
    if node.parent_keys:
        yield f"    after {', '.join(sorted(parent.to_user_string() for parent in node.parent_keys))}"


def write() -> None:
    """Takes the graph of now for right."""
    GRAPH.write_text(picture())


def test_the_graph_is_the_one_that_was_agreed() -> None:
    """Keys, edges, groups, kinds, checks, jobs and sensors: nothing appears or goes away unseen."""
    assert picture() == GRAPH.read_text()


def test_the_definitions_can_be_loaded() -> None:
    """Every job resolves, no key is defined twice."""
    dg.Definitions.validate_loadable(shipped())
    assert {job.name for job in shipped().resolve_all_job_defs()} >= {"teardown", "pin", "collect"}


def test_a_model_has_the_layers_of_its_life() -> None:
    """Weights, image and room side by side; traffic after the proof; a first run asks `deployment` before anything that costs."""
    found = graph()
    keys = {dg.AssetKey(["local", "cluster"]), *(key for key in found.get_all_asset_keys() if key.path[0] == "demo")}
    layers, done = [], set[dg.AssetKey]()
    while keys - done:
        ready = {key for key in keys - done if found.get(key).parent_keys <= done}
        assert ready, "the graph has a circle"
        layers.append({key.path[-1] for key in ready})
        done |= ready

    assert layers == LAYERS


def test_no_stage_makes_itself_known_without_words() -> None:
    """Each asset has a description, a group, and somebody who answers for it."""
    found = graph()
    for key in found.get_all_asset_keys():
        node = found.get(key)
        assert node.description and node.group_name != "default", key
        assert node.owners or not node.is_materializable, key


def test_nothing_is_materialised_by_a_condition() -> None:
    """One loop acts; a condition beside it would fight a teardown."""
    found = graph()

    assert [key for key in found.get_all_asset_keys() if found.get(key).automation_condition] == []


def test_a_broken_file_disables_only_its_own_model(clone: Path) -> None:
    """It stands in the graph as an asset whose description is the error; everything else loads as before."""
    (clone / "assets" / "models" / "bad").mkdir()
    (clone / "assets" / "models" / "bad" / "defs.yaml").write_text(
        "type: llm_pipeline.components.Model\nattributes:\n  cluster: local\n  weights: file://w\n  engine: {max_model_length: 5}\n"
    )

    told = loaded(clone)

    assert "bad/broken materializable False" in told
    assert "assets/models/bad/defs.yaml:5 engine.max_model_length: unknown key; did you mean max_model_len?" in told
    assert "next correct assets/models/bad/defs.yaml, then: llm-pipeline up bad" in told
    assert "demo/endpoint materializable True" in told and "bad/endpoint" not in told


def test_a_broken_cluster_disables_what_runs_there_and_nothing_more(clone: Path) -> None:
    """The location loads: the loop goes on for every other cluster, and the page says what to correct."""
    (clone / "assets" / "clusters" / "lab").mkdir()
    (clone / "assets" / "clusters" / "lab" / "defs.yaml").write_text("type: llm_pipeline.components.Cluster\nattributes:\n  platform: lokal\n")

    told = loaded(clone)

    assert "lab/broken materializable False" in told and "did you mean local?" in told
    assert "demo/endpoint materializable True" in told


def test_dagster_validates_the_definitions_without_any_setting(clone: Path) -> None:
    """As CI would, in a fresh clone, with an empty environment."""
    done = bare(clone, "dagster", "definitions", "validate")

    assert done.returncode == 0, done.stderr[-2000:]
    assert "Validation successful" in done.stdout + done.stderr


def test_a_step_finds_the_graph_that_its_server_made() -> None:
    """A step is forked from a server that preloaded graph and storage; with five hundred models each one would work for seconds before it began."""
    code = """
        import os, warnings
        warnings.simplefilter("ignore")
        import llm_pipeline.preload
        from llm_pipeline import components
        def again(*_): raise AssertionError("made a second time")
        components.build_model = again
        from dagster._core.definitions.reconstruct import ReconstructableRepository
        ReconstructableRepository.for_module("llm_pipeline.definitions", "defs", os.getcwd()).get_definition()
        import sys, threading
        assert {"alembic", "dagster._core.storage.event_log.sqlite.sqlite_event_log"} <= set(sys.modules), "the storage's code is read by each step"
        assert threading.active_count() == 1, "a forked step would inherit a lock that nobody gives back"
    """
    done = bare(ROOT, "python", "-c", textwrap.dedent(code))

    assert done.returncode == 0, done.stderr[-2000:]
    assert '"llm_pipeline.preload"' in (ROOT / "llm_pipeline" / "definitions.py").read_text()


@pytest.mark.real
def test_dg_checks_the_definitions_without_any_setting(clone: Path) -> None:
    """`dg` finds the components by its own way."""
    done = bare(clone, "dg", "check", "defs")

    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that git knows, elsewhere."""
    found = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in found:
        if name and not name.endswith(".safetensors") and (ROOT / name).is_file() and not name.startswith("tests/"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


def bare(clone: Path, program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A program of this environment in the clone, with nothing but a path and the clone's own code."""
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(clone), "HOME": str(clone)}
    argv = [str(Path(sys.executable).parent / program), *words]
    return subprocess.run(argv, cwd=clone, env=environment, capture_output=True, text=True, timeout=110, check=False)


def loaded(clone: Path) -> str:
    """What a clone's code location says of its assets, one a line, with descriptions on one line."""
    code = """
        import llm_pipeline.definitions as d
        found = d.defs().resolve_asset_graph()
        for key in sorted(found.get_all_asset_keys()):
            node = found.get(key)
            print(key.to_user_string(), "materializable", node.is_materializable, " ".join((node.description or "").split()))
    """
    done = bare(clone, "python", "-c", textwrap.dedent(code))
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
