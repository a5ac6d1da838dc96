"""How it looks: theme, tables, live phases, the error card. The only module that knows rich.

Right without colour and in 80 columns: words carry the meaning, colours repeat it. Results go to standard output, progress and
errors to standard error.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

from infra.errors import Problem
from llm_pipeline.runs import Event

THEME = Theme({"good": "green", "busy": "yellow", "bad": "red", "quiet": "dim", "command": "cyan"})
"""Five meanings, five colours."""

out = Console(theme=THEME, highlight=False, soft_wrap=False)
err = Console(theme=THEME, highlight=False, stderr=True)

STATE_STYLE = {"serving": "good", "asleep": "quiet", "starting": "busy", "stopping": "busy", "degraded": "busy", "failed": "bad", "broken": "bad", "absent": "quiet"}
STATE_STYLE |= {"OK": "good", "FIX": "busy", "MISSING": "bad"}


def document(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")
    sys.stdout.flush()


def line(text: str = "", style: str = "") -> None:
    """A line of a result."""
    out.print(Text(text, style=style))


def note(text: str, style: str = "quiet") -> None:
    """A line beside the result: progress, hints."""
    err.print(Text(text, style=style))


def card(problem: Problem) -> None:
    """The four parts of an error, each under its word."""
    rows: list[Text | Table] = [Text(problem.what, style="bad")]
    for name, value in (("why", problem.why), ("next", problem.next), ("log", problem.log)):
        if value:
            rows.append(_indented(name, value))
    err.print(Group(*rows))


def table(rows: Iterable[Sequence[object]], head: Sequence[str] = (), styles: Sequence[str] = (), right: Iterable[int] = ()) -> None:
    """A borderless table that fits 80 columns: the last column wraps."""
    made = Table(box=None, show_header=bool(head), pad_edge=False, header_style="quiet", padding=(0, 2, 0, 0))
    first = list(rows)
    columns = len(head) or (len(first[0]) if first else 0)
    for index in range(columns):
        made.add_column(
            head[index] if head else "", justify="right" if index in set(right) else "left", style=styles[index] if index < len(styles) else "",
            no_wrap=index < columns - 1, overflow="fold",
        )  # fmt: skip
    for row in first:
        made.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    out.print(made)


def following(*commands: str) -> None:
    """What to type next."""
    if commands:
        line()
        for index, command in enumerate(commands):
            out.print(Text("Next: " if index == 0 else "      ", style="quiet") + Text(command, style="command"))


def ago(seconds: float | None) -> str:
    """A duration in the two units that matter."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    for size, word, small, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {word} {whole % size // small} {part}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"


BRIEF = 100
"""Characters of a reason in a table; `--json` has it whole."""


def brief(text: str) -> str:
    """The beginning of a reason: a column of forty lines hides the rows below it."""
    return text if len(text) <= BRIEF else f"{text[: BRIEF - 1].rstrip()}…"


def size(count: float) -> str:
    """Bytes for people."""
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= step:
            return f"{count / step:,.1f} {unit}"
    return f"{count:.0f} B"


def links(chain: Sequence[Mapping[str, Any]]) -> None:
    """What a model stands on, from the cluster to the router, on one line: `+` holds, `x` does not, `-` not known."""
    mark, style = {True: "+", False: "x", None: "-"}, {True: "good", False: "bad", None: "quiet"}
    out.print(Text("  ").join(Text(f"{mark[link['holds']]} {link['link']}", style=style[link["holds"]]) for link in chain))


def state(word: str) -> Text:
    """A state of a model, or of a line of `doctor`, in its colour."""
    return Text(word, style=STATE_STYLE.get(word.strip(), ""))


# ---------------------------------------------------------------- live phases


@dataclass
class Row:
    """One stage while a run goes on."""

    stage: str
    began: float
    phase: str = ""
    state: str = "busy"
    seconds: float = 0.0
    detail: str = ""


@dataclass
class Board:
    """Stages and phases of the runs that are followed: redrawn on a terminal, with the last news of what takes long below; one line per change elsewhere."""

    rows: dict[str, Row] = field(default_factory=dict)
    live: Live | None = None
    began: float = field(default_factory=time.time)

    def listen(self, model: str, event: Event) -> None:
        """Takes one event of a run."""
        stage = event.stage
        if event.kind == "note":
            note(event.text, "busy")
        if not stage or event.kind == "ended" or "__" in stage.split("/")[-1] or stage.endswith(("digests_match", "teardown_report")):
            return
        row = self.rows.setdefault(stage, Row(stage, event.at))
        match event.kind:
            case "log" if event.text.startswith(f"{row.phase}: "):
                row.detail = event.text.removeprefix(f"{row.phase}: ")
            case "phase":
                row.phase, row.detail = event.text, str(event.facts.get("detail", ""))
                self._say(f"{stage}: {event.text}")
            case "done":
                row.state, row.seconds = "good", float(event.facts.get("seconds", 0))
                row.phase = "done" if event.facts.get("changed") else "unchanged"
                self._say(f"{stage}: {row.phase}, {row.seconds:.1f} s")
            case "failed":
                row.state, row.phase = "bad", "failed"
                self._say(f"{stage}: failed")
            case "skipped":
                row.state, row.phase = "quiet", "not begun"
            case "check" if not event.facts.get("passed"):
                self._say(f"{stage}: {event.text} failed: {event.facts.get('why')}")
        if self.live:
            self.live.update(self._draw())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is redrawn meanwhile: somebody is asked something."""
        if self.live is None:
            yield
            return
        self.live.stop()
        try:
            yield
        finally:
            self.live.start(refresh=True)

    def _say(self, text: str) -> None:
        if self.live is None:
            note(f"{time.time() - self.began:6.1f} s  {text}"[:79])

    def _draw(self) -> Group:
        made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        for width in (1, 30, 28, 10):
            made.add_column(max_width=width, no_wrap=True)
        mark = {"good": "+", "bad": "x", "busy": ">", "quiet": "-"}
        for row in self.rows.values():
            took = row.seconds or (time.time() - row.began if row.state == "busy" else 0)
            made.add_row(Text(mark[row.state], style=row.state), row.stage, Text(row.phase, style="quiet"), f"{took:6.1f} s")
        news = [Text(f"   {row.stage}: {row.detail}", style="quiet", no_wrap=True, overflow="ellipsis") for row in self.rows.values() if row.state == "busy" and row.detail]
        return Group(made, *news)


@contextmanager
def board(*, quiet: bool = False) -> Iterator[Board]:
    """A board for the time of a run."""
    made = Board()
    if quiet or not err.is_terminal:
        yield made
        return
    with Live(console=err, refresh_per_second=4, transient=True, get_renderable=lambda: made._draw()) as live:
        made.live = live
        yield made


def stages(seconds: Mapping[str, float], changed: Mapping[str, bool]) -> None:
    """The table at the end of `up`."""
    rows = [(name, f"{took:,.1f} s", "" if changed.get(name) else "unchanged") for name, took in seconds.items()]
    table(rows, ("stage", "seconds", ""), ("", "", "quiet"), right=(1,))


def _indented(name: str, value: str) -> Table:
    made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    made.add_column(width=6, no_wrap=True, style="quiet")
    made.add_column(overflow="fold")
    made.add_row("  " + name, Text(value, style="command" if name == "next" else ""))
    return made
