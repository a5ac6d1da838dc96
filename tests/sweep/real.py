"""A sample of the sweep with the real engine: real Ray Serve, real vLLM, each verb as typed, without a daemon.

    python -m tests.sweep.real      writes docs/kill-sweep-real.md; about a quarter of an hour on two cores with the image at hand
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from infra.local.processes import members
from tests.life import clone as clones
from tests.sweep.daemon import Row, Scripted, said_again
from tests.sweep.table import PAGE

HEAD = """# Killed anywhere: the real engine

Written by `python -m tests.sweep.real`; never edited by hand. {date}, llm-pipeline {own}, Dagster {dagster}: {cells} cells with Ray Serve and
vLLM, {wrong} wrong. The wide sweep, with scripted engines: [kill-sweep.md](kill-sweep.md).

Each verb is a command as typed, on a machine with two cores and without a daemon: nothing heals by itself, the next `up` does. Afterwards the
right release answers through the stable address, no other one exists, and every try in the history has an end.

| while | killed | the command ended as | then | seconds | |
|---|---|---|---|---|---|
"""


class Real(Scripted):
    """The shipped demo with Ray Serve, in a clone of its own."""

    seconds = 400

    def __init__(self, folder: Path) -> None:
        self.clone = clones.make(folder / "clone")
        self.sequences = 4

    def change(self) -> None:
        """Another release of the same weights."""
        self.clone.edit("demo", f"max_num_seqs: {self.sequences} ", f"max_num_seqs: {self.sequences + 1} ")
        self.sequences += 1

    def inside(self, release: str, word: str) -> list[int]:
        """Processes of one release whose command line has this word."""
        mine = members(next((mark for mark in set(self.clone.processes().values()) if mark.endswith(f":ray_service:{release}")), "none"))
        return [pid for pid in sorted(mine) if word in command_of(pid)]

    def begun(self) -> subprocess.Popen[str]:
        """`down` begins; returns when its run has the model's lock."""
        argv = [sys.executable, "-m", "llm_pipeline.cli", "down", "demo", "--json", "--yes"]
        typed = subprocess.Popen(argv, env=self.clone.env, cwd=self.clone.root.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        record = self.clone.home / "records" / "demo" / "deployment.json"
        self.until(lambda: not json.loads(record.read_text())["value"]["wanted"], 60, "the withdrawal")
        return typed

    def children(self) -> list[int]:
        """Run workers that the command line started, and their steps."""
        return [pid for pid in everybody() if "llm_pipeline.child" in command_of(pid) and str(self.clone.root) == os.path.realpath(f"/proc/{pid}/cwd")]


WORDS = {"Ray head": "gcs_server", "Serve controller": "ServeController", "replica": "ServeReplica", "engine core": "EngineCore"}


def sweep(say: Callable[[str], None]) -> list[tuple[str, Row]]:
    """Every cell on one clone; the order saves starts."""
    folder, rows = Path(tempfile.mkdtemp(prefix="sweep-real-")), list[tuple[str, Row]]()
    made = Real(folder)

    def told(story: str, row: Row) -> None:
        rows.append((story, row))
        say(f"{story} | {row}")

    try:
        made.clone.json("up", "demo")
        for victim, word in WORDS.items():
            told("Ray Serve, serving", played(made, victim, lambda word=word: made.inside(made.live(), word), begin=None))  # type: ignore[misc]
        made.change()
        told("Ray Serve, version change", played(made, "Ray head of the candidate", lambda: made.inside(made.candidate(), "gcs_server"), begin=made.begin))
        made.clone.edit("demo", "kind: ray ", "kind: vllm")
        made.clone.json("up", "demo")
        during: dict[str, Callable[[], list[int]]] = {
            "step": made.step, "run worker": made.worker, "engine core of the live release": lambda: made.inside(made.live(), "EngineCore"),
            "router": lambda: made.of("endpoint", "router"), "candidate": lambda: made.of("ray_service", made.candidate()),
        }  # fmt: skip
        for victim in ("step", "run worker", "engine core of the live release", "router"):
            made.change()
            told("plain vLLM, version change", played(made, victim, during[victim], begin=made.begin))
        for victim in ("run worker", "candidate"):
            told("plain vLLM, rollback", played(made, victim, during[victim], begin=lambda: made.begin("rollback"), again=("rollback", "demo", "--json")))
            made.clone.run("unpin", "demo")
            made.clone.json("up", "demo")
        told("plain vLLM, down", down(made))
        made.clone.json("up", "demo")
        told("plain vLLM, down", down(made))
        told("the end", gone(made))
    finally:
        made.clone.stop()
        for pid in made.clone.processes():
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
    return rows


def played(
    made: Real, victim: str, pids: Callable[[], list[int]], begin: Callable[[], subprocess.Popen[str]] | None, again: tuple[str, ...] = ("up", "demo", "--json")
) -> Row:
    """One cell: somebody is killed while a command is at work (or while it serves), then the command is said again."""
    row = Row(victim)
    try:
        typed = begin() if begin else None
        made.until(pids, 90, f"{victim} to kill")
        for pid in pids():
            os.kill(pid, signal.SIGKILL)
        if typed:
            said, _ = typed.communicate(timeout=made.seconds)
            row.ended = str(json.loads(said).get("result")) if said.lstrip().startswith("{") else f"exit code {typed.returncode}"
        time.sleep(2 if typed else 12)  # a live release is asked for its health every few seconds
        said_again(made, row, time.monotonic(), *again)
    except Exception as error:
        row.wrong.append(f"{type(error).__name__}: {error}"[:500])
    return row


def down(made: Real) -> Row:
    """The run of a `down` is killed as soon as it has withdrawn the model; `down` again."""
    row = Row("run worker")
    try:
        typed = made.begun()
        pids = made.children()
        if not pids:
            row.wrong.append("nobody was found to kill")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        typed.communicate(timeout=120)
        row.ended = f"exit code {typed.returncode}"
        began = time.monotonic()
        report = made.clone.json("down", "demo")
        row.seconds, row.healed = round(time.monotonic() - began, 1), "nothing left" if report["left"] == [] else f"left: {report['left']}"
        if left := made.clone.processes():
            row.wrong.append(f"these processes stay: {left}")
    except Exception as error:
        row.wrong.append(f"{type(error).__name__}: {error}"[:500])
    return row


def gone(made: Real) -> Row:
    """Nothing of it is there any more."""
    row = Row("nobody")
    report = made.clone.json("down", "--all")
    row.ended = row.healed = "nothing left" if report["left"] == [] else f"left: {report['left']}"
    if left := made.clone.processes():
        row.wrong.append(f"these processes stay: {left}")
    return row


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def everybody() -> list[int]:
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]


def page(rows: list[tuple[str, Row]]) -> str:
    """The whole page."""
    wrong = sum(bool(row.wrong) for _, row in rows)
    head = HEAD.format(date=time.strftime("%Y-%m-%d"), own=version("llm-pipeline"), dagster=version("dagster"), cells=len(rows), wrong=wrong)
    return head + "".join(
        f"| {story} | {row.victim} | {row.ended or 'no command'} | {row.healed} | {row.seconds:.0f} | {'**wrong**: ' + '; '.join(row.wrong) if row.wrong else ''} |\n" for story, row in rows
    )  # fmt: skip


def main() -> int:
    rows = sweep(lambda text: print(text, flush=True))
    PAGE.with_name("kill-sweep-real.md").write_text(page(rows))
    return 1 if any(row.wrong for _, row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
