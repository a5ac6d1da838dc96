"""What somebody sees who waits for a run: the stages, and the news of what takes long."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from assets import step
from infra.platform import Release
from infra.waiting import Progress
from llm_pipeline import console
from llm_pipeline.runs import Event
from tests.assets.clone import Clone
from tests.cli.screen import Terminal
from tests.doubles.parts import Service
from tests.doubles.platform import World

NEWS = "1,204 of 15,000 MB, 92 MB/s, about 150 s"


def drawn(board: console.Board) -> list[str]:
    """The board on a terminal of 80 columns."""
    made = Console(width=80, file=io.StringIO(), theme=console.THEME)
    made.print(board._draw())
    return [line.rstrip() for line in made.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_what_takes_long_tells_how_far_it_is_on_one_line() -> None:
    """Under the stages, cut where the terminal ends; gone with the phase, and with the stage."""
    board = console.Board()
    board.listen("demo", Event("phase", "demo/model_weights", "weights", 0.0, {"detail": "asking the Hub"}))
    first = drawn(board)
    board.listen("demo", Event("log", "demo/model_weights", f"weights: {NEWS}"))
    board.listen("demo", Event("log", "demo/model_weights", "something else that Dagster wrote"))
    told = drawn(board)
    board.listen("demo", Event("log", "demo/model_weights", "weights: " + 30 * "long "))
    long = drawn(board)
    board.listen("demo", Event("done", "demo/model_weights", "", 0.0, {"changed": True, "seconds": 3.0}))

    assert first[1:] == ["   demo/model_weights: asking the Hub"] and told[1:] == [f"   demo/model_weights: {NEWS}"]
    assert len(long) == 2 and len(long[1]) <= 80
    assert len(drawn(board)) == 1


def test_news_of_a_phase_reach_who_follows_the_run(terminal: Terminal, clone: Clone, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the part that says it, through the run's log, to the board."""
    heard: list[Event] = []
    apply = Service.apply

    def slow(self: Service, spec: Release, progress: Progress) -> object:
        progress.phase("serve", "first")
        progress._told = 0.0
        progress.phase("serve", "half of it")
        return apply(self, spec, progress)

    monkeypatch.setattr(Service, "apply", slow)
    monkeypatch.setattr(step, "DETAIL_EVERY", 0.0)
    monkeypatch.setattr(console.Board, "listen", lambda self, model, event: heard.append(event))

    assert terminal("up", "demo").code == 0
    assert ("demo/ray_service", "serve: half of it") in [(one.stage, one.text) for one in heard if one.kind == "log"]
