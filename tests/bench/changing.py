"""What clients notice of a version change: failed requests, and how long nobody began to be answered."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import pairwise

from tests.bench.frame import Figure, Lab
from tests.life import clone as clones
from tests.life.load import Answer, Load


def figures(lab: Lab) -> Iterator[Figure]:
    """Changes of version under steady load with the real engine, against the same load without one."""
    clone = clones.make(lab.folder / "changing")
    changes = 1 if lab.quick else lab.rounds
    failed, with_change, without = [], [], []
    try:
        clone.run("dagster", "start")
        clone.json("up", "demo")
        versions = ["v1", "v2"]
        for _ in range(changes):
            clone.edit("demo", f"file://weights/{versions[0]}", f"file://weights/{versions[1]}")
            versions.reverse()
            with Load(clone.url, "demo", long_when=lambda: False, pause=0.1) as load:
                began = time.time()
                clone.json("up", "demo")
            took = time.time() - began
            with Load(clone.url, "demo", long_when=lambda: False, pause=0.1) as calm:
                time.sleep(min(took, 45))
            failed.append(float(len(load.failed)))
            with_change.append(1e3 * longest_gap(load.answers))
            without.append(1e3 * longest_gap(calm.answers))
    finally:
        clone.stop()
    yield Figure("version change: failed requests", "", tuple(failed), how="value", goal=0, why="four clients, streamed and not, kept connections and new ones")
    yield Figure(
        "version change: longest time between starts of answers", "ms", tuple(with_change), tuple(without), "the same load without a change", how="more", goal=250,
        why="while the candidate starts it shares the two cores with the engine that serves",
    )  # fmt: skip


def longest_gap(answers: Sequence[Answer]) -> float:
    """Seconds between the beginnings of two consecutive good answers, at most."""
    starts = sorted(answer.first for answer in answers if answer.good)
    return max((b - a for a, b in pairwise(starts)), default=0.0)
