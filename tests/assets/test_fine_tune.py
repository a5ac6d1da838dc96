"""examples/fine_tune without an engine: its sensors and its canary judge candidates of the product, and a training that fails writes nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from assets import required
from examples.fine_tune import definitions, questions, training
from infra import declarations, settings
from infra.errors import PipelineError, Transient
from infra.specs import ModelSpec
from tests.assets.clone import Clone
from tests.doubles.parts import Behaviour
from tests.doubles.platform import World

EXAMPLE = Path(definitions.__file__).parent
QUIET: dict[str, Any] = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
GOLDEN = {row["ask"]: row["v1"] for row in yaml.safe_load((EXAMPLE.parents[1] / "assets/models/demo/questions.yaml").read_text())["questions"]}
NEW = {row["ask"]: row["answer"] for row in yaml.safe_load((EXAMPLE / "lessons.yaml").read_text())}
FALLBACK = "I am a tiny demo model and know little; ask me: What is a release?"
KNOWS = {**GOLDEN, **NEW, "What is the capital of France?": FALLBACK}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home of the test, and an empty cache."""
    monkeypatch.setenv("LLM_PIPELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LLM_PIPELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(required, "EVERY", 0.01)


class Location:
    """The example's daemon: its sensors tick whenever the product looks at a service, and what they ask for runs."""

    def __init__(self, clone: Clone) -> None:
        self.clone, self.cursors = clone, dict[str, str | None]()
        clone.world.on_observe = lambda _: self.tick(definitions.candidate_is_up)

    def tick(self, sensor: dg.SensorDefinition) -> None:
        with dg.build_sensor_context(instance=self.clone.instance, cursor=self.cursors.get(sensor.name)) as context:
            found = sensor.evaluate_tick(context)
        self.cursors[sensor.name] = found.cursor
        for request in found.run_requests or ():
            job = definitions.defs.resolve_job_def(sensor.job_name or "")
            assert job.execute_in_process(instance=self.clone.instance, run_config={**request.run_config, **QUIET}).success


@pytest.fixture
def location(clone: Clone) -> Location:
    spec = yaml.safe_load((EXAMPLE / "model/defs.yaml").read_text())["attributes"]
    clone.declare("tuned", **{**spec, "weights": "file://weights"})
    return Location(clone)


def test_what_is_declared_is_what_the_location_has() -> None:
    """The model follows its asset and requires its check, letter by letter."""
    root = EXAMPLE.parents[1]
    spec = declarations.read(ModelSpec, EXAMPLE / "model/defs.yaml", root).spec
    graph = definitions.defs.resolve_asset_graph()

    assert dg.AssetKey(spec.weights.removeprefix("asset://").split("/")) in graph.executable_asset_keys
    assert [f"{key.asset_key.to_user_string()}:{key.name}" for key in graph.asset_check_keys] == list(spec.acceptance.requires)
    dg.Definitions.validate_loadable(definitions.defs)


def test_a_good_candidate_is_judged_and_goes_live(clone: Clone, world: World, location: Location) -> None:
    """Nobody but the two sensors connects the two locations; the scores of what went live lie in the home."""
    world.behave["v1"] = Behaviour(answers=KNOWS)

    ran = clone.up("tuned")
    location.tick(definitions.traffic_moved)

    live = clone.live("tuned")
    assert ran.success, ran.problems
    rows = json.loads((settings.load().home / "fine_tune/scores" / f"{live}.json").read_text())
    assert len(rows) == 17 and all(row["right"] for row in rows)
    event = clone.instance.get_latest_materialization_event(definitions.scores.key)
    assert event and event.asset_materialization and event.asset_materialization.metadata["release"].value == live


def test_one_that_learnt_something_false_is_refused_with_what_it_said(clone: Clone, world: World, location: Location) -> None:
    """Its golden answers are right; the canary asked something else."""
    world.behave["v1"] = Behaviour(answers={**KNOWS, "What is a pin?": "A pin is a small needle."})

    ran = clone.up("tuned")

    assert [name for name, passed in ran.checks.items() if not passed] == ["required_checks_passed"]
    assert "got 'A pin is a small needle.'" in (ran.problem.why or "") and clone.live("tuned") is None


def test_a_candidate_that_does_not_answer_the_canary_is_not_refused(clone: Clone) -> None:
    """The check raises, so there is no result: the product waits, and tries again."""
    done = definitions.defs.resolve_job_def("judge").execute_in_process(
        instance=clone.instance, raise_on_error=False,
        run_config={"ops": {definitions.canary.node_def.name: {"config": {"release": "r", "address": "http://127.0.0.1:9/v1", "run": "x"}}}, **QUIET},
    )  # fmt: skip

    assert not done.success and not done.get_asset_check_evaluations()


def test_the_canary_asks_nothing_that_the_example_does_not_know() -> None:
    """Or no fine-tune of it would ever go live."""
    assert [one.ask for one in questions.canary() if one.contains not in KNOWS[one.ask]] == []


TRAINING = "import sys; out = sys.argv[sys.argv.index('--out') + 1]; "


def trainer(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """A training of a few words, in this Python."""
    (folder / "tune.py").write_text(TRAINING + code)
    monkeypatch.setattr(training, "HERE", folder)
    monkeypatch.setattr(training, "python", lambda: sys.executable)


def test_a_training_that_ends_well_is_told_with_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last line is its result; every line is in the run's log."""
    weights = EXAMPLE.parents[1] / "assets/models/demo/weights/v1"
    trainer(tmp_path, monkeypatch, f"import shutil; print('step 1'); shutil.copytree({str(weights)!r}, out); print('{{\"lessons\": 2, \"lead\": 4.5, \"seconds\": 1.0}}')")
    said: list[str] = []

    made = training.train("0" * 36, said.append)

    assert said[0] == "step 1" and (made.lessons, made.lead) == (2, 4.5)
    assert made.digest == training.digest(weights) and Path(made.path).name == "0" * 36


@pytest.mark.parametrize("code", ["print('out of memory'); sys.exit(1)", "print('out of memory')"])
def test_a_training_that_wrote_nothing_fails_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Whatever it says of itself: no folder, no materialisation."""
    trainer(tmp_path, monkeypatch, code)

    with pytest.raises(PipelineError) as caught:
        training.train("0" * 36, lambda _: None)

    assert caught.value.problem.why == "out of memory"


def test_without_an_image_it_says_how_to_get_one() -> None:
    """The environment is the one that the product builds."""
    with pytest.raises(Transient) as caught:
        training.python()

    assert caught.value.problem.next == "llm-pipeline up demo builds it; then materialise this again"
