"""The screens, as texts that people read: verdict first, then numbers, the first thing that is wrong, and what to type next."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from infra import settings
from infra.documents import Asleep
from infra.errors import Transient
from infra.states import Leftover
from llm_pipeline import console, doctor, screens, views
from llm_pipeline.doctor import Line
from tests.assets.clone import Clone
from tests.cli.screen import Terminal, plain, same
from tests.doubles.parts import Behaviour
from tests.doubles.platform import World


@pytest.fixture(autouse=True)
def a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every duration is 1.2 s long: how they are told has a test of its own."""
    monkeypatch.setattr(console, "ago", lambda seconds: "-" if seconds is None else "1.2 s")


def test_status_of_all_states(terminal: Terminal, clone: Clone, world: World) -> None:
    """Serving, absent, broken, degraded, failed, undeclared: each with its reason, and one command for the first that is wrong."""
    for name in ("demo", "degraded", "dead", "forgotten"):
        clone.declare(name, served_name=name)
        clone.up(name)
    world.behave["v2"] = Behaviour(wrong="unwell")
    world.source["degraded"] = "v2"
    clone.up("degraded")
    world.kill(f"dead-{clone.live('dead')}", "killed by somebody")
    clone.forget("forgotten")
    clone.declare("big", served_name="big")
    clone.declare("bad", engine={"max_model_length": 5})
    world.idle = 0

    screen = terminal("status")

    assert screen.code == 1
    same("status", plain(screen.out + screen.err))


def test_status_of_a_start_leads_to_watching_it(terminal: Terminal, clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another `up` would do nothing for it."""
    clone.declare()
    monkeypatch.setattr(views, "state_of", lambda _: ("starting", None))

    assert "Next: llm-pipeline status demo --watch" in terminal("status").out


def test_status_when_all_is_well(terminal: Terminal, clone: Clone, world: World) -> None:
    """One line per model, and what to do with it."""
    clone.serve()
    world.idle = 2

    screen = terminal("status")

    assert screen.code == 0
    same("status-well", plain(screen.out + screen.err))


def test_status_of_nothing(terminal: Terminal) -> None:
    """A fresh clone."""
    screen = terminal("status")

    assert screen.code == 0
    same("status-nothing", plain(screen.out + screen.err))


def test_up_from_nothing(terminal: Terminal) -> None:
    """Serving, an answer, seconds per stage, where it is, what next."""
    screen = terminal("up", "demo")

    assert screen.code == 0
    same("up", plain(screen.out))


def test_up_shows_the_phases_beside_the_result(terminal: Terminal) -> None:
    """On standard error, one line per change, so that a pipe gets the result alone."""
    screen = terminal("up", "demo")

    told = [line[10:] for line in plain(screen.err).splitlines()]
    assert told[0] == "local/cluster: done, 0.0 s" and told[-1] == "demo/endpoint: done, 0.0 s"
    assert "demo/ray_service: engine: weights" in told and "demo/smoke_test: golden_answers" in told


def test_up_of_what_is_up(terminal: Terminal, clone: Clone) -> None:
    """Unchanged, and nothing was launched."""
    clone.serve()

    screen = terminal("up")

    assert screen.code == 0
    same("up-unchanged", plain(screen.out + screen.err))


def test_up_of_what_is_refused(terminal: Terminal, clone: Clone, world: World) -> None:
    """The card: what, why, what next; the release that serves goes on."""
    clone.serve()
    world.source["demo"], world.behave["v2"] = "v2", Behaviour(answers={"ping": "pang"})

    screen = terminal("up", "demo")

    card = screen.err[screen.err.index("demo-") :] if "demo-" in screen.err else screen.err
    assert screen.code == 1 and screen.out == ""
    same("up-refused", plain(card[card.rindex("demo-" + clone.newest().id + " was refused") :]))


def test_up_of_what_is_marked(terminal: Terminal, clone: Clone, world: World) -> None:
    """Not tried again by itself: exit 3, and the command that does."""
    world.behave["v1"] = Behaviour(answers={"ping": "pang"})
    clone.up()

    screen = terminal("up", "demo")

    assert screen.code == 3
    same("up-marked", plain(screen.out + screen.err))


def test_up_while_pinned(terminal: Terminal, clone: Clone) -> None:
    """The pin is respected, and said."""
    clone.serve()
    clone.pin()
    clone.declare(engine={"max_model_len": 128})

    screen = terminal("up", "demo")

    assert screen.code == 0
    same("up-pinned", plain(screen.out + screen.err))


def test_down(terminal: Terminal, clone: Clone) -> None:
    """What was removed, and what is kept with its size."""
    clone.serve()

    screen = terminal("down", "demo")

    assert screen.code == 0
    same("down", plain(screen.out))


def test_down_tells_folders_of_the_clone_from_its_root(capsys: pytest.CaptureFixture[str]) -> None:
    """As `doctor` and the README do: a long way to the clone would fill the line. What lies elsewhere is told whole."""
    kept = [{"what": f"image {settings.ROOT}/.llm-pipeline/cache/images", "bytes": 10}, {"what": "image /srv/images", "bytes": 10}]

    screens.taken_down({"removed": [], "left": [], "kept": kept}, ["local"], as_json=False)

    assert [line.split()[1:3] for line in capsys.readouterr().out.splitlines() if line.startswith("kept")] == [["image", ".llm-pipeline/cache/images"], ["image", "/srv/images"]]


def test_down_of_nothing(terminal: Terminal) -> None:
    """Nothing is up: nothing is launched."""
    screen = terminal("down")

    assert screen.code == 0
    same("down-nothing", plain(screen.out + screen.err))


def test_down_that_leaves_something(terminal: Terminal, clone: Clone, world: World) -> None:
    """Exit 1 and the list."""
    clone.serve()
    live = f"demo-{clone.live()}"
    world.sticky.append(Leftover("ray_service", live, "local", "demo", live, "it carries our mark"))

    screen = terminal("down", "demo")

    assert screen.code == 1
    same("down-left", plain(screen.out))


def test_history(terminal: Terminal, clone: Clone, world: World) -> None:
    """Every try, newest first, with who and why."""
    world.start_errors.append(Transient("no network", why="the cable"))
    clone.up(by="ann")
    world.start_errors.append(Transient("a long story", why=50 * "and so on "))
    clone.up(by="eve")
    clone.up(by="bob", why="again")

    screen = terminal("history", "demo")

    assert screen.code == 0
    same("history", plain(screen.out + screen.err))


def test_why(terminal: Terminal, clone: Clone, world: World) -> None:
    """What the loop did by itself."""
    clone.serve()
    world.kill(f"demo-{clone.live()}", "out of memory")
    (request,) = clone.tick().run_requests or ()
    clone.obey(request)

    screen = terminal("why", "demo")

    assert screen.code == 0
    same("why", plain(screen.out + screen.err))


def test_why_nothing(terminal: Terminal, clone: Clone) -> None:
    """The loop never had to act."""
    clone.serve()

    assert terminal("why", "demo").out == "the loop never had to act\n"


def test_doctor(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """By place: state, check, what was found, and how to get what is missing; how much that is, and what to do first. 1 only when something is missing."""
    rows = [
        Line("python", "ok", "Python 3.11.7 on linux"),
        Line("dagster", "fix", "not running: commands work, but nothing heals by itself", "make up", "dagster"),
        Line("port", "missing", "port 8000 is taken: it is held by nginx (pid 12)", "stop that program, or choose another port", "dagster"),
        Line("cluster lab identity", "ok", "https://10.0.0.1:6443, kube-system 0b8b0a2e-5b3f-4f6f-8b1e-2f6d2a2f7a11", None, "cluster lab"),
        Line("cluster lab quota", "fix", "nothing more starts here: the quota team leaves 0 pods of 10 pods (pods)", "take a model down, or ask whoever runs the cluster for more", "cluster lab"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda *_: rows)

    screen = terminal("doctor")

    assert screen.code == 1
    same("doctor", plain(screen.out + screen.err))


def test_doctor_without_a_complaint(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what only needs a look is no failure, for a script."""
    rows = [Line("python", "ok", "Python 3.11.7 on linux")]
    monkeypatch.setattr(doctor, "examine", lambda *_: rows)
    well = terminal("doctor")
    rows.append(Line("dagster", "fix", "not running", "make up", "dagster"))

    look = terminal("doctor")

    assert (well.code, well.out.splitlines()[-1]) == (0, "nothing is missing")
    assert look.code == 0 and "0 MISSING (can not go on), 1 to FIX (works, but)" in look.out and look.out.splitlines()[-1] == "Next: make up"


def test_leftovers(terminal: Terminal, clone: Clone) -> None:
    """With the proof that they are ours, and the command that removes them."""
    clone.serve()
    clone.decisions().want(False, "bob")

    screen = terminal("leftovers")

    assert screen.code == 1
    same("leftovers", plain(screen.out + screen.err))


def test_leftovers_can_be_removed(terminal: Terminal, clone: Clone, world: World) -> None:
    """By the model's teardown, and one by one."""
    clone.serve()
    clone.decisions().want(False, "bob")

    screen = terminal("leftovers", "--delete")

    assert screen.code == 0 and screen.out == "nothing is left over\n"
    assert world.running == {} and world.front is None


def test_pin_and_unpin(terminal: Terminal, clone: Clone) -> None:
    """What holds now, and the way back."""
    clone.serve()

    pinned, followed = terminal("pin", "demo"), terminal("unpin", "demo")

    assert pinned.code == followed.code == 0
    same("pin", plain(pinned.out + pinned.err + followed.out + followed.err))


def test_rollback(terminal: Terminal, clone: Clone, world: World) -> None:
    """As `up`, and it says that it is pinned from now on."""
    clone.serve()
    first = clone.live()
    world.source["demo"] = "v2"
    clone.up()

    screen = terminal("rollback", "demo")

    assert screen.code == 0 and clone.live() == first
    same("rollback", plain(screen.out))


def test_chat_prints_the_answer_and_nothing_else(terminal: Terminal, clone: Clone) -> None:
    """A pipe wants the answer alone."""
    clone.serve()

    screen = terminal("chat", "demo", "ping")

    assert (screen.code, screen.out, screen.err) == (0, "pong\n", "")


def test_logs_are_shown_without_secrets(terminal: Terminal, clone: Clone, world: World) -> None:
    """They are pasted into issues."""
    clone.serve()
    log = world.home / "logs" / f"demo-{clone.live()}.engine.log"
    log.parent.mkdir(parents=True)
    log.write_text("starting with api_key=abcdefgh123 and hf_abcdefghij123456\nready\n")

    screen = terminal("logs", "demo")

    assert screen.out == "starting with api_key=*** and ***\nready\n"


def test_no_colour_when_nobody_wants_any(terminal: Terminal, clone: Clone, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR also holds on a terminal; without it the words get their colours."""
    clone.serve()
    shown = {}
    for name, environment in (("colours", {"TERM": "xterm-256color"}), ("none", {"TERM": "xterm-256color", "NO_COLOR": "1"})):
        made = Console(theme=console.THEME, highlight=False, force_terminal=True, width=80, file=io.StringIO(), _environ=environment)
        monkeypatch.setattr(console, "out", made)
        terminal("status")
        shown[name] = made.file.getvalue()  # type: ignore[attr-defined]

    assert "\x1b[32mserving" in shown["colours"]
    assert not re.search(r"\x1b\[[0-9;]*\b(3[0-7]|9[0-7]|38)\b", shown["none"]) and "serving" in shown["none"]


@pytest.mark.parametrize(
    ("seconds", "told"), [(None, "-"), (0.04, "0.0 s"), (9.94, "9.9 s"), (10, "10 s"), (61, "1 min 1 s"), (7262, "2 h 1 min"), (90_061, "1 d 1 h")]
)
def test_durations_have_the_two_units_that_matter(seconds: float | None, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody counts 7262 seconds."""
    monkeypatch.undo()

    assert console.ago(seconds) == told


@pytest.mark.parametrize(("wakes", "told"), [(40.0, False), (900.0, True)])
def test_status_says_where_clients_give_up_before_a_model_is_awake(terminal: Terminal, clone: Clone, world: World, wakes: float, *, told: bool) -> None:
    """A start that takes longer than a client with two retries waits is worth a line; one that does not is not."""
    clone.serve()
    decisions = clone.decisions()
    decisions.write("asleep", Asleep(rung="suspended", since=1.0, why="nobody asked", by="reconcile", release=clone.live() or "", wake_seconds=wakes))
    screen = terminal("status")

    assert ("longer than a client with two retries waits" in plain(screen.out + screen.err)) is told
