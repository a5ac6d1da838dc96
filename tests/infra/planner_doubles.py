"""Published models for the tests of the planner, read from planner_models/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from infra.planner import Architecture, Arguments, Gpu, catalogue, read_architecture

FOLDER = Path(__file__).parent / "planner_models"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
GIB = 1 << 30


def facts(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text())


def model(name: str, **changed: Any) -> Architecture:
    return read_architecture({**facts(name)["config"], **changed})


def gpu(name: str) -> Gpu:
    found = catalogue().gpu(name)
    assert found is not None
    return found


def told(**given: Any) -> Arguments:
    """What a small service says: 2,048 tokens per step, 16 requests."""
    return Arguments(**{"max_model_len": 8192, "max_num_seqs": 16, "max_num_batched_tokens": 2048, **given})
