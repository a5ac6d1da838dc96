"""What `up` shows a person, and asks, before it spends money."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import typer

from llm_pipeline import console, plan_verb
from tests.cli.screen import Direct, Screen, Terminal
from tests.doubles.platform import World


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Somebody sits at the terminal and gives these answers; a question without an answer is an error."""

    def sits(*answers: str) -> None:
        given = iter(answers)
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        monkeypatch.setattr(plan_verb.typer, "confirm", lambda text, **how: confirmed(text, how, next(given)))

    def confirmed(text: str, how: dict[str, Any], answer: str) -> bool:
        assert how == {"default": False, "err": True}, "no is the default, and the question stays out of pipes"
        if answer == "^D":
            raise typer.Abort
        return answer == "y"

    return sits


@pytest.mark.parametrize(("usd", "answer", "code"), [(2.5, "n", 3), (None, "n", 3), (2.5, "^D", 3), (2.5, "y", 0), (None, "y", 0)])
def test_a_person_is_shown_the_plan_and_asked_where_it_costs_money(
    terminal: Terminal, world: World, dagster: list[Direct], person: Callable[..., None], usd: float | None, answer: str, code: int
) -> None:
    """No: nothing was begun, 3, and the command that does it."""
    world.usd = usd
    person(answer)

    screen = terminal("up", "demo")

    assert screen.code == code and "USD per hour" in screen.err
    if code:
        assert "demo: not begun" in screen.err and "llm-pipeline up demo --yes" in screen.err and dagster[-1].launched == [] and screen.out == ""
    else:
        assert len(dagster[-1].launched) == 1


@pytest.mark.parametrize("words", [("--yes",), ("--json",), ("--json", "--yes")])
def test_nobody_is_asked_who_said_yes_or_is_a_program(terminal: Terminal, world: World, person: Callable[..., None], words: tuple[str, ...]) -> None:
    """A question would raise here."""
    world.usd = 2.5
    person()

    screen = terminal("up", "demo", *words)

    assert screen.code == 0 and ("USD per hour" in screen.err) == ("--json" not in words)


def test_nobody_is_asked_where_it_costs_no_more_or_no_person_is_there(terminal: Terminal, world: World, person: Callable[..., None]) -> None:
    """Scripts go on as ever, at whatever price; a person is asked where the price goes up."""
    world.usd = 2.5
    script: Screen = terminal("up", "demo")
    world.source["demo"] = "v2"
    person()
    same_price = terminal("up", "demo")

    assert script.code == 0 and "USD per hour" not in script.err
    assert same_price.code == 0 and "2.50" in same_price.err


@pytest.mark.parametrize(
    ("platform", "before", "after", "asks"),
    [
        ("local", 0.0, 0.0, False), ("local", None, None, False), ("kubernetes", 0.0, 0.0, False), ("kubernetes", 0.0, 1.0, True),
        ("kubernetes", 2.0, 1.0, False), ("kubernetes", None, 1.0, True), ("kubernetes", 1.0, None, True),
    ],
)  # fmt: skip
def test_when_money_is_involved(platform: str, before: float | None, after: float | None, asks: bool) -> None:
    """The price goes up, or is not known where it is not this machine."""
    assert plan_verb.costs_more(platform, {"before": before, "after": after}) is asks


def test_the_board_is_still_while_somebody_is_asked() -> None:
    """What is drawn four times a second would wipe the question away."""
    with console.board() as board:
        board.live = live = _Live()  # type: ignore[assignment]
        with board.paused():
            assert live.said == ["stop"]
        board.live = None
    assert live.said == ["stop", "start"]


class _Live:
    """What `rich` would draw with."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def stop(self) -> None:
        self.said.append("stop")

    def start(self, *, refresh: bool) -> None:
        self.said.append("start")
