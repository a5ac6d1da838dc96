"""Ten revisions in a row under load: the local platform with its real router and real processes, scripted engines, both sensors ticking.

The clients live in a process of their own (tests/sweep/load.py) and ask through the public address without a pause. Runs are executed in a thread, so that
the sensors tick, and revisions arrive, while one rolls out.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run

from infra.waiting import Progress
from llm_pipeline import components, revisions
from tests.doubles.model import lay_model
from tests.sweep import load
from tests.sweep.cells import fresh, serve
from tests.sweep.load import Heard
from tests.sweep.stand import Stand, definitions_of

PATIENCE = 300.0
"""Seconds that a rollout may take before the test is called hung."""


@dataclass(frozen=True)
class Pushed:
    """What came out: what the clients heard, which revision each release had that ever had traffic, which of the pushed ones were rolled out, in order."""

    heard: Heard
    accepted: dict[str, str]
    rolled_out: list[str]
    pushed: list[str]
    live: str | None


class Loop:
    """Both sensors of one clone, and the runs that they ask for."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        folder = stand.root / "dagster"
        folder.mkdir()
        self.instance = dg.DagsterInstance.local_temp(str(folder))  # in files: who reads waits for who writes, as in the product
        self.defs = dg.Definitions.merge(definitions_of(), revisions.build())
        self.at_work: threading.Thread | None = None
        self._cursor: str | None = None

    def tick(self) -> bool:
        """One look of each sensor. Whether a run was launched or is at work."""
        with dg.build_sensor_context(instance=self.instance) as context:
            self.defs.resolve_sensor_def("revisions")(context)
        with dg.build_sensor_context(instance=self.instance, cursor=self._cursor) as context:
            found: Any = self.defs.resolve_sensor_def("reconcile")(context)
        self._cursor = found.cursor
        for request in found.run_requests or ():
            self._launch(request)
        return self.busy

    @property
    def busy(self) -> bool:
        return bool(self.at_work and self.at_work.is_alive())

    def until_at_work(self) -> None:
        """Ticks until a run is at work: what comes now comes during a rollout."""
        self._until(self.tick)

    def until_quiet(self) -> None:
        """Ticks until nothing is at work and nothing is asked for."""
        self._until(lambda: not self.tick())

    @staticmethod
    def _until(seen: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not seen():
            assert time.monotonic() < end, "the loop hangs"
            time.sleep(0.1)

    def join(self) -> None:
        if self.at_work:
            self.at_work.join(PATIENCE)

    def _launch(self, request: dg.RunRequest) -> None:
        job = self.defs.resolve_implicit_global_asset_job_def().get_subset(asset_selection=frozenset(request.asset_selection or ()))
        config = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        run = self.instance.create_run_for_job(job, run_config=config, tags={**job.tags, **request.tags}, asset_selection=frozenset(request.asset_selection or ()))
        self.at_work = threading.Thread(target=execute_run, args=(InMemoryJob(job), run, self.instance))
        self.at_work.start()


def play(count: int = 10) -> Pushed:
    """So many pushes, two of three while a rollout is under way. Leaves nothing behind."""
    stand = fresh()
    try:
        serve(stand)
        out, pushed = stand.root / "heard.json", []
        with load.clients(stand.platform.endpoint.url("demo"), out, 0.02), ticking(stand) as loop:
            loop.until_quiet()
            for number in range(1, count + 1):
                pushed.append(push(stand, number))
                if number % 3:
                    loop.until_at_work()
                else:
                    loop.until_quiet()
            loop.until_quiet()
        return result(stand, load.heard(out), pushed)
    finally:
        stand.close()


@contextmanager
def ticking(stand: Stand) -> Iterator[Loop]:
    """The loop of this clone, in this process."""
    with stand.patched():
        made = Loop(stand)
        try:
            yield made
        finally:
            made.join()
            made.instance.dispose()


def push(stand: Stand, number: int) -> str:
    """Other weights at the source, as a copy beside it that takes its place. Its revision, as the source will show it."""
    at = stand.root / "assets" / "models" / "demo" / "weights"
    fresh_one = lay_model(at.with_name(f"weights-{number}"), seed=number)
    before = at.with_name(f"before-{number}")
    at.rename(before)
    fresh_one.rename(at)
    shutil.rmtree(before)
    declared = components.declared().models["demo"]
    return stand.platform.model_weights.look(declared.spec, declared.base, Progress(60)).revision


def result(stand: Stand, heard: Heard, pushed: list[str]) -> Pushed:
    """As the records tell it."""
    records = stand.decisions.releases()
    accepted = {record.release.name: record.revision for record in records.values() if record.accepted}
    tried = sorted((attempt.started, record.revision) for record in records.values() for attempt in record.attempts)
    live = stand.decisions.live
    return Pushed(heard, accepted, [revision for _, revision in tried][1:], pushed, records[live.release].revision if live else None)
