"""How a command ends: 0 good, 1 not so, 2 bad input, 3 a rule says no. A person's mistake is one message, never a traceback."""

from __future__ import annotations

import threading

import pytest

from infra.documents import Mark, ReleaseRecord
from infra.errors import ConfigError, Transient
from llm_pipeline import runs
from tests.assets.clone import Clone
from tests.cli.screen import Direct, Screen, Terminal
from tests.doubles.parts import Behaviour
from tests.doubles.platform import World, no_room


def one_message(screen: Screen) -> str:
    """The first line of the error card; and that it is one."""
    assert "Traceback" not in screen.err + screen.out
    return screen.err.splitlines()[0]


@pytest.mark.parametrize(
    "words",
    [("up", "demp"), ("status", "demp"), ("rollback", "demp"), ("retry", "demp"), ("history", "demp"), ("why", "demp"), ("chat", "demp", "hi"), ("logs", "demp"), ("pin", "demp"), ("unpin", "demp")],
)  # fmt: skip
def test_an_unknown_model_is_told_with_the_one_that_was_probably_meant(terminal: Terminal, words: tuple[str, ...]) -> None:
    """Exit 2, whatever the verb."""
    screen = terminal(*words)

    assert screen.code == 2 and one_message(screen) == "no model is called demp; did you mean demo?"
    assert "llm-pipeline up" not in screen.err, "a look must not end in bringing something up"


@pytest.mark.parametrize("words", [("statsu",), ("up", "--revison", "x"), ("why", "demo", "--last", "many"), ("logs", "demo", "--part", "brake"), ("up", "--timeout", "soon")])
def test_bad_input_is_two(terminal: Terminal, words: tuple[str, ...]) -> None:
    """A mistyped verb, option or value."""
    screen = terminal(*words)

    assert screen.code == 2 and screen.err and "Traceback" not in screen.err


def test_a_broken_declaration_is_two_with_file_and_line(terminal: Terminal, clone: Clone) -> None:
    """Only this model is concerned."""
    clone.declare("bad", engine={"max_model_length": 5})

    screen = terminal("up", "bad")

    assert screen.code == 2 and one_message(screen).startswith("assets/models/bad/defs.yaml:")
    assert "did you mean max_model_len?" in " ".join(screen.err.split())
    assert terminal("status", "bad").code == 1


def test_a_wrong_setting_is_two_and_names_it(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable, not a stack of ours."""
    monkeypatch.setenv("LLM_PIPELINE_ENDPOINT_PORT", "eighty")

    screen = terminal("up", "demo")

    assert screen.code == 2 and "LLM_PIPELINE_ENDPOINT_PORT" in one_message(screen)


def test_up_that_fails_is_one(terminal: Terminal, world: World) -> None:
    """Also when it may pass later: CI must see it."""
    world.start_errors.append(no_room())

    screen = terminal("up", "demo")

    assert screen.code == 1 and "demo does not fit on this machine" in screen.err


def test_up_of_a_marked_release_is_three_and_retry_tries_it(terminal: Terminal, clone: Clone, world: World) -> None:
    """A rule says no before anything begins; the command that helps is named."""
    world.behave["v1"] = Behaviour(wrong="unwell")
    clone.up()
    attempts = len(clone.newest().attempts)

    refused = terminal("up", "demo")
    world.behave.clear()
    retried = terminal("retry", "demo")

    assert refused.code == 3 and "llm-pipeline retry demo" in refused.err
    assert retried.code == 0 and [attempt.result for attempt in clone.newest().attempts][attempts:] == ["accepted"]


def test_up_after_a_cancelled_one_is_no_question_of_rules(terminal: Terminal, clone: Clone) -> None:
    """The mark of a cancelled rollout is for the loop."""
    clone.up()
    clone.down()
    mark = Mark(kind="cancelled", why="a person ended the run", at=1.0)
    clone.decisions().change(ReleaseRecord, f"release/{clone.newest().id}", lambda old: old.model_copy(update={"mark": mark}))  # type: ignore[union-attr]

    assert terminal("up", "demo").code == 0


def test_a_named_revision_under_a_pin_is_three_and_names_unpin(terminal: Terminal, clone: Clone) -> None:
    """Nothing is launched."""
    clone.serve()
    clone.pin()

    screen = terminal("up", "demo", "--revision", "v0")

    assert screen.code == 3 and "llm-pipeline unpin demo" in screen.err


def test_a_rollback_to_nothing_is_three(terminal: Terminal, clone: Clone) -> None:
    """There is no earlier accepted release."""
    clone.serve()

    screen = terminal("rollback", "demo")

    assert screen.code == 3 and one_message(screen) == "demo has no earlier accepted release"


def test_a_rollback_to_what_never_passed_is_three(terminal: Terminal, clone: Clone, world: World) -> None:
    """Back means back to what served."""
    clone.serve()
    world.source["demo"], world.behave["v2"] = "v2", Behaviour(wrong="unwell")
    clone.up()

    assert terminal("rollback", "demo", clone.newest().id).code == 3


def test_a_rollback_to_a_release_that_nobody_knows_is_two(terminal: Terminal, clone: Clone) -> None:
    """Bad input."""
    clone.serve()

    screen = terminal("rollback", "demo", "ffffffffff")

    assert screen.code == 2 and "llm-pipeline history demo" in screen.err


def test_a_rollback_to_what_serves_changes_nothing(terminal: Terminal, clone: Clone, dagster: list[Direct]) -> None:
    """Unchanged, exit 0."""
    clone.serve()

    screen = terminal("rollback", "demo", clone.live() or "")

    assert screen.code == 0 and dagster[-1].launched == []


def test_down_of_a_cluster_with_wanted_models_is_three(terminal: Terminal, clone: Clone, world: World) -> None:
    """Refused, with the words that would do it."""
    clone.serve()

    refused, done = terminal("down", "--cluster", "local"), terminal("down", "--cluster", "local", "--include-models")

    assert refused.code == 3 and "llm-pipeline down --cluster local --include-models" in refused.err
    assert done.code == 0 and world.running == {}


@pytest.mark.parametrize("words", [("down", "nobody"), ("down", "--cluster", "nowhere")])
def test_down_of_something_unknown_is_two(terminal: Terminal, dagster: list[Direct], words: tuple[str, ...]) -> None:
    """Neither a model nor a cluster: no run is launched for a typo."""
    screen = terminal(*words)

    assert screen.code == 2 and words[-1] in one_message(screen) and dagster[-1].launched == []


def test_a_bare_up_takes_autostart_and_what_is_wanted(terminal: Terminal, clone: Clone) -> None:
    """Never every model of the catalogue."""
    clone.declare("big", autostart=False, served_name="big")
    clone.declare("used", autostart=False, served_name="used")
    clone.up("used")

    assert terminal("up").code == 0

    assert [name for name in ("demo", "big", "used") if clone.decisions(name).wanted] == ["demo", "used"]


def test_a_bare_up_of_nothing_is_two(terminal: Terminal, clone: Clone) -> None:
    """Nothing starts by itself: say a name."""
    clone.declare(autostart=False)

    screen = terminal("up")

    assert screen.code == 2 and one_message(screen) == "no model starts by itself"


def test_status_is_one_when_something_wanted_does_not_serve(terminal: Terminal, clone: Clone, world: World) -> None:
    """For scripts that only look at the code."""
    clone.serve()
    good = terminal("status").code
    world.kill(f"demo-{clone.live()}")

    assert (good, terminal("status").code) == (0, 1)


def test_chat_with_a_model_that_is_not_up_says_so(terminal: Terminal, clone: Clone, world: World) -> None:
    """Not up is an order of things; up and silent is a failure."""
    absent = terminal("chat", "demo", "hi")
    clone.up()
    world.stop_front()
    silent = terminal("chat", "demo", "hi")

    assert absent.code == 2 and one_message(absent) == "demo is not up"
    assert silent.code == 1 and one_message(silent).startswith("demo is not reached at ")


def test_no_follow_launches_and_leaves(terminal: Terminal, dagster: list[Direct]) -> None:
    """The run goes on by itself; how to look at it is said."""
    screen = terminal("up", "demo", "--no-follow")

    assert screen.code == 0 and "was launched" in screen.out and "llm-pipeline status demo --watch" in screen.out
    assert len(dagster[-1].launched) == 1


def test_who_why_and_the_deadline_travel_as_tags(terminal: Terminal, dagster: list[Direct]) -> None:
    """The run list reads like a deployment log."""
    terminal("up", "demo", "--timeout", "77")

    (launch,) = dagster[-1].launched
    assert dict(launch.tags) == {"llm/lifecycle": "deploy", "llm/why": "up", "llm/model": "demo", "llm/by": "ann", "llm/timeout": "77.0"}
    assert launch.assets[0] == ("local", "cluster") and len(launch.assets) == 8


def test_following_ends_with_the_patience_of_the_caller(terminal: Terminal, dagster: list[Direct], monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on; the command says so and is 1."""
    monkeypatch.setattr(Direct, "launch", lambda self, what, **_: self._clone.queue([]).run_id)

    screen = terminal("up", "demo", "--timeout", "0.1")

    assert screen.code == 1 and "still goes on" in screen.err


def test_secrets_are_cut_from_what_is_shown(terminal: Terminal, world: World) -> None:
    """A presigned address, a token, a password: none of them reaches a terminal or a page."""
    world.source_error = Transient("GET https://bob:hunter2@hub/x?X-Amz-Signature=abc failed", log="authorization: Bearer hf_abcdefghij123456")

    screen = terminal("up", "demo")

    assert screen.code == 1
    assert not [secret for secret in ("hunter2", "=abc", "hf_abcdefghij123456") if secret in screen.err]


def test_a_step_that_fails_in_an_unforeseen_way_asks_for_a_report(terminal: Terminal, world: World) -> None:
    """A bug of ours is told as one, with its last line; never as somebody's mistake."""
    world.on_call = lambda what: (_ for _ in ()).throw(RuntimeError("boom")) if what[0] == "started" else None

    screen = terminal("up", "demo")

    assert screen.code == 1 and "a step failed in a way that nobody foresaw" in screen.err and "boom" in screen.err


def test_a_source_that_is_wrong_is_told_before_a_run_begins(terminal: Terminal, world: World, dagster: list[Direct]) -> None:
    """Nothing is launched for a typo in `weights:`."""
    world.source_error = ConfigError("no such repository", next="correct weights:")

    screen = terminal("up", "demo")

    assert screen.code == 2 and dagster[-1].launched == []


def test_a_ctrl_c_that_a_library_swallows_ends_following_all_the_same(terminal: Terminal, clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    """It came in a callback, where Python prints and forgets it: the next look at the run ends with exit code 130, and says what goes on."""
    monkeypatch.setattr(runs, "_INTERRUPTED", threading.Event())
    with pytest.raises(KeyboardInterrupt):
        runs.interrupted()

    screen = terminal("up", "demo")

    assert screen.code == 130 and "what was begun goes on" in screen.err
