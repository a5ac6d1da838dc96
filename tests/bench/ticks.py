"""What one tick of each sensor costs, with many models that all serve: nothing new, and one of them changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from infra.settings import ROOT
from llm_pipeline import automation, notices, revisions
from tests.bench.frame import Figure, Lab

SIZES = (50, 500)
EVERY = {"revisions": revisions.EVERY, "reconcile": automation.EVERY, "notices": notices.EVERY}
"""The sensors in the order in which a push passes through them, with the seconds between two ticks."""

GOALS = {("revisions", 50): 0.2, ("notices", 50): 0.1}
"""CPU seconds of a tick with nothing new; with more models it has to end before the next one."""


def figures(lab: Lab) -> Iterator[Figure]:
    """Two rows per sensor and number of models, the changed one beside the quiet one."""
    of = "the same with nothing new"
    why = "CPU seconds of the whole process, of models that serve, each with its records on this disk. Platform and sources answer from memory: what they take comes on top"
    for models in (2, 10) if lab.quick else SIZES:
        found = probe(models, lab.rounds)
        for sensor, every in EVERY.items():
            quiet, changed = tuple(found[sensor]["quiet"]), tuple(found[sensor]["changed"])
            name, each = f"tick of {sensor}, {models} models", 1000 * sorted(quiet)[len(quiet) // 2] / models
            yield Figure(f"{name}: nothing new", "s", quiet, how="value", goal=GOALS.get((sensor, models), every), why=f"{each:.2f} ms per model. {why}")
            yield Figure(f"{name}: one changed", "s", changed, quiet, of, how="more")


def probe(models: int, rounds: int) -> dict[str, Any]:
    """All ticks in a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    argv = [sys.executable, "-m", "tests.bench.ticks_probe", str(models), str(rounds)]
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1800, check=False)
    if done.returncode:
        raise RuntimeError(f"{models} models: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))
