"""The table of a sweep: docs/kill-sweep.md. Written by `make sweep`, never by hand."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from tests.sweep.cells import Outcome

PAGE = Path(__file__).resolve().parents[2] / "docs" / "kill-sweep.md"

HEAD = """# Killed anywhere

Written by `make sweep`; never edited by hand. {date}, llm-pipeline {own}, Dagster {dagster}: {cells} cells{sample}, {wrong} wrong.

A cell is a story (a first `up`, a version change, a rollback, a refused candidate, a `down`), a point in it, and somebody who gets a
SIGKILL there. Points are every stage and phase, every record and file before it is written and half-way through, every process before
it is started, every signal, removal and change of the router's table; they are found by a run that nobody disturbs. Afterwards:

- `up` in a new process ends with what should serve serving, or the refused candidate refused and the old release serving;
- each release has exactly one set of processes and folders, the router sends the name to it, and no claim stays;
- the history has an end for every try;
- `down` leaves no process, socket, folder, route or half-written file, and a look that believes no record says so too.

*Run* is the process of the step and the run. "The run ended as" is what became of the run itself: one that lost its router or its engine may
still succeed, when it comes to the same place again. "Healed" is what the next `up` said, "seconds" how long it took on two busy cores.
"""


def page(outcomes: Sequence[Outcome], more: Iterable[str] = (), every: int = 1) -> str:
    """The whole page. `every`: each so manieth cell was played."""
    wrong = [row for row in outcomes if not row.good]
    text = HEAD.format(date=time.strftime("%Y-%m-%d"), own=version("llm-pipeline"), dagster=version("dagster"), cells=len(outcomes), sample="" if every == 1 else f" (a sample: one of {every})", wrong=len(wrong))
    parts = [text, *more, summary(outcomes)]
    if wrong:
        parts.append("## Wrong\n\n" + "\n".join(f"- {row.story}, {row.point}, {row.victim}: {'; '.join(row.wrong)}" for row in wrong) + "\n")
    parts += [story(name, [row for row in outcomes if row.story == name]) for name in dict.fromkeys(row.story for row in outcomes)]
    return "\n".join(parts)


def summary(outcomes: Sequence[Outcome]) -> str:
    """One row per story and victim."""
    count = Counter((row.story, row.victim) for row in outcomes)
    good = Counter((row.story, row.victim) for row in outcomes if row.good)
    slow = {key: max(row.seconds for row in outcomes if (row.story, row.victim) == key) for key in count}
    rows = [f"| {s} | {v} | {n} | {good[s, v]} | {slow[s, v]:.1f} |" for (s, v), n in count.items()]
    return "## In all\n\n| story | killed | cells | healed and gone | slowest heal, s |\n|---|---|---|---|---|\n" + "\n".join(rows) + "\n"


def story(name: str, outcomes: Sequence[Outcome]) -> str:
    """Every cell of one story."""
    rows = [f"| {row.point} | {row.victim} | {short(row.run)} | {row.healed}{'' if row.good else ', **wrong**'} | {row.seconds:.1f} |" for row in outcomes]
    return f"## {name.capitalize()}\n\n| point | killed | the run ended as | healed | seconds |\n|---|---|---|---|---|\n" + "\n".join(rows) + "\n"


def short(text: str) -> str:
    """Fits a cell."""
    return text.replace("|", "/").replace("\n", " ")[:60]
