"""`make sweep`: every cell, then docs/kill-sweep.md.

    python -m tests.sweep [--every N] [--from K] [--story NAME] [--victim NAME] [--without load,dagster] [--jobs N] [--page FILE]

`--every N` takes each N-th cell, beginning with number K: a sample that reaches every stage. `--jobs N` plays N cells at once, each on a
clone of its own. The exit code says whether a cell was wrong.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.sweep import cells, table
from tests.sweep.cells import Outcome
from tests.sweep.points import Point


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--from", type=int, default=0, dest="first")
    parser.add_argument("--story", choices=sorted(cells.STORIES))
    parser.add_argument("--victim", choices=sorted(cells.VICTIMS))
    parser.add_argument("--without", default="", help="comma: load, dagster")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--page", type=Path, default=table.PAGE)
    asked = parser.parse_args()
    without = set(asked.without.split(","))
    outcomes: list[Outcome] = []
    more: list[str] = []
    if "load" not in without:
        from tests.sweep import load

        more.append(load.section(load.measure()))
    if "dagster" not in without:
        from tests.sweep import daemon

        more.append(daemon.section(daemon.sweep(report=say)))
    for story in [asked.story] if asked.story else list(cells.STORIES):
        chosen = [one for one in cells.cells(story) if asked.victim in (None, one[1])]
        for outcome in played(story, chosen[asked.first :: asked.every], asked.jobs):
            outcomes.append(outcome)
            say(outcome)
            asked.page.write_text(table.page(outcomes, more, asked.every))
    return 1 if any(not row.good for row in outcomes) else 0


def played(story: str, chosen: Sequence[tuple[Point, str]], jobs: int) -> Iterator[Outcome]:
    """Each in its turn of the list. Processes begin anew: a fork would share what this one has open."""
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(cells.cell, [story] * len(chosen), *zip(*chosen, strict=True)) if chosen else ()


def say(row: object) -> None:
    """One line as it goes on."""
    print(row if not isinstance(row, Outcome) else f"{'good ' if row.good else 'WRONG'} {row.story} | {row.point} | {row.victim} | {row.run[:70]} | {row.healed} | {row.seconds} s {row.wrong or ''}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
