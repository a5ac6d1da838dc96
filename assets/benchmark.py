"""benchmark: how fast the endpoint answers. On demand only; never part of `up`.

Upstream     endpoint
Numbers      time to first token and output tokens per second, at 1 and 4 requests at once
"""

import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import dagster as dg
import httpx

from assets.stage import stage
from assets.step import Done, Model, Work
from infra.errors import Transient

REQUESTS = 16


@dataclass(frozen=True)
class Sample:
    """One streamed answer: seconds to its first token and in all, and how many tokens it had."""

    first: float
    total: float
    tokens: int


def build(model: Model) -> dg.Definitions:
    """The stage."""
    return dg.Definitions([stage(
        model, "benchmark", measure, after=["endpoint"], kinds={"python"}, description="How fast the endpoint answers; materialise it when you want to know.",
    )])  # fmt: skip


def measure(work: Work) -> Done:
    """16 streamed answers one after the other, then four at a time."""
    numbers: dict[str, float] = {}
    for together in (1, 4):
        work.progress.phase(f"{together} at once", f"{REQUESTS} requests")
        began = time.monotonic()
        with ThreadPoolExecutor(together) as pool:
            samples = list(pool.map(lambda _: ask(work), range(REQUESTS)))
        wall = time.monotonic() - began
        numbers |= {
            f"ttft_ms_p50_{together}": round(1000 * statistics.median(s.first for s in samples), 1),
            f"ttft_ms_max_{together}": round(1000 * max(s.first for s in samples), 1),
            f"tokens_per_second_{together}": round(sum(s.tokens for s in samples) / wall, 1),
            f"requests_per_second_{together}": round(REQUESTS / wall, 2),
        }
    live = work.decisions.live
    return Done(f"{live.release if live else 'none'}-{int(time.time())}", changed=True, page={"release": live.release if live else "none", **numbers})


def ask(work: Work) -> Sample:
    """One streamed answer through the public address."""
    golden = work.model.spec.acceptance.golden
    prompt = golden[0].prompt if golden else "Tell me something."
    body = {
        "model": work.model.spec.served_name, "messages": [{"role": "user", "content": prompt}], "stream": True, "max_tokens": 64, "temperature": 0,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    began, first, tokens = time.monotonic(), 0.0, 0
    try:
        with work.platform.endpoint.client(work.model.name, 300) as client, client.stream("POST", "/chat/completions", json=body) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    event = json.loads(line[6:])
                    first = first or time.monotonic() - began
                    tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    except httpx.HTTPError as error:
        raise Transient(f"the endpoint broke off: {error}", next=f"llm-pipeline status {work.model.name}") from error
    return Sample(first, time.monotonic() - began, tokens)
