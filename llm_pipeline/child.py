"""A run as a process of its own, for when no daemon is there to start it: `python -m llm_pipeline.child '<order as JSON>'`."""

from __future__ import annotations

import json
import sys

import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableRepository

from assets.workers import TAG_WORKER
from infra import workers
from infra.settings import ROOT


def main(order: str) -> int:
    """Runs the order to its end on the instance that DAGSTER_HOME names."""
    asked = json.loads(order)
    job = ReconstructableRepository.for_module("llm_pipeline.definitions", "defs", str(ROOT)).get_reconstructable_job(asked["job"])
    assets = [dg.AssetKey(path) for path in asked["assets"]] or None
    with dg.DagsterInstance.get() as instance:
        result = dg.execute_job(job, instance=instance, run_config=asked["config"], tags={**asked["tags"], TAG_WORKER: workers.myself()}, asset_selection=assets, raise_on_error=False)
        return 0 if result.success else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
