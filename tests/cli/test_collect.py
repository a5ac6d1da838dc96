"""`collect` and the limit of the cache, `rollback` to what is gone, and outages, as people and scripts see them."""

from __future__ import annotations

import pytest

from tests.assets.clone import Clone
from tests.cli.screen import Terminal, plain, same
from tests.cli.test_screens import a_while  # noqa: F401 - every duration is told as 1.2 s
from tests.doubles.platform import World


@pytest.fixture
def used(clone: Clone, world: World) -> list[str]:
    """Three releases, one after the other; the first one is needed no more."""
    ids = []
    for revision in ("v1", "v2", "v3"):
        world.source["demo"] = revision
        ids.append(clone.serve())
    return ids


def test_collect_says_what_went_and_why_the_rest_stays(terminal: Terminal, used: list[str]) -> None:
    """First what would go, then what went, then nothing."""
    dry, done, again = terminal("collect", "--dry-run"), terminal("collect"), terminal("collect")

    assert (dry.code, done.code, again.code) == (0, 0, 0)
    same("collect-dry-run", plain(dry.out + dry.err))
    same("collect", plain(done.out))
    assert again.out.startswith("nothing is unneeded")


def test_collect_as_a_document(terminal: Terminal, used: list[str], world: World) -> None:
    """The dry run removes nothing."""
    dry, done = terminal("collect", "--dry-run", "--json").document, terminal("collect", "--json").document

    assert dry["removed"] == done["removed"] and dry["freed_bytes"] == done["freed_bytes"] == 4_000_012
    assert dry["bytes"] == 3 * 4_000_012 + 1_000
    assert set(done) == {"removed", "kept", "freed_bytes", "runs_forgotten", "postponed", "run_id"} and done["postponed"] is None
    assert set(done["removed"][0]) == {"part", "id", "what", "bytes", "why"}


def test_a_cache_above_its_limit_is_told_by_status_and_doctor(terminal: Terminal, used: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """By how much, what could go, and the command; below the limit there is nothing to tell, and without one nobody looks."""
    without = terminal("status", "--json").document
    monkeypatch.setenv("LLM_PIPELINE_CACHE_LIMIT", "2000000")
    status, doctor = terminal("status"), {row["check"]: row for row in terminal("doctor", "--json").document}
    found = terminal("status", "--json").document["cache"]
    terminal("collect")
    after = terminal("status", "--json").document["cache"]
    monkeypatch.setenv("LLM_PIPELINE_CACHE_LIMIT", "9000000")
    below = {row["check"]: row for row in terminal("doctor", "--json").document}

    assert "cache" not in without
    assert "0.01 of 0.00 GB, 0.01 GB too much; 0.00 GB could go: model_weights" in " ".join(status.out.split())
    assert doctor["cache"]["state"] == "fix" and doctor["cache"]["next"] == "llm-pipeline collect"
    assert found["over"] == 3 * 4_000_012 + 1_000 - 2_000_000 and found["could_free"] == 4_000_012 and len(found["could_go"]) == 1
    assert after["could_free"] == 0 and after["could_go"] == [] and after["over"] > 0
    assert below["cache"]["state"] == "ok" and below["cache"]["next"] is None


def test_a_rollback_to_what_is_gone_is_refused_with_what_to_do(terminal: Terminal, used: list[str]) -> None:
    """Exit 3; history calls it retired."""
    terminal("collect")

    refused, rows = terminal("rollback", "demo", used[0]), terminal("history", "demo", "--json").document

    assert refused.code == 3 and f"release {used[0]} is retired: its weights are gone" in refused.err
    assert {row["release"]: row["result"] for row in rows} == {used[0]: "retired", used[1]: "accepted", used[2]: "accepted"}
    assert terminal("rollback", "demo").code == 0


def test_an_outage_is_announced_before_the_run_and_measured_after_it(terminal: Terminal, clone: Clone, world: World) -> None:
    """With the numbers; with room for both there is nothing to say."""
    clone.serve()
    world.source["demo"], world.fits = "v2", False
    screen = terminal("up", "demo")
    world.source["demo"] = "v3"
    document = terminal("up", "demo", "--json").document
    world.source["demo"], world.fits = "v4", True
    quiet = terminal("up", "demo", "--json")

    first, rest = screen.err.split("\n", 1)
    assert "nothing answers for about 3 s (needs 4 GiB, 1 is free)" in " ".join((first + rest[:200]).split())
    assert screen.err.index("nothing answers") < screen.err.index("deployment") < screen.err.index("nobody answered for")
    assert 0 <= document["outage_seconds"] < 20
    assert quiet.document["outage_seconds"] is None and "nothing answers" not in quiet.err
