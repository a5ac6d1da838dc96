"""Everything killed at every change: the process of a run gets a SIGKILL at each request to the API server that changes something.

    python -m tests.kubernetes.killed [--jobs N] [--every N] [--from K] [--page FILE] [--again]

A first, undisturbed `up` and `down --purge` show the requests. A cell is one of each: `up` is killed at the one, before or after the
server took it, and said again; then `down` is killed at the other, and said again. What is there is looked at past all records. Needs a
control plane (tests/kubernetes/lab.py), with --jobs one for each job. The page is written when no cell was left out, or where --page says.
--again plays only the cells that the page calls wrong, puts what came of them in their place, and says how many those were.
"""

from __future__ import annotations

import argparse
import itertools
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from assets.teardown import leftovers
from infra.errors import PipelineError
from infra.kubernetes import kinds
from infra.waiting import Progress
from tests.kubernetes import lab as labs
from tests.kubernetes.between import Middle, between
from tests.kubernetes.lab import Lab
from tests.kubernetes.story import PATIENCE, objects, whole
from tests.kubernetes.world import Point, World

PAGE = Path(__file__).resolve().parents[2] / "docs" / "kill-sweep-cluster.md"

WRONG = ", **wrong**: "

HEAD = """# Killed anywhere, on a cluster

Written by `python -m tests.kubernetes.killed`; never edited by hand. {date}, llm-pipeline {own}: {cells} cells{sample}, {wrong} wrong.{more}

The real API server, controllers and scheduler, real Dagster steps; router, engine and the Job of the weights are real processes as pods, the
engine in them is scripted. A cell is an `up` that gets a SIGKILL at one request that changes something (before the API server took it, or after,
when nobody is told), `up` again; then a `down --purge` that gets one too, and `down` again. Questions, reviews of rights and renewals of locks are
no such requests. Afterwards:

- the second `up` ends with the release serving; each object of ours is there once, no lock, Job or claim of a rollout stays. Only where all was
  done already and `up` says "unchanged", a lock whose holder died with it stays: nobody has to wait for it, `leftovers` shows it, `down` removes it;
- the second `down` leaves nothing: the namespace itself, which the first `up` made, is gone.

| `up` was killed at | it ended as | `up` again | `down` was killed at | it ended as | `down` again | seconds |
|---|---|---|---|---|---|---|
"""


@dataclass
class Cell:
    """One row: two kills, and what became of them."""

    first: Point
    last: Point
    after: bool
    told: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        when = "after" if self.after else "before"
        told = [*self.told, *[""] * (4 - len(self.told))]
        return f"| {when} {self.first} | {told[0]} | {told[1]} | {when} {self.last} | {told[2]} | {told[3]}{WRONG + '; '.join(self.wrong) if self.wrong else ''} | {self.seconds:.0f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--from", type=int, default=0, dest="first")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--again", action="store_true")
    asked = parser.parse_args()
    if asked.again:
        return mended(asked.page or PAGE)
    page = asked.page or (PAGE if asked.every == 1 and not asked.first else None)
    rows = shared_out(asked.jobs, asked.every, asked.first) if asked.jobs > 1 else list(played_in_turn(asked.every, asked.first))
    if page:
        page.write_text(text(rows, asked.every))
    return 1 if not rows or any(WRONG in row for row in rows) else 0


def mended(page: Path) -> int:
    """Plays again what was wrong there."""
    before = page.read_text()
    again = iter(list(in_turn(lambda *_: [cell_of(row) for row in joined([before]) if WRONG in row])))
    rows = [next(again) if WRONG in row else row for row in joined([before])]
    told = re.search(r" (\d+) of them were wrong at first", before)  # played again for the second time
    count = max(sum(WRONG in row for row in joined([before])), int(told[1]) if told else 0)
    page.write_text(text(rows, 1, f" {count} of them were wrong at first, and were played again after what was wrong was mended."))
    return 1 if any(WRONG in row for row in rows) else 0


def cell_of(row: str) -> Cell:
    """The cell of a row, not played yet."""
    columns = [column.strip() for column in row.strip("| ").split(" | ")]
    (when, _, first), last = columns[0].partition(" "), columns[3].partition(" ")[2]
    return Cell(point(first), point(last), when == "after")


def point(told: str) -> Point:
    """As a row names it."""
    found = re.fullmatch(r"(.+) \((\d+)\)", told)
    return Point(found[1], int(found[2])) if found else Point(told)


def played_in_turn(every: int, first: int) -> Iterator[str]:
    """Each cell, or each N-th."""
    return in_turn(lambda lab, middle: cells(*points(lab, middle))[first::every])


def in_turn(which: Callable[[Lab, Middle], Sequence[Cell]]) -> Iterator[str]:
    """One cell after the other, told as they end."""
    with tempfile.TemporaryDirectory(prefix="killed-") as folder, labs.started(Path(folder) / "lab", nodes=1, kuberay=False) as lab:
        define_kuberay(lab)
        with between(lab.api, Path(folder)) as middle:
            for one in which(lab, middle):
                row = str(played(lab, middle, one))
                print(row, flush=True)
                yield row


def shared_out(jobs: int, every: int, first: int) -> list[str]:
    """The same by several processes, each with a control plane of its own; most of a cell is waiting."""
    with tempfile.TemporaryDirectory(prefix="killed-") as folder:
        pages = [Path(folder) / f"{job}.md" for job in range(jobs)]
        argv = [sys.executable, "-m", "tests.kubernetes.killed", "--every", str(every * jobs)]
        running = [subprocess.Popen([*argv, "--from", str(first + every * job), "--page", str(page)]) for job, page in enumerate(pages)]
        for one in running:
            one.wait()
        return joined([page.read_text() for page in pages])


def joined(pages: Sequence[str]) -> list[str]:
    """The rows of several pages in the order of the cells."""
    columns = [[line for line in page.splitlines() if line.startswith(("| before ", "| after "))] for page in pages]
    return [row for rank in itertools.zip_longest(*columns) for row in rank if row]


def define_kuberay(lab: Lab) -> None:
    """Its kinds without an operator: the engines here are plain servers, and this machine has better to do."""
    from infra.kubernetes.operator import definitions

    for definition in definitions():
        lab.api.apply(definition)
    Progress(PATIENCE).until(lambda: lab.api.serves(kinds.RAY_SERVICE) or None, every=0.5)


def cells(up: Sequence[Point], down: Sequence[Point]) -> list[Cell]:
    """Each request of each verb, before and after; the shorter list begins anew where it ends."""
    count = max(len(up), len(down))
    firsts, lasts = itertools.cycle(up), itertools.cycle(down)
    return [Cell(first, last, after) for first, last, _ in zip(firsts, lasts, range(count), strict=False) for after in (False, True)]


def points(lab: Lab, middle: Middle) -> tuple[list[Point], list[Point]]:
    """What an undisturbed `up` and `down` pass."""
    with fresh(lab, middle) as world:
        up, down = world.up(), world.down()
        assert (up.told, down.told) == ("serving", "down"), (up, down)
        return up.points, down.points


@contextmanager
def fresh(lab: Lab, middle: Middle) -> Iterator[World]:
    """A clone on which nothing was done yet; nothing of it stays."""
    with tempfile.TemporaryDirectory(prefix="killed-") as folder:
        world = World(lab, middle, Path(folder))
        try:
            yield world
        finally:
            if world.there():
                lab.api.delete(kinds.NAMESPACE, world.namespace)


def played(lab: Lab, middle: Middle, cell: Cell) -> Cell:
    """Plays it; what is wrong is told, never raised."""
    began = time.monotonic()
    try:
        with fresh(lab, middle) as world:
            _killed_and_mended(world, cell)
    except (AssertionError, PipelineError, OSError) as error:
        cell.wrong.append(f"{type(error).__name__}: {error}"[:500])
    cell.seconds = time.monotonic() - began
    return cell


def _killed_and_mended(world: World, cell: Cell) -> None:
    killed, again = world.up(at=cell.first, after=cell.after), world.up()
    cell.told += [killed.told, again.told]
    if again.told not in ("serving", "unchanged"):
        cell.wrong.append(f"up again: {(again.value or {}).get('problem') or again.value}"[:800])
    cell.wrong += not_whole(world, idle=again.told == "unchanged")
    killed, again = world.down(at=cell.last, after=cell.after), world.down()
    cell.told += [killed.told, again.told]
    if again.told != "down" or world.there():
        cell.wrong.append(f"down again: {again.value}, the namespace is {'there' if world.there() else 'gone'}"[:400])


def not_whole(world: World, *, idle: bool) -> list[str]:
    """What is not as it should be while one release serves. `idle`: `up` had nothing to do, and so took no lock of the dead."""
    live, parts = world.live, world.straight.platform
    if live is None:
        return ["nothing is live"]
    wrong = []
    if (found := world.straight.ask()) != (200, live.name):
        wrong.append(f"a question was answered by {found}, live is {live.name}")
    there = [name for name in objects(world.straight) if not name.startswith(("configmaps/record-", *(["leases/lock-"] if idle else [])))]
    if there != whole(live):
        wrong.append(f"these are there: {sorted(set(there) ^ set(whole(live)))} too many or too few")
    pods = [item["metadata"]["labels"]["llm-pipeline/part"] for item in world.straight.place.api.list(kinds.POD, world.namespace, world.straight.place.selector()).items]
    if sorted(pods) != ["endpoint", "ray_service"]:
        wrong.append(f"these pods are there: {pods}")
    if stays := [found for found in leftovers(parts, "lab") if not (idle and found.part == "lock")]:
        wrong.append(f"left over: {stays}")
    return wrong


def text(rows: Sequence[str], every: int, more: str = "") -> str:
    """The page."""
    sample = "" if every == 1 else f" (a sample: one of {every})"
    head = HEAD.format(date=time.strftime("%Y-%m-%d"), own=version("llm-pipeline"), cells=len(rows), sample=sample, wrong=sum(WRONG in row for row in rows), more=more)
    return head + "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.exit(main())
