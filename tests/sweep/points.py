"""The points at which something can be killed: every phase, write, start, signal, removal and push that a run makes.

They are laid around the product's own functions from outside; the product has no hook for them. A point is named by the stage at
work, by what is about to happen, and by how often that happened in this stage, so that a new stage brings its points by itself.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import types
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import assets.step
import assets.teardown
from infra.local import endpoint, launch, processes, records, startup
from infra.router.client import Router
from infra.waiting import Progress

RUN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}")
NAMES = {re.compile(rf"\b[0-9a-f]{{{digits}}}\b"): word for digits, word in ((8, "HOME"), (10, "R"), (16, "DIGEST"), (64, "SHA"))}
"""Names that are other ones in every clone."""


@dataclass(frozen=True)
class Point:
    """Where a run is. `number` tells repetitions apart."""

    stage: str
    what: str
    number: int = 1
    there: tuple[str, ...] = field(default=(), compare=False)
    """Things of this home that had processes when the point was reached: `<part>:<name>`."""

    def __str__(self) -> str:
        return f"{self.stage} · {self.what}" + (f" ({self.number})" if self.number > 1 else "")


class Points:
    """Counts the points that this process passes, writes each into `trail` before it happens, and strikes at `at`."""

    def __init__(self, root: Path, trail: Path, at: Point | None = None, strike: Callable[[], None] = lambda: None) -> None:
        self._root, self._at, self._strike = root, at, strike
        self._home = processes.home_id(root / "home") + ":"
        self._trail = os.open(trail, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._seen: Counter[tuple[str, str]] = Counter()
        self._stage, self._busy = "before", False

    def reach(self, what: str) -> None:
        """A point. What the strike itself does is none."""
        if self._busy:
            return
        what = RUN.sub("RUN", what)
        for pattern, word in NAMES.items():
            what = pattern.sub(word, what)
        self._seen[self._stage, what] += 1
        here = Point(self._stage, what, self._seen[self._stage, what])
        there = ",".join(sorted({mark.split(":", 1)[1] for _, mark in processes.marked(self._home)})) if self._at is None else ""
        os.write(self._trail, f"{here.stage}\t{here.what}\t{here.number}\t{there}\n".encode())
        if here == self._at:
            self._busy = True
            self._strike()
            self._busy = False

    def install(self) -> None:
        """Lays the points around the product, in this process only (a forked one, which ends with its run)."""
        self._stages()
        self._phases()
        self._files()
        self._programs()
        self._router()

    def _stages(self) -> None:
        asked = assets.step.run_of

        def run_of(context: Any) -> Any:
            self._stage = context.op_def.name.split("__", 1)[-1] if hasattr(context, "op_def") else "check"
            self.reach("begin")
            return asked(context)

        assets.step.run_of = run_of
        assets.teardown.run_of = run_of

    def _phases(self) -> None:
        told = Progress.phase

        def phase(progress: Progress, name: str, detail: str = "", started: float | None = None) -> None:
            before = len(progress.phases)
            told(progress, name, detail, started)
            if len(progress.phases) > before and not name.startswith("waiting"):
                self.reach(f"phase {name}")

        Progress.phase = phase  # type: ignore[method-assign]

    def _files(self) -> None:
        write, sync, remove, forget = processes.write_json, os.fsync, shutil.rmtree, records.LocalRecords.delete

        def write_json(path: Path, value: object) -> None:
            self.reach(f"write {self._name(path)}")
            write(path, value)

        def fsync(descriptor: int) -> None:
            self.reach(f"half-written {self._name(Path(os.readlink(f'/proc/self/fd/{descriptor}')))}")
            sync(descriptor)

        def rmtree(path: Any, *args: Any, **more: Any) -> None:
            if Path(path).is_dir() and (self._root in Path(path).parents or Path(path).parent.name.startswith("lp")):
                self.reach(f"remove {self._name(Path(path))}")
                for first in sorted(Path(path).iterdir())[:1]:
                    first.unlink() if not first.is_dir() else remove(first, *args, **more)
                    self.reach(f"half-removed {self._name(Path(path))}")
            remove(path, *args, **more)

        def delete(self_: records.LocalRecords, owner: str, name: str) -> None:
            self.reach(f"forget {name}")
            forget(self_, owner, name)

        for module in (processes, launch, startup, records, endpoint):
            module.write_json = write_json
        os.fsync = fsync
        shutil.rmtree = rmtree  # type: ignore[assignment]
        records.LocalRecords.delete = delete  # type: ignore[method-assign]

    def _programs(self) -> None:
        signalled = processes._signal

        def popen(argv: list[str], **more: Any) -> Any:
            self.reach(f"start {more['env'][processes.MARK].split(':')[1]}")
            return subprocess.Popen(argv, **more)

        def signal(pids: frozenset[int], number: int) -> None:
            self.reach("signal")
            signalled(pids, number)

        processes.subprocess = types.SimpleNamespace(Popen=popen, DEVNULL=subprocess.DEVNULL, STDOUT=subprocess.STDOUT)  # type: ignore[assignment]
        processes._signal = signal

    def _router(self) -> None:
        pushed = Router.push

        def push(router: Router, table: Any) -> Any:
            self.reach("push")
            answer = pushed(router, table)
            self.reach("pushed")
            return answer

        Router.push = push  # type: ignore[method-assign]

    def _name(self, path: Path) -> str:
        """Short, and the same in every run."""
        name = str(path.relative_to(self._root)) if self._root in path.parents else path.name
        return re.sub(r"/\.([^/]*)\.\d+\.\d+$", r"/\1", name)


def read(trail: Path) -> list[Point]:
    """The points of a run, in order."""
    rows = (line.split("\t") for line in trail.read_text().splitlines()) if trail.exists() else ()
    return [Point(stage, what, int(number), tuple(there.split(",")) if there else ()) for stage, what, number, there in rows]
