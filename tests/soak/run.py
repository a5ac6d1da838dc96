"""The soak: acts for so many minutes, then the audit."""

from __future__ import annotations

import json
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.soak.acts import WEIGHTS
from tests.soak.world import MODELS, Sample, World, sample, world


@dataclass(frozen=True)
class Audit:
    """What came out. `wrong` empty: all is well."""

    requests: int
    excused: int
    acts: Counter[str]
    samples: tuple[Sample, ...]
    wrong: tuple[str, ...]

    def text(self) -> str:
        """A few lines for people."""
        half = len(self.samples) // 2
        before, after = self.samples[: half or 1], self.samples[half:]
        lines = [
            f"{self.requests} requests, {self.excused} of them failed while we had killed or taken down what they asked; 0 others" if not self.wrong else "NOT WELL",
            "acts: " + ", ".join(f"{name} {count}" for name, count in sorted(self.acts.items())),
            f"control plane and router, first half to second half: {middle(before, 'memory') / 1e6:.0f} to {middle(after, 'memory') / 1e6:.0f} MB, {middle(before, 'files'):.0f} to {middle(after, 'files'):.0f} open files",
        ]
        return "\n".join([*lines, *self.wrong])


def soak(folder: Path, minutes: float, seed: int, say: Callable[[str], None] = print) -> Audit:
    """Every act at least once when the time is long enough; the order is the seed's."""
    die, acts, samples = random.Random(seed), Counter[str](), list[Sample]()
    with world(folder) as here:
        stop = threading.Event()
        watcher = threading.Thread(target=watch, args=(here, samples, stop), daemon=True)
        watcher.start()
        end, pending = time.monotonic() + 60 * minutes, []
        while time.monotonic() < end:
            if not pending:
                pending = [act for act, weight in WEIGHTS.items() for _ in range(weight)]
                die.shuffle(pending)
            act = pending.pop()
            began = time.monotonic()
            said = act(here, die)
            acts[act.__name__] += 1
            say(f"{time.monotonic() - began:5.1f} s  {said}")
            for found in here.wrong[len(here.wrong) - 1 :]:
                say(f"         wrong: {found}")
        for model in MODELS:
            here.until(lambda model=model: here.answers(model), 120, f"an answer of {model} at the end")  # type: ignore[misc]
        stop.set()
        watcher.join()
        for load in here.loads.values():
            load.__exit__()
        return audit(here, acts, samples)


def watch(here: World, samples: list[Sample], stop: threading.Event) -> None:
    """A sample every ten seconds."""
    while not stop.wait(10):
        samples.append(sample(here.clone))


def audit(here: World, acts: Counter[str], samples: list[Sample]) -> Audit:
    """Every request answered or excused, every release in history, nothing left, memory and open files flat."""
    wrong = list(here.wrong)
    lost = here.lost()
    wrong += [f"{len(lost)} requests failed without an excuse: {[(m, round(a.ended - a.began, 2), a.why) for m, a in lost[:5]]}"] if lost else []
    for model in MODELS:
        known = {row["release"] for row in json.loads(here.clone.run("history", model, "--json").stdout)}
        wrong += [f"history of {model} does not know {missing}" for missing in sorted(here.served[model] - known)]
    wrong += growth(samples)
    down = here.clone.run("down", "--all", "--yes", "--json")
    left = json.loads(down.stdout)["left"] if down.stdout.strip() else [down.stderr[-500:]]
    wrong += [f"down left {left}"] if left or down.returncode else []
    here.clone.run("dagster", "stop")
    wrong += [f"processes are left: {here.clone.processes()}"] if here.clone.processes() else []
    failed = sum(len(load.failed) for load in here.loads.values())
    return Audit(sum(len(load.answers) for load in here.loads.values()), failed, acts, tuple(samples), tuple(wrong))


def growth(samples: list[Sample]) -> list[str]:
    """The last third holds no more than a fifth (and 60 MB, 20 files) more than the second third; Dagster is killed and started in between."""
    whole = [one for one in samples if one.processes >= max((s.processes for s in samples), default=0) - 1]
    third = len(whole) // 3
    if third < 3:
        return []
    middle_third, last = whole[third : 2 * third], whole[2 * third :]
    out = []
    for what, slack in (("memory", 60e6), ("files", 20.0)):
        before, after = middle(middle_third, what), middle(last, what)
        if after > 1.2 * before + slack:
            out.append(f"{what} grew from {before:.0f} to {after:.0f}")
    return out


def middle(samples: list[Sample] | tuple[Sample, ...], what: str) -> float:
    """The median of one column."""
    return statistics.median(getattr(one, what) for one in samples) if samples else 0.0
