"""`notify`: look now, as after a push; what was seen, what follows, and how it ends."""

from __future__ import annotations

import dagster as dg
import pytest

from infra.errors import Transient
from llm_pipeline import console
from tests.assets.clone import Clone
from tests.cli.screen import Terminal, plain, same
from tests.doubles.platform import World


@pytest.fixture(autouse=True)
def a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every duration is 1.2 s long."""
    monkeypatch.setattr(console, "ago", lambda seconds: "-" if seconds is None else "1.2 s")


def test_notify_of_something_new(terminal: Terminal, clone: Clone, world: World) -> None:
    """It is admitted, stands on the model's page, and its rollout is launched as the loop would launch it; the loop asks for nothing more."""
    clone.serve()
    world.source["demo"] = "v2"

    found = terminal("notify", "demo", "--json").document

    assert (found["model"], found["before"], found["revision"], found["changed"], found["bytes"]) == ("demo", "v1", "v2", ["weights"], 4_000_000)
    assert found["admitted"] is True and found["waits"] is None and found["link"] is None and found["source"]["reachable"] is True
    (event,) = clone.instance.fetch_observations(dg.AssetKey(["demo", "model_revision"]), limit=1).records
    assert event.asset_observation and event.asset_observation.metadata["revision"].value == "v2"
    run = clone.instance.get_run_by_id(found["run_id"])
    assert run and (run.tags["llm/lifecycle"], run.tags["llm/by"]) == ("redeploy", "reconcile") and clone.record(clone.live() or "").revision == "v2"
    assert not clone.tick().run_requests
    (verdict,) = clone.instance.fetch_observations(dg.AssetKey(["demo", "deployment"]), limit=1).records
    assert verdict.asset_observation and verdict.asset_observation.metadata["verdict"].value == "redeploy"


def test_notify_of_the_hub_links_to_the_commit(terminal: Terminal, clone: Clone, world: World) -> None:
    """Where a person reads what was pushed."""
    clone.declare(weights="hf://org/tiny")
    clone.serve()
    world.source["demo"] = "v2"

    assert terminal("notify", "demo", "--json").document["link"] == "http://127.0.0.1:9/org/tiny/commit/v2"


def test_the_screens_of_notify(terminal: Terminal, clone: Clone, world: World) -> None:
    """Nothing new, something new, something that waits for a person."""
    clone.serve()
    screens = [terminal("notify", "demo")]
    world.source["demo"] = "v2"
    screens.append(terminal("notify", "demo"))
    clone.serve()
    clone.declare(updates={"policy": "manual"})
    world.source["demo"] = "v3"
    screens += [terminal("notify", "demo"), terminal("status")]

    assert [screen.code for screen in screens[:3]] == [0, 0, 0]
    same("notify", plain("".join(screen.out + screen.err for screen in screens)))


def test_notify_of_a_source_that_is_away(terminal: Terminal, clone: Clone, world: World) -> None:
    """Said with its cause, exit 1; `status` says it too, with since when."""
    clone.serve()
    world.source_error = Transient("the Hub can not be reached", why="no route", next="check the network")

    screen, status = terminal("notify", "demo"), terminal("status", "--json").document

    assert screen.code == 1 and "the Hub can not be reached" in screen.err
    assert status["models"][0]["source"]["problem"] == "the Hub can not be reached"
    assert "its source is not reached since" in terminal("status").out


def test_notify_of_a_model_that_nobody_wants(terminal: Terminal, clone: Clone, world: World) -> None:
    """Nothing follows from its source: a rule, so exit 3, and the command that takes the newest."""
    screen = terminal("notify", "demo")

    assert screen.code == 3 and "llm-pipeline up demo" in screen.err and world.looks == []
