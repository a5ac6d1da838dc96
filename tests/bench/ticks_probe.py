"""What the ticks of the sensors cost: run in a process of its own, prints one line of JSON.

    python -m tests.bench.ticks_probe MODELS ROUNDS

Makes a clone on the double platform in which every model serves, and ticks each sensor: so often with nothing new, so often after a push to
the source of one model, as it passes from sensor to sensor: it is admitted, a run is asked for, and (when it is live) it is told to a receiver on loopback.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from pathlib import Path

import dagster as dg
import pytest

from llm_pipeline import notices
from tests.assets.clone import Clone, make
from tests.doubles.webhook import Receiver

SENSORS = ("revisions", "reconcile", "notices")


class Ticks:
    """The sensors of a clone, with what each remembers."""

    def __init__(self, clone: Clone) -> None:
        self._clone, self._cursors = clone, dict.fromkeys(SENSORS)
        self._sensors = {"notices": next(iter(notices.build().sensors or ()))} | {name: clone.defs.resolve_sensor_def(name) for name in SENSORS[:2]}

    def __call__(self, name: str) -> tuple[float, dg.SensorResult]:
        """CPU seconds of one tick, and what it answered."""
        began = time.process_time()
        with dg.build_sensor_context(instance=self._clone.instance, cursor=self._cursors[name]) as context:
            found = self._sensors[name](context)
        took = time.process_time() - began
        assert isinstance(found, dg.SensorResult)
        self._cursors[name] = found.cursor  # type: ignore[assignment]
        return took, found


def main(models: int, rounds: int) -> None:
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="ticks-") as folder, pytest.MonkeyPatch.context() as patch, Receiver() as receiver:
        patch.setenv("LLM_PIPELINE_WEBHOOK_URL", receiver.url)
        clone, close = make(Path(folder), patch)
        try:
            print(json.dumps(measured(clone, models, rounds)))
        finally:
            close()
        assert len(receiver.taken) == rounds, receiver.wrong or f"{len(receiver.taken)} of {rounds} rollouts were told"


def measured(clone: Clone, models: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """The readings per sensor."""
    names = ["demo", *(f"m{n}" for n in range(models - 1))]
    for name in names:
        clone.declare(name, served_name=name)
    for name in names:
        clone.serve(name)
    tick = Ticks(clone)
    for name in SENSORS:
        tick(name)  # the first one writes what there was nothing of
    quiet = {name: [tick(name)[0] for _ in range(rounds)] for name in SENSORS}
    changed: dict[str, list[float]] = {name: [] for name in SENSORS}
    for number in range(rounds):
        clone.world.source["demo"] = f"v{number + 2}"
        for name in SENSORS:
            if name == "notices":
                clone.serve("demo")  # what the run that was asked for leaves
            took, found = tick(name)
            assert name != "reconcile" or found.run_requests
            changed[name].append(took)
    return {name: {"quiet": quiet[name], "changed": changed[name]} for name in SENSORS}


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
