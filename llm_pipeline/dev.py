"""Dagster of this clone as a background program: `dagster dev` in a session of its own, ended as a whole."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from infra.errors import ConfigError, Transient, tail
from infra.local.endpoint import free_port
from infra.local.processes import end, mark_of, members, spawn
from infra.settings import ROOT, Settings, private
from infra.waiting import Progress
from llm_pipeline.runs import Dagster

START_SECONDS = 120.0


def log_file(settings: Settings) -> Path:
    """Where webserver, daemon and code server write."""
    return settings.home / "logs" / "dagster.log"


def start(settings: Settings, progress: Progress) -> bool:
    """Starts it unless it runs. Returns whether anything was started."""
    dagster = Dagster(settings)
    if dagster.webserver() and dagster.daemon():
        return False
    mark, record = _mark(settings)
    if members(mark, record):
        progress.phase("dagster", "waiting for the one that is starting")
        if _wait(dagster, settings, progress, seconds=30):
            return False
        stop(settings, progress)
    try:
        free_port(settings.dagster_port)
    except ConfigError as error:
        raise ConfigError(error.problem.what, why=error.problem.why, next=f"stop that program, or: LLM_PIPELINE_DAGSTER_PORT={settings.dagster_port + 1} make up") from error
    _spawn(settings, mark, record)
    if not _wait(dagster, settings, progress, seconds=START_SECONDS):
        raise Transient("Dagster did not start", log=tail(log_file(settings), 6), next=f"look at {log_file(settings)}, then the same command again")
    return True


def stop(settings: Settings, progress: Progress) -> int:
    """Ends all of it. In-flight runs of models go on in sessions of their own? No: they are children, and end too."""
    mark, record = _mark(settings)
    count = end(mark, progress, record=record, grace=10, soft=signal.SIGINT)
    record.unlink(missing_ok=True)
    return count


def running(settings: Settings) -> bool:
    """Whether a process of it lives."""
    return bool(members(*_mark(settings)))


def _mark(settings: Settings) -> tuple[str, Path]:
    return mark_of(settings.home, "dagster", "dev"), settings.home / "dagster" / "process.json"


def _spawn(settings: Settings, mark: str, record: Path) -> None:
    private(settings.home)
    program = Path(sys.executable).parent / "dagster"
    argv = [str(program), "dev", "-w", str(ROOT / "workspace.yaml"), "-h", "127.0.0.1", "-p", str(settings.dagster_port), "--use-legacy-code-server-behavior"]
    env = {**os.environ, "DAGSTER_HOME": str(settings.instance_dir), "PYTHONWARNINGS": "ignore"}
    private(settings.instance_dir)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background of a script: its children would ignore `stop`, too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    spawn(argv[:-1], mark=mark, record=record, log=log_file(settings), env=env, cwd=ROOT)


def _wait(dagster: Dagster, settings: Settings, progress: Progress, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if dagster.webserver() and dagster.daemon():
            return True
        if not members(*_mark(settings)):
            return False
        progress.phase("dagster", "webserver, daemon and code server are starting")
        progress.sleep(0.5)
    return False
