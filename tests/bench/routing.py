"""What the router costs: the same questions through the endpoint and to the release's own port, in short turns."""

from __future__ import annotations

import http.client
import json
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from infra.local.launch import Service
from tests.bench import bare
from tests.bench.frame import Figure, Lab
from tests.life import clone as clones

TOKENS = 24

SHORT = (
    f"an answer of {TOKENS} tokens of the demo model lasts a tenth of a second, and clients, router and engine share two cores: what the row above adds once"
    " per request is a larger share of it than of an answer of any model that people run"
)


@dataclass(frozen=True)
class Turn:
    """Medians of one turn: milliseconds to the first token, milliseconds per later token; tokens per second of all clients together."""

    first: float
    token: float
    rate: float


def figures(lab: Lab) -> Iterator[Figure]:
    """Through the router against the release's own port, at 1 and 8 requests at once; Ray Serve against a bare server."""
    clone = clones.make(lab.folder / "routing")
    turns, requests = (2, 8) if lab.quick else (4 * lab.rounds, 8)
    try:
        clone.edit("demo", "kind: ray ", "kind: vllm")
        clone.edit("demo", "max_num_seqs: 4", "max_num_seqs: 8")
        clone.json("up", "demo")
        own = own_port(clone)
        for together in (1, 8):
            pairs = [(turn(clone.endpoint, together, requests), turn(own, together, requests)) for _ in range(turns)]
            yield from compared(f"router, {together} at once", pairs, "the release's own port", goals=True)
        argv = bare.command(clone)
        clone.json("down", "demo")
        clone.edit("demo", "kind: vllm", "kind: ray ")
        clone.json("up", "demo")
        own = own_port(clone)
        with bare.server(argv, lab.folder / "bare") as alone:
            for together in (1, 8):
                pairs = [(turn(own, together, requests), turn(alone.port, together, requests)) for _ in range(max(2, turns // 3))]
                yield from compared(f"Ray Serve, {together} at once", pairs, "a bare vLLM server beside it", goals=False)
    finally:
        clone.stop()


def compared(name: str, pairs: list[tuple[Turn, Turn]], of: str, *, goals: bool) -> Iterator[Figure]:
    """Three rows."""
    ours, other = [a for a, _ in pairs], [b for _, b in pairs]
    yield Figure(f"{name}: time to first token", "ms", tuple(t.first for t in ours), tuple(t.first for t in other), of, how="more", goal=3.0 if goals else None)
    yield Figure(f"{name}: time per output token", "ms", tuple(t.token for t in ours), tuple(t.token for t in other), of, goal=1.005 if goals else None)
    yield Figure(f"{name}: tokens per second", "1/s", tuple(t.rate for t in ours), tuple(t.rate for t in other), of, goal=0.995 if goals else None, at_least=True, why=SHORT if goals else "")


def own_port(clone: clones.Clone) -> int:
    """Where the release that serves listens itself."""
    service = json.loads(next((clone.home / "services").glob("*/service.json")).read_text())
    return Service.of(service).port("http")


def turn(port: int, together: int, requests: int) -> Turn:
    """So many streamed answers of equal length."""
    began = time.perf_counter()
    with ThreadPoolExecutor(together) as pool:
        rows = [row for rows in pool.map(lambda n: client(port, requests // together or 1), range(together)) for row in rows]
    wall = time.perf_counter() - began
    return Turn(1e3 * statistics.median(first for first, _ in rows), 1e3 * statistics.median(each for _, each in rows), TOKENS * len(rows) / wall)


def client(port: int, requests: int) -> list[tuple[float, float]]:
    """One kept connection: seconds to the first token and per later token, for each answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    body = json.dumps({"model": "demo", "prompt": "What is a release?", "max_tokens": TOKENS, "ignore_eos": True, "temperature": 0, "stream": True})
    out = []
    for _ in range(requests):
        began = time.perf_counter()
        connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
        answer, stamps = connection.getresponse(), []
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {answer.read()[:300]!r}")
        while line := answer.readline():
            if line.startswith(b"data: {"):
                stamps.append(time.perf_counter())
        out.append((stamps[0] - began, (stamps[-1] - stamps[0]) / (TOKENS - 1)))
    connection.close()
    return out
