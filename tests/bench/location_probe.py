"""What loading a code location costs: run in a process of its own, prints one line of JSON.

    python -m tests.bench.location_probe MODULE TICKS

Loads MODULE's `defs` as Dagster's code server does, makes the snapshot that it sends to webserver and daemon, and asks the loop TICKS times.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import warnings

START = time.perf_counter()


def main(module: str, ticks: int) -> None:
    warnings.simplefilter("ignore")
    import dagster as dg
    from dagster._core.definitions.reconstruct import ReconstructableRepository
    from dagster._core.remote_representation.external_data import RepositorySnap
    from dagster._serdes import serialize_value

    repository = ReconstructableRepository.for_module(module, "defs", os.getcwd()).get_definition()
    size = len(serialize_value(RepositorySnap.from_def(repository)))
    loaded = time.perf_counter() - START
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    took = []
    if ticks:
        sensor = repository.get_sensor_def("reconcile")
        with dg.DagsterInstance.ephemeral() as instance:
            for _ in range(ticks):
                began = time.perf_counter()
                sensor.evaluate_tick(dg.build_sensor_context(instance=instance, repository_def=repository))
                took.append(time.perf_counter() - began)
    print(json.dumps({"seconds": loaded, "bytes": memory, "snapshot": size, "ticks": took}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
