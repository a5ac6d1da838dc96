"""The code location with many models: load time, memory, one tick of the loop; against as many bare assets."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infra.decisions import Decisions
from infra.local.records import LocalRecords
from tests.bench.frame import Figure, Lab
from tests.life import clone as clones
from tests.life.clone import Clone

SIZES = (1, 10, 100, 500)
TICKS = 5


def figures(lab: Lab) -> Iterator[Figure]:
    """Three rows per number of models."""
    for models in (1, 10) if lab.quick else SIZES:
        clone = declared(lab.folder / f"models-{models}", models)
        ours, bare = [], []
        for _ in range(lab.rounds):
            ours.append(probe(clone, "llm_pipeline.definitions", TICKS))
            bare.append(probe(clone, "tests.bench.bare_location", 0, MODELS=str(models)))
        of = "bare assets with the same keys, edges and checks"
        yield Figure(f"code location, {models} models: load", "s", column(ours, "seconds"), column(bare, "seconds"), of, goal=1.2, why="what is above: modules of ours and pydantic, about a quarter of a second; and reading each YAML")
        yield Figure(f"code location, {models} models: memory", "MB", column(ours, "bytes", 1e6), column(bare, "bytes", 1e6), of, goal=1.2)
        yield Figure(f"code location, {models} models: tick of the loop", "s", tuple(t for row in ours for t in row["ticks"]), how="value", goal=0.5, why="none of them wanted, all once taken down")


def declared(folder: Path, models: int) -> Clone:
    """A clone with so many models, each of which somebody once took down."""
    clone = clones.make(folder)
    here = clone.root / "assets" / "models"
    text = (here / "demo" / "defs.yaml").read_text()
    for other in ("qwen3_0_6b",) if models == 1 else ():
        (here / other / "defs.yaml").unlink()
    names = ["demo", *(["qwen3_0_6b"] if models > 1 else []), *(f"m{n}" for n in range(models - 2))]
    for name in names[2:]:
        (here / name).mkdir()
        (here / name / "defs.yaml").write_text(text.replace("autostart: true", "autostart: false"))
    records = LocalRecords(clone.home)
    for name in names:
        Decisions(records, name).want(False, "bench")
    return clone


def probe(clone: Clone, module: str, ticks: int, **more: str) -> dict[str, Any]:
    """One load in a process of its own."""
    env = {**clone.env, "PYTHONWARNINGS": "ignore", **more}
    done = subprocess.run([sys.executable, "-m", "tests.bench.location_probe", module, str(ticks)], cwd=clone.root, env=env, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise RuntimeError(f"{module} did not load: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def column(rows: list[dict[str, Any]], key: str, per: float = 1.0) -> tuple[float, ...]:
    return tuple(row[key] / per for row in rows)


