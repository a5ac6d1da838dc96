"""Decisions of people that need no stage: the job `pin` (stay here, or follow again)."""

import time
from collections.abc import Mapping

import dagster as dg

from assets.step import Cluster, failure, run_of
from assets.teardown import find
from assets.workers import noted
from infra.decisions import Decisions
from infra.documents import Pin
from infra.errors import ConfigError, PipelineError


class PinConfig(dg.Config):
    """`model`, and what to stay on: nothing (the live release, whole) or a revision; `remove` follows the declaration again."""

    model: str
    revision: str | None = None
    remove: bool = False


def build(clusters: Mapping[str, Cluster]) -> dg.Definitions:
    """The job `pin`."""

    @dg.op(name="write_pin")
    def write_pin(context: dg.OpExecutionContext, config: PinConfig) -> None:
        run = run_of(context)
        try:
            cluster, _ = find(config.model, clusters)
            decisions = Decisions(cluster.platform.records, config.model)
            decisions.write("pin", None if config.remove else wanted_pin(decisions, config, run.by))
        except PipelineError as error:
            raise failure(error) from error

    @dg.job(name="pin", tags={"llm/lifecycle": "pin"}, executor_def=noted(dg.in_process_executor), description="Keeps a model on its live release (or on a revision), or lets it follow again.")
    def pin() -> None:
        write_pin()

    return dg.Definitions(jobs=[pin])


def wanted_pin(decisions: Decisions, config: PinConfig, by: str) -> Pin:
    """The live release whole, or the weights alone."""
    if config.revision:
        return Pin(revision=config.revision, until="unpinned", by=by, why="pinned by hand", at=time.time())
    live = decisions.live
    if live is None:
        raise ConfigError(f"{decisions.model} has no live release to stay on", next=f"llm-pipeline up {decisions.model}")
    return Pin(release=live.release, until="unpinned", by=by, why="pinned by hand", at=time.time())
