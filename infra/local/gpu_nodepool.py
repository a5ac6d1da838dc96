"""gpu_nodepool on this machine: whether a release fits, before anything is started. Nothing is made.

The rule, until the memory planner replaces it: weights × 1.1 + key/value cache + a fixed overhead measured once, per replica,
must fit into the memory that is free now, less a margin. CPUs are logical slots and never refuse; GPUs are counted.

Upstream     deployment            Downstream     ray_service
"""

from __future__ import annotations

import json
from pathlib import Path

from infra import engine
from infra.errors import CapacityError
from infra.local import machine
from infra.local.ray_service import LocalService
from infra.platform import Capacity, Release, WeightsPart
from infra.waiting import Progress

OVERHEAD = {"ray": 3_600 << 20, "vllm": 2_300 << 20}
"""Bytes that a release needs beside weights and cache: Ray head, Serve, engine, their Python (proportional set size, measured
with the demo model on Ray 2.60.0 and vLLM 0.32.0 without a GPU; docs/measurements.md)."""

MARGIN = 512 << 20
"""Bytes that stay free for the machine itself."""


class LocalCapacity:
    """`CapacityPart` as arithmetic over what is free."""

    def __init__(self, weights: WeightsPart, service: LocalService) -> None:
        self._weights, self._service = weights, service

    def observe(self, release: Release) -> Capacity | None:
        return self.room(release)

    def apply(self, release: Release, progress: Progress) -> Capacity:
        """Raises CapacityError with the numbers when the release can not fit even with everything else of its model gone."""
        found = self.room(release)
        if found.fits:
            return found
        others = tuple(state.release for state in self._service.running(release.model) if state.release != release.name)
        alone = self.room(release, without=others)
        if alone.fits:
            return Capacity(fits=True, why=f"only without {', '.join(others)}: {found.why}", needs=found.needs, free=found.free)
        running = [state.release for state in self._service.running() if state.release not in others]
        raise CapacityError(
            f"{release.name} does not fit on this machine", why=alone.why,
            next=("take another model down first: llm-pipeline down " + running[0].rsplit("-", 1)[0]) if running
            else "lower engine.max_model_len or max_num_seqs, or use a smaller or quantised model",
        )  # fmt: skip

    def delete(self, release: Release, progress: Progress) -> None:
        """Nothing was made."""

    def room(self, release: Release, without: tuple[str, ...] = ()) -> Capacity:
        if any(state.release == release.name and state.phase != "dead" for state in self._service.running(release.model)):
            return Capacity(fits=True, why="it runs already", needs=self._needs(release), free={})
        needs = self._needs(release)
        freed = sum(self._service.memory(name) for name in without)
        here = machine.look()
        free = {"memory": float(machine.memory_free() + freed - MARGIN), "gpus": float(len(here.gpus)), "cpus": float(here.cpus)}
        short = [name for name in ("memory", "gpus") if needs[name] > free[name]]
        return Capacity(fits=not short, why="; ".join(_sentence(name, needs[name], free[name]) for name in short or ("memory",)), needs=needs, free=free)

    def _needs(self, release: Release) -> dict[str, float]:
        spec = release.spec
        replicas = max(1, spec.replicas.min)
        if spec.resources.memory is not None:
            memory = float(spec.resources.memory)
        else:
            cache = 0 if release.needs_gpu else engine.kv_bytes(release, self._config(release))
            weights = 0 if release.needs_gpu else release.manifest.size * 1.1
            memory = weights + cache + OVERHEAD[spec.engine.kind]
        return {"memory": memory * replicas, "gpus": float(spec.resources.gpu or 0) * replicas, "cpus": float(spec.resources.cpu or 1) * replicas}

    def _config(self, release: Release) -> dict[str, object]:
        stored = self._weights.observe(release)
        path = Path(stored.path, "config.json") if stored else None
        return dict(json.loads(path.read_text())) if path and path.exists() else {}


def _sentence(name: str, need: float, free: float) -> str:
    if name == "gpus":
        return f"needs {need:.0f} GPUs, this machine has {free:.0f}"
    return f"needs {need / 2**30:.1f} GiB of memory, {max(0.0, free) / 2**30:.1f} GiB are free (less a margin of {MARGIN / 2**30:.1f} GiB)"
