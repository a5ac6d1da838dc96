"""From a fresh clone to the first answer: `make up` against doing the least by hand: a virtual environment, the engine's lock, a bare server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

from infra.local.image_build import pins
from tests.bench import bare
from tests.bench.frame import Figure, Lab
from tests.life import clone as clones
from tests.life.clone import Clone


def figures(lab: Lab) -> Iterator[Figure]:
    """Once: each side installs several gigabytes."""
    if lab.quick:
        return
    clone = clones.make(lab.folder / "fresh", LLM_PIPELINE_CACHE="")
    env = {**clone.env, "LLM_PIPELINE_CACHE": str(clone.home / "cache")}
    env.pop("PYTHONPATH")
    try:
        began = time.monotonic()
        subprocess.run(["make", "up", f"PYTHON={sys.executable}"], cwd=clone.root, env=env, check=True, stdout=subprocess.DEVNULL, timeout=1800)
        ours = time.monotonic() - began
        argv = plain(clone, env)
    finally:
        subprocess.run(["make", "down"], cwd=clone.root, env=env, check=False, stdout=subprocess.DEVNULL, timeout=300)
    yield Figure(
        "fresh clone: make up", "s", (ours,), (by_hand(lab, clone, argv),), "pip install of the engine's lock, then plain vLLM to its first answer", goal=1.2,
        why="one reading each; ours also installs the control plane and starts Dagster and Ray",
    )  # fmt: skip


def plain(clone: Clone, env: dict[str, str]) -> list[str]:
    """The command line of a plain server with the demo's arguments."""
    clone.edit("demo", "kind: ray ", "kind: vllm")
    subprocess.run([str(clone.root / ".venv/bin/llm-pipeline"), "up", "demo"], cwd=clone.root, env=env, check=True, stdout=subprocess.DEVNULL, timeout=600)
    return bare.command(clone)


def by_hand(lab: Lab, clone: Clone, argv: list[str]) -> float:
    """Seconds for the least that somebody does without this product."""
    folder = lab.folder / "by-hand"
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    quiet = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    lock = clone.root / "infra" / "serving" / "cpu.lock"
    torch = next(pin for pin in pins(lock) if pin.startswith("torch=="))
    for what in ([f"{torch}+cpu"], ["--no-deps", "-r", str(lock)]):  # the lock leaves out what its packages name and would break them
        subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", *what], check=True, env=quiet, timeout=1800)
    with bare.server([str(folder / "bin" / "python"), *argv[1:]], lab.folder / "by-hand-home"):
        return time.monotonic() - began
