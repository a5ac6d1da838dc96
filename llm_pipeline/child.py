"""A run as a process of its own, for when no daemon is there to start it: `python -m llm_pipeline.child '<order as JSON>'`."""

from __future__ import annotations

import json
import sys

import dagster as dg


def graph_job() -> dg.JobDefinition:
    """The job of the whole graph, of which a selection runs."""
    from llm_pipeline.definitions import defs

    return defs().resolve_implicit_global_asset_job_def()


def teardown_job() -> dg.JobDefinition:
    """The job `teardown`."""
    from llm_pipeline.definitions import defs

    return defs().resolve_job_def("teardown")


def pin_job() -> dg.JobDefinition:
    """The job `pin`."""
    from llm_pipeline.definitions import defs

    return defs().resolve_job_def("pin")


JOBS = {"__ASSET_JOB": graph_job, "teardown": teardown_job, "pin": pin_job}


def main(order: str) -> int:
    """Runs the order to its end on the instance that DAGSTER_HOME names."""
    asked = json.loads(order)
    job = dg.reconstructable(JOBS[asked["job"]])
    assets = [dg.AssetKey(path) for path in asked["assets"]] or None
    with dg.DagsterInstance.get() as instance:
        result = dg.execute_job(job, instance=instance, run_config=asked["config"], tags=asked["tags"], asset_selection=assets, raise_on_error=False)
        return 0 if result.success else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
