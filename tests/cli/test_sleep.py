"""`sleep` and `wake` as typed: what they print, how they end, and what `up` and `status` say meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable

import dagster as dg
import pytest

from infra.documents import Asleep, Lease
from infra.states import Traffic
from llm_pipeline import console
from tests.assets.clone import Clone, Ran
from tests.cli.screen import Terminal, plain, same
from tests.doubles.parts import Behaviour
from tests.doubles.platform import World


@pytest.fixture
def live(clone: Clone, world: World, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model that serves and is asked now and then."""
    monkeypatch.setattr(console, "ago", lambda seconds: "-" if seconds is None else "1.2 s")
    world.traffic["demo"] = Traffic(0, 7, 7, 0, boot="b1", serving=True)
    return clone.serve()


def asleep(clone: Clone) -> Asleep:
    found = clone.decisions().asleep
    assert found
    return found


def test_it_sleeps_and_wakes(terminal: Terminal, clone: Clone, world: World, live: str) -> None:
    """Each is one run, with who said so."""
    done = terminal("sleep", "demo", "--json")
    assert (done.code, done.document["result"], done.document["release"], done.document["problem"]) == (0, "asleep", live, None)
    assert not world.running and asleep(clone).rung == "suspended"

    row = terminal("status", "--json").document["models"][0]
    assert row["state"] == "asleep" and row["asleep"]["rung"] == "suspended" and row["asleep"]["wake_seconds"] > 15

    up = terminal("up", "--json")
    assert (up.code, up.document["result"]) == (0, "asleep") and not world.running

    back = terminal("wake", "demo", "--json")
    assert (back.code, back.document["result"], back.document["release"]) == (0, "serving", live) and clone.decisions().asleep is None
    assert "said so" in terminal("why", "demo", "--json").document[0]["because"]


@pytest.fixture
def meanwhile(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], Ran]]:
    """What happens while the next run waits in the queue."""
    waits, execute = list[Callable[[], Ran]](), clone.execute

    def later(run: dg.DagsterRun) -> Ran:
        if waits:
            assert waits.pop()().success
        return execute(run)

    monkeypatch.setattr(clone, "execute", later)
    return waits


def test_what_went_live_while_the_word_waited_sleeps(terminal: Terminal, clone: Clone, world: World, live: str, meanwhile: list[Callable[[], Ran]]) -> None:
    """A rollout goes first: its release is what sleeps, and that is told."""
    world.source["demo"] = "v2"
    meanwhile.append(clone.up)
    done = terminal("sleep", "demo", "--json")

    assert (done.code, done.document["result"], done.document["problem"]) == (0, "asleep", None)
    assert (done.document["release"], done.document["previous_release"]) == (asleep(clone).release, live) and asleep(clone).release != live


@pytest.mark.parametrize(("word", "code", "result", "what"), [("sleep", 3, "unchanged", "demo does not sleep"), ("up", 1, "failed", "the run of demo ended, and did not bring its release live")])
def test_a_down_while_the_word_waited_is_told(terminal: Terminal, clone: Clone, world: World, live: str, meanwhile: list[Callable[[], Ran]], word: str, code: int, result: str, what: str) -> None:
    """The run did nothing, and rightly so; whoever waited for it hears why."""
    world.source["demo"] = "v2"
    meanwhile.append(clone.down)
    screen = terminal(word, "demo", "--json")

    assert (screen.code, screen.document["result"], screen.document["problem"]["what"], screen.document["problem"]["why"]) == (code, result, what, "it was taken down meanwhile")


def test_the_screens(terminal: Terminal, clone: Clone, world: World, live: str) -> None:
    """What a person reads in 80 columns."""
    screens = [terminal("sleep", "demo"), terminal("status"), terminal("up"), terminal("sleep", "demo")]

    assert [screen.code for screen in screens] == [0, 0, 0, 0]
    same("sleep", plain("".join(f"{screen.out}{screen.err}\n" for screen in screens)))


def test_a_deeper_rung_may_follow_and_no_lighter_one(terminal: Terminal, clone: Clone, live: str) -> None:
    """Said twice, or less deep: unchanged."""
    assert terminal("sleep", "demo").code == 0 and terminal("sleep", "demo", "--rung", "nodepool").code == 0
    assert asleep(clone).rung == "nodepool"
    again = terminal("sleep", "demo", "--json")
    assert (again.code, again.document["result"]) == (0, "unchanged") and asleep(clone).rung == "nodepool"


def test_the_lightest_rung_is_for_an_engine_with_replicas(terminal: Terminal, clone: Clone, world: World, live: str) -> None:
    """Ray stays, without its engine. A plain server has none: told before anything is done, as its declaration would be."""
    assert terminal("sleep", "demo", "--rung", "replicas").code == 0
    assert asleep(clone).rung == "replicas" and world.shrunk(f"demo-{live}") and terminal("wake", "demo").code == 0
    clone.declare(engine={"kind": "vllm"})
    assert terminal("up", "demo").code == 0
    screen = terminal("sleep", "demo", "--rung", "replicas")

    assert screen.code == 2 and "needs engine.kind ray" in " ".join(screen.err.split()) and "--rung suspended" in screen.err
    assert clone.decisions().asleep is None and world.done("shrunk") == [f"demo-{live}"]


def test_a_wrong_rung_is_told_with_the_right_ones(terminal: Terminal, clone: Clone, live: str) -> None:
    """Bad input."""
    screen = terminal("sleep", "demo", "--rung", "cluster")

    assert screen.code == 2 and "--rung suspended or --rung nodepool" in screen.err and clone.decisions().asleep is None


def test_a_lease_forbids_sleep(terminal: Terminal, clone: Clone, world: World, live: str) -> None:
    """With who holds it, until when, and how to end it."""
    clone.decisions().write("lease/l1", Lease(id="l1", model="demo", holder="ann", reason="nightly eval", taken=time.time(), expires=time.time() + 600))
    screen = terminal("sleep", "demo")

    assert screen.code == 3 and "ann holds a lease (nightly eval)" in screen.err and "lease release l1" in screen.err and list(world.running) == [f"demo-{live}"]


def test_what_is_still_being_answered_keeps_it_awake(terminal: Terminal, clone: Clone, world: World, live: str) -> None:
    """A rule: exit code 3, and it serves as before."""
    clone.declare(release={"drain_seconds": 0})
    world.idle = 1
    screen = terminal("sleep", "demo")

    assert screen.code == 3 and "stays awake" in screen.err and clone.decisions().asleep is None and list(world.running) == [f"demo-{live}"]


def test_waking_what_is_awake_or_unwanted(terminal: Terminal, clone: Clone, world: World, live: str) -> None:
    """The one is unchanged, the other a rule: only `up` makes it wanted."""
    assert terminal("wake", "demo", "--json").document["result"] == "unchanged"
    assert terminal("sleep", "demo").code == 0 and terminal("down", "demo", "--yes").code == 0
    screen = terminal("wake", "demo")

    assert screen.code == 3 and "nobody wants demo" in screen.err and "llm-pipeline up demo" in screen.err
    assert terminal("sleep", "demo").code == 3 and clone.decisions().asleep is None


def test_up_by_name_wakes(terminal: Terminal, clone: Clone, world: World, live: str) -> None:
    """A person named it."""
    assert terminal("sleep", "demo").code == 0
    done = terminal("up", "demo", "--json")

    assert (done.code, done.document["result"]) == (0, "serving") and clone.decisions().asleep is None and list(world.running) == [f"demo-{live}"]


def test_a_new_revision_is_taken_along_and_refused_the_old_one_wakes(terminal: Terminal, clone: Clone, world: World, live: str) -> None:
    """The usual gate; nobody is left without an answer."""
    assert terminal("sleep", "demo").code == 0
    world.source["demo"] = "v2"
    world.behave["v2"] = Behaviour(answers={"ping": "pang"})
    clone.looks()
    assert terminal("wake", "demo").code == 1 and clone.decisions().asleep is None

    requests = clone.tick().run_requests or []
    assert [request.tags["llm/lifecycle"] for request in requests] == ["heal"] and clone.obey(requests[0]).success
    assert clone.live() == live and world.routes["demo"].release == f"demo-{live}"
