"""Main memory of one replica without a GPU, before it runs: the planner's arithmetic over what was measured. Pure; shared by every platform."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from infra import engine
from infra.planner import CpuPlan, plan_cpu, read_architecture, read_arguments
from infra.platform import Release

OVERHEAD = {"ray": 3_600 << 20, "vllm": 2_300 << 20}
"""Bytes that a release needs beside weights and cache: Ray head, Serve, engine, their Python (proportional set size, measured
with the demo model on Ray 2.60.0 and vLLM 0.32.0 without a GPU; docs/measurements.md)."""


def planned(release: Release, config: Mapping[str, Any]) -> CpuPlan:
    """What one replica needs without a GPU. `config`: the weights' config.json; empty: only the size of the files is known."""
    model, told = read_architecture(config), read_arguments(engine.arguments(release))
    return plan_cpu(model, told, overhead=OVERHEAD[release.spec.engine.kind], size=release.manifest.size)
