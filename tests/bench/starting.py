"""How long until the first answer: `up` with the image at hand against a bare vLLM server; `up` with nothing to do; healing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from tests.bench import bare
from tests.bench.frame import Figure, Lab
from tests.life import clone as clones
from tests.life.clone import Clone
from tests.life.test_life import kill_engine

STORY = "plain vLLM with the same arguments, to its first answer"


def figures(lab: Lab) -> Iterator[Figure]:
    """Both kinds of engine, with Dagster running, as after `make up`."""
    clone = clones.make(lab.folder / "starting")
    try:
        clone.run("dagster", "start")
        yield from started(lab, clone)
    finally:
        clone.stop()


def started(lab: Lab, clone: Clone) -> Iterator[Figure]:
    """`kind: vllm` and the bare server in turns, then `kind: ray`, then what a running one costs."""
    rounds = 1 if lab.quick else lab.rounds
    clone.edit("demo", "kind: ray ", "kind: vllm")
    lab.say("the first start fills the caches")
    clone.json("up", "demo")
    argv = bare.command(clone)
    plain, alone = [], []
    for _ in range(rounds):
        clone.json("down", "demo")
        with bare.server(argv, lab.folder / "bare") as running:
            alone.append(running.seconds)
        plain.append(seconds(clone, "up", "demo"))
    yield Figure("cold start, engine.kind vllm: up", "s", tuple(plain), tuple(alone), STORY, goal=1.10, why=explained(clone, plain[-1]))
    clone.json("down", "demo")
    clone.edit("demo", "kind: vllm", "kind: ray ")
    ray = []
    for n in range(rounds):
        ray.append(seconds(clone, "up", "demo"))
        if n + 1 < rounds:
            clone.json("down", "demo")
    yield Figure("cold start, engine.kind ray: up", "s", tuple(ray), tuple(alone), STORY, goal=1.10, why=explained(clone, ray[-1], RAY))
    yield Figure("up with nothing to do", "s", tuple(seconds(clone, "up", "demo") for _ in range(lab.rounds)), how="value", goal=5)
    yield healed(clone, rounds)


def seconds(clone: Clone, *words: str) -> float:
    """One command, as typed, to its end."""
    began = time.monotonic()
    clone.json(*words)
    return time.monotonic() - began


RAY = "; Ray starts its processes one after the other, and four of them (builder of the application, replica, core, worker) import vLLM and torch, as the bare server does once or twice"
RUN = (
    "the other {seconds:.0f} s are the command, Dagster's run worker and the server that it forks steps from (they import the graph: 5 s), nine steps,"
    " the acceptance ladder, the router, and the last look; they do not grow with the model"
)


def explained(clone: Clone, took: float, more: str = "") -> str:
    """Where the seconds of the last start went, from its own record, and what the run around it took."""
    release = clone.json("history", "demo")[0]["release"]
    ready = clone.home / "services" / f"demo-{release}" / "ready.json"
    phases = json.loads(ready.read_text())["phases"]
    longest = sorted(phases.items(), key=lambda item: -item[1])[:5]
    inside = sum(phases.values())
    told = f"of the last one's {took:.0f} s the release took {inside:.0f}: " + ", ".join(f"{name} {value:.0f}" for name, value in longest)
    return f"{told}{more}; {RUN.format(seconds=took - inside)}"


def healed(clone: Clone, rounds: int) -> Figure:
    """From the SIGKILL of the engine's core to the first answer through the endpoint; the loop does it, nobody says a word."""
    took, starts = [], []
    for _ in range(rounds):
        began = time.monotonic()
        kill_engine(clone)
        time.sleep(1)  # until the dead engine has refused something, its port may still answer
        bare.answered(clone.endpoint, "demo", until=began + 300)
        took.append(time.monotonic() - began)
        starts.append(start_seconds(clone, after=began))
        clone.json("up", "demo")  # until the run that healed it is over
    return Figure("heal: SIGKILL of the engine to the next answer", "s", tuple(took), tuple(starts), "the start of the same release", goal=None)


def start_seconds(clone: Clone, after: float) -> float:
    """Seconds of the start of the release that serves, as soon as they are written down: the engine answers a moment earlier."""
    while time.monotonic() < after + 300:
        for ready in (clone.home / "services").glob("*/ready.json"):
            return float(sum(json.loads(ready.read_text())["phases"].values()))
        time.sleep(0.5)
    raise RuntimeError("the healed release never said how long its start took")
