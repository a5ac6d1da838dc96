"""Weights that another asset makes, at the command line: how it ends, and what `status` says."""

from __future__ import annotations

from tests.assets.clone import Clone
from tests.assets.test_upstream import Team
from tests.cli.screen import Terminal
from tests.doubles.platform import World


def test_an_asset_that_was_never_materialised_is_bad_input(terminal: Terminal, clone: Clone) -> None:
    """Exit code 2, and the way out: for `up`, and for whatever else looks at the source."""
    clone.declare(weights="asset://team/tuned")

    for verb in ("up", "diff"):
        ended = terminal(verb, "demo")
        assert ended.code == 2 and "materialise team/tuned in Dagster" in ended.out + ended.err


def test_notify_asks_the_same_dagster_and_links_to_the_run(terminal: Terminal, clone: Clone, world: World) -> None:
    """Whatever location made it; a source that can not be followed ends with exit code 1, as one that is away."""
    clone.declare(weights="asset://team/tuned")
    (clone.root / "weights").mkdir()
    run = Team(clone).materialise(path=str(clone.root / "weights"))
    assert terminal("up", "demo").code == 0
    world.source["demo"] = "v2"

    found = terminal("notify", "demo", "--json").document
    (clone.root / "weights").rmdir()
    away = terminal("notify", "demo", "--json")

    assert (found["revision"], found["admitted"]) == ("v2", True) and found["link"].endswith(f"/runs/{run}")
    assert away.code == 1 and "are not there" in away.document["source"]["problem"]["what"]
    assert terminal("status", "--json").document["models"][0]["source"]["reachable"] is False
