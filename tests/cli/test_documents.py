"""`--json`: one document on standard output, with the keys that scripts and CI rely on. Keys may be added, never renamed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infra.states import Leftover
from tests.assets.clone import Clone
from tests.cli.screen import Direct, Terminal
from tests.doubles.parts import Behaviour
from tests.doubles.platform import World

MODEL = {
    "model", "cluster", "state", "problem", "release", "candidate", "revision", "newest_revision", "pinned", "declared", "since", "in_flight", "replicas",
    "endpoint", "via", "waits", "source", "asleep", "usd_per_hour",
}  # fmt: skip
UP = {"model", "result", "release", "previous_release", "revision", "endpoint", "run_id", "changed", "seconds", "phases", "problem"}
ATTEMPT = {"release", "revision", "image", "attempt", "result", "by", "why", "started", "ended", "seconds", "checks"}
STAGES = {"cluster", "deployment", "model_weights", "image", "gpu_nodepool", "ray_service", "smoke_test", "endpoint"}


def test_status(terminal: Terminal, clone: Clone, world: World) -> None:
    """Every model with every key, serving or broken; unknown is null."""
    clone.serve()
    world.idle = 3
    clone.declare("bad", engine={"max_model_length": 5})

    found = terminal("status", "--json").document

    broken, serving = found["models"]
    assert set(found) == {"dagster", "clusters", "models"} and found["dagster"] == {"webserver": None, "daemon": False}
    assert found["clusters"] == [{"cluster": "local", "platform": "local", "state": "serving", "problem": None, "loop": None, "goes": None}]
    assert set(serving) >= MODEL and set(broken) >= MODEL
    assert (serving["state"], serving["release"], serving["in_flight"]) == ("serving", clone.live(), 3)
    assert serving["endpoint"].endswith("/v1") and serving["since"].endswith("+00:00") and serving["declared"] is True
    assert serving["replicas"] == {"ready": 1, "wanted": 1} and serving["problem"] is None
    assert (broken["state"], broken["release"]) == ("broken", None) and set(broken["problem"]) == {"what", "why", "next", "log"}


def test_status_says_where_no_router_answers(terminal: Terminal, clone: Clone, world: World) -> None:
    """What is not counted is unknown, and what is not there is told beside the address."""
    clone.serve()
    by_router = terminal("status")
    world.blind = True

    (row,) = terminal("status", "--json").document["models"]
    direct = terminal("status")

    assert (row["via"], row["in_flight"]) == ("service", None)
    assert "no router" in direct.out + direct.err
    assert "no router" not in by_router.out + by_router.err


def test_status_of_an_undeclared_model(terminal: Terminal, clone: Clone) -> None:
    """Its YAML is gone and it serves on: said, with the command that ends it."""
    clone.serve()
    clone.forget("demo")

    (row,) = terminal("status", "--json").document["models"]

    assert row["declared"] is False and row["problem"]["what"] == "demo runs, and no YAML declares it"
    assert row["problem"]["next"].startswith("llm-pipeline down demo")


def test_status_of_a_pinned_model(terminal: Terminal, clone: Clone) -> None:
    """Who pinned it to what, until when, and why."""
    clone.serve()
    clone.pin()

    (row,) = terminal("status", "--json").document["models"]

    assert row["pinned"] == {"release": clone.live(), "revision": None, "until": "unpinned", "by": "ann", "why": "pinned by hand"}


def test_status_shows_a_candidate(terminal: Terminal, clone: Clone, world: World) -> None:
    """A model that serves while another release comes up is still serving, or says what it lacks."""
    clone.serve()
    world.source["demo"] = "v2"
    clone.execute(clone.queue([("demo", stage) for stage in ("deployment", "model_weights", "image", "gpu_nodepool", "ray_service")]))

    (row,) = terminal("status", "--json").document["models"]

    assert row["candidate"] == clone.newest().id and row["release"] == clone.live()
    assert f"beside it: {row['candidate']}" in terminal("status").out
    assert (row["revision"], row["newest_revision"]) == ("v1", "v2")


def test_up(terminal: Terminal, clone: Clone, dagster: list[Direct]) -> None:
    """The run, the release, and seconds for every stage."""
    found = terminal("up", "demo", "--json").document

    assert set(found) >= UP and found["result"] == "serving" and found["problem"] is None
    assert found["release"] == clone.live() and found["previous_release"] is None and found["revision"] == "v1"
    assert set(found["changed"]) == set(found["seconds"]) == STAGES
    assert clone.instance.get_run_by_id(found["run_id"]) is not None
    assert found["phases"] == {"ray head": 1.0, "engine: weights": 2.0, "unexplained": 0.1}


def test_up_of_what_is_up_launches_nothing(terminal: Terminal, clone: Clone, dagster: list[Direct]) -> None:
    """Everything was looked at, and is as wanted."""
    clone.serve()

    found = terminal("up", "demo", "--json").document

    assert found["result"] == "unchanged" and found["release"] == found["previous_release"] == clone.live()
    assert found["run_id"] is None and dagster[-1].launched == []


def test_up_of_several_is_a_list(terminal: Terminal, clone: Clone) -> None:
    """In the order of the command."""
    clone.declare("other", served_name="other")

    found = terminal("up", "other", "demo", "--json").document

    assert [(row["model"], row["result"]) for row in found] == [("other", "serving"), ("demo", "serving")]


def test_up_that_is_refused(terminal: Terminal, clone: Clone, world: World) -> None:
    """The four parts, and which release was refused beside the one that serves."""
    clone.serve()
    world.source["demo"], world.behave["v2"] = "v2", Behaviour(answers={"ping": "pang"})

    screen = terminal("up", "--json")

    found = screen.document
    assert screen.code == 1 and found["result"] == "refused"
    assert found["release"] == clone.newest().id and found["previous_release"] == clone.live()
    assert set(found["problem"]) == {"what", "why", "next", "log"} and "pang" in found["problem"]["why"]


def test_down(terminal: Terminal, clone: Clone) -> None:
    """Removed, kept, left, and the run that says so."""
    clone.serve()

    found = terminal("down", "demo", "--json").document

    assert set(found) >= {"removed", "kept", "left", "report_run_id"} and found["left"] == []
    assert all(set(row) >= {"part", "id", "what"} for row in found["removed"])
    assert all(set(row) >= {"what", "bytes", "usd_per_month"} for row in found["kept"])
    assert clone.instance.get_run_by_id(found["report_run_id"]) is not None


def test_history(terminal: Terminal, clone: Clone, world: World) -> None:
    """One row per attempt, newest first; accepted once, and its weights gone: retired."""
    clone.serve()
    world.source["demo"] = "v2"
    clone.up()
    world.stored.clear()
    world.behave["v3"], world.source["demo"] = Behaviour(wrong="unwell"), "v3"
    clone.up()

    rows = terminal("history", "demo", "--json").document

    assert all(set(row) >= ATTEMPT for row in rows)
    assert [(row["revision"], row["result"]) for row in rows] == [("v3", "refused"), ("v2", "retired"), ("v1", "retired")]
    assert rows[0]["checks"] == {"healthy": False} and rows[0]["by"] == "ann"


def test_why(terminal: Terminal, clone: Clone, world: World) -> None:
    """Newest first, as many as asked for."""
    clone.serve()
    for _ in range(2):
        world.kill(f"demo-{clone.live()}")
        (request,) = clone.tick().run_requests or ()
        clone.obey(request)

    (row,) = terminal("why", "demo", "--last", "1", "--json").document

    assert set(row) >= {"at", "action", "from", "to", "because", "by", "run_id", "seconds"}
    assert (row["action"], row["from"], row["to"], row["by"]) == ("heal", clone.live(), clone.live(), "reconcile")


def test_leftovers(terminal: Terminal, clone: Clone, world: World) -> None:
    """What of ours nobody wants."""
    world.sticky.append(Leftover("session", "/tmp/x", "", None, None, "it lies in our folder"))

    screen = terminal("leftovers", "--json")

    assert screen.code == 1
    assert screen.document == [
        {"part": "session", "id": "/tmp/x", "cluster": "local", "model": None, "release": None, "usd_per_hour": 0.0, "why_ours": "it lies in our folder"}
    ]


def test_leftovers_show_what_nobody_declares_and_delete_spares_it(terminal: Terminal, clone: Clone, world: World) -> None:
    """A YAML may be away for a moment (another branch is checked out): only `down` takes down what serves and is wanted."""
    clone.serve()
    clone.forget("demo")

    screen = terminal("leftovers", "--delete", "--json")

    (row,) = screen.document
    assert screen.code == 1 and row["why_ours"] == "no YAML declares demo, and it is still wanted: llm-pipeline down demo"
    assert len(world.running) == 1 and clone.decisions().wanted


def test_doctor(terminal: Terminal) -> None:
    """This machine, really looked at."""
    rows = terminal("doctor", "--json").document

    assert {"python", "versions", "disk", "memory", "port", "dagster", "sockets", "hub", "clock", "gpu"} <= {row["check"] for row in rows}
    assert len({row["check"] for row in rows}) == len(rows)
    assert all(set(row) == {"check", "state", "what", "next", "group"} and row["state"] in ("ok", "missing", "fix") for row in rows)
    assert all(row["next"] for row in rows if row["state"] != "ok")


def test_pin(terminal: Terminal, clone: Clone) -> None:
    """What holds now."""
    clone.serve()

    pinned, followed = terminal("pin", "demo", "--json").document, terminal("unpin", "demo", "--json").document

    assert pinned["pinned"]["release"] == clone.live() and followed["pinned"] is None


def test_chat(terminal: Terminal, clone: Clone) -> None:
    """The endpoint's own document, and which release answered."""
    clone.serve()

    found = terminal("chat", "demo", "ping", "--json").document

    assert found["choices"][0]["message"]["content"] == "pong" and found["release"] == f"demo-{clone.live()}"


@pytest.mark.parametrize(
    "words", [("status",), ("up", "demo"), ("down", "demo"), ("history", "demo"), ("why", "demo"), ("leftovers",), ("doctor",), ("rollback", "demo", "x")]
)
def test_standard_output_is_one_document_or_nothing(terminal: Terminal, clone: Clone, words: tuple[str, ...]) -> None:
    """Progress and errors go to standard error: a pipe into jq never breaks."""
    clone.serve()

    out = terminal(*words, "--json").out

    parsed: Any = json.loads(out) if out else None
    assert parsed is None or isinstance(parsed, dict | list)
