"""A clone with a real Dagster, a real router and scripted engines, under load: what the soak works on.

Scripted engines start in a second, so that minutes hold what takes days with real ones. Everything else is the product's own.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from infra.decisions import Decisions
from infra.documents import ReleaseRecord
from infra.local.image_build import SERVING, digest, pins, recipes
from infra.local.records import LocalRecords
from tests.doubles import ray_engine
from tests.doubles.model import lay_model
from tests.life import clone as clones
from tests.life.clone import Clone
from tests.life.load import Answer, Load

VERSIONS = ("v1", "v2", "v3")
MODELS = ("demo", "twin")


@dataclass(frozen=True)
class Excuse:
    """Between these moments this model (None: every model) was dead or down because the soak did that."""

    model: str | None
    since: float
    until: float


@dataclass
class World:
    """The clone, the load on each model, and what was done to them."""

    clone: Clone
    loads: dict[str, Load]
    versions: dict[str, str] = field(default_factory=lambda: dict.fromkeys(MODELS, VERSIONS[0]))
    sequences: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MODELS, 4))
    excuses: list[Excuse] = field(default_factory=list)
    served: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in MODELS})
    wrong: list[str] = field(default_factory=list)

    def declare(self, model: str, *, answer: str = "pong", text: str | None = None) -> None:
        """Writes the declaration as it should be, with another answer of the engine, or as a text that is none."""
        attributes = {
            "cluster": "local", "autostart": True, "weights": f"file://../weights/{self.versions[model]}", "resources": {"memory": "64Mi"},
            "engine": {"kind": "vllm", "max_model_len": 512, "max_num_seqs": self.sequences[model], "extra": {"answers": f'{{"ping": "{answer}"}}'}},
            "acceptance": {"golden": [{"prompt": "ping", "answer": "pong"}]}, "release": {"drain_seconds": 10, "keep_previous": 2},
        }  # fmt: skip
        written = yaml.safe_dump({"type": "llm_pipeline.components.Model", "attributes": attributes})
        path = self.clone.root / "assets" / "models" / model / "defs.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(written if text is None else text)

    def up(self, model: str, expect: int = 0, verb: str = "up") -> dict[str, Any]:
        """`up`, or `retry`; notes which release serves then."""
        done = self.clone.run(verb, model, "--json")
        found = yaml.safe_load(done.stdout) if done.stdout.strip() else {}
        if done.returncode != expect:
            self.wrong.append(f"{verb} {model} ended with {done.returncode}, not {expect}: {done.stdout[-600:]} {done.stderr[-600:]}")
        elif expect == 0:
            self.served[model].add(found["release"])
        return dict(found)

    def live(self, model: str) -> ReleaseRecord:
        """What is written down about the release that serves."""
        decisions = Decisions(LocalRecords(self.clone.home), model)
        found = decisions.release(decisions.live.release) if decisions.live else None
        assert found, f"{model} has no live release"
        return found

    def pids(self, part: str, name: str = "") -> list[int]:
        """Living processes of one part of this clone."""
        return sorted(pid for pid, mark in self.clone.processes().items() if f":{part}:{name}" in mark)

    def answers(self, model: str) -> bool:
        """Whether the model answers through the stable address."""
        try:
            with httpx.Client(trust_env=False, timeout=10) as client:
                return client.post(f"{self.clone.url}/completions", json={"model": model, "prompt": "ping", "max_tokens": 1}).status_code == 200
        except httpx.HTTPError:
            return False

    def until(self, probe: Callable[[], bool], seconds: float, what: str) -> bool:
        """Waits; what does not happen is written down."""
        end = time.monotonic() + seconds
        while not probe():
            if time.monotonic() > end:
                self.wrong.append(f"{what} did not happen within {seconds:.0f} s")
                return False
            time.sleep(0.5)
        return True

    @contextmanager
    def excused(self, model: str | None) -> Iterator[None]:
        """What fails meanwhile fails because of us; a second before and after belongs to it."""
        since = time.time()
        try:
            yield
        finally:
            self.excuses.append(Excuse(model, since - 1, time.time() + 1))

    def lost(self) -> list[tuple[str, Answer]]:
        """Requests that failed and have no excuse."""
        out = []
        for model, load in self.loads.items():
            mine = [excuse for excuse in self.excuses if excuse.model in (model, None)]
            out += [(model, answer) for answer in load.failed if not any(answer.began < e.until and answer.ended > e.since for e in mine)]
        return out


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Brought up with its load; ends with nothing of it left, whatever happened."""
    clone = scripted(folder)
    made = World(clone, {name: Load(clone.url, name, long_when=lambda: False, pause=0.4) for name in MODELS})
    try:
        for name in MODELS:
            made.declare(name)
        started = clone.run("dagster", "start")
        assert started.returncode == 0, started.stderr
        for name in MODELS:
            made.up(name)
        for load in made.loads.values():
            load.__enter__()
        yield made
    finally:
        for load in made.loads.values():
            load.__exit__()
        clone.stop()
        for pid in clone.processes():
            os.kill(pid, signal.SIGKILL)


def scripted(folder: Path) -> Clone:
    """A clone with a cache of its own, in which the image is scripted, and three versions of weights."""
    clone = clones.make(folder / "clone")
    clone.more["LLM_PIPELINE_CACHE"] = str(folder / "cache")
    ray_engine.image(folder / "cache", digest(pins(recipes(SERVING)["cpu"].lock)))
    arguments = clone.root / "infra" / "serving" / "engine_arguments.txt"
    arguments.write_text(arguments.read_text().rstrip("\n") + "\nanswers\nscripted\n")
    for other in (clone.root / "assets" / "models").iterdir():
        if other.is_dir():
            subprocess.run(["rm", "-r", str(other)], check=True)
    for seed, version in enumerate(VERSIONS):
        lay_model(clone.root / "assets" / "models" / "weights" / version, seed)
    return clone


@dataclass(frozen=True)
class Sample:
    """What the control plane and the router hold at one moment: proportional memory in bytes, open files, processes."""

    at: float
    memory: int
    files: int
    processes: int


def sample(clone: Clone) -> Sample:
    """Webserver, daemon, code server and router; engines come and go, and runs with them."""
    memory = files = count = 0
    for pid, mark in clone.processes().items():
        if not re.search(r":(dagster|endpoint):", mark):
            continue
        try:
            process = psutil.Process(pid)
            if "run_worker" in (words := " ".join(process.cmdline())) or "execute" in words or "forkserver" in words or "spawn_main" in words:
                continue
            memory, files, count = memory + process.memory_full_info().pss, files + process.num_fds(), count + 1
        except psutil.Error:
            continue
    return Sample(time.time(), memory, files, count)


