"""The acceptance ladder: questions to a candidate on its own address, rung by rung, each with its evidence.

Asked greedily (temperature 0) over plain HTTP, as a client would. A rung says passed or not and why; it never raises for what the
candidate does wrong. Rungs after a failed `healthy` are not asked. Transient comes out when a server in between refuses for reasons of its own.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx

from infra import engine
from infra.errors import Transient, redact
from infra.platform import Release, ServicePart
from infra.specs import Golden
from infra.states import ServiceState
from infra.waiting import Progress, retry

ANSWER_SECONDS = 120.0
"""For one answer of a candidate: the first one may still compile something."""

WAY = (Transient, httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout)
"""What breaks on the way there and says nothing of the candidate. An answer that takes too long is its own."""

TRIES, PAUSE = 4, 1.0
"""A rung is asked again when the way breaks, after 1, 2 and 3 seconds."""


@dataclass(frozen=True)
class Rung:
    """One rung climbed or not. `name` is the asset check's name."""

    name: str
    passed: bool
    why: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """How the candidate is reached, and what it should be. `client`: given seconds for each wait, one whose paths begin at its root."""

    release: Release
    client: Callable[[float], httpx.Client]
    arguments: Mapping[str, str]

    def post(self, path: str, body: Mapping[str, Any], timeout: float = ANSWER_SECONDS) -> httpx.Response:
        """One request on a connection of its own, past every proxy."""
        with self.client(timeout) as client:
            return client.post(path, json=dict(body))

    def asked(self, prompt: str, **more: Any) -> dict[str, Any]:
        """The whole answer to one greedy chat question. Raises ValueError with the status and the engine's own words when it refuses."""
        answer = self.post("/v1/chat/completions", self.chat(prompt, **more))
        if answer.status_code != 200:
            raise ValueError(f"{answer.status_code}: {engine.clean(answer.text)}")
        return dict(answer.json())

    def chat(self, prompt: str, **more: Any) -> dict[str, Any]:
        """The body of one greedy chat question."""
        return {"model": self.release.served_name, "messages": [{"role": "user", "content": prompt}], "temperature": 0, **more}


def candidate(release: Release, state: ServiceState, service: ServicePart) -> Candidate:
    """The candidate behind a service's own address."""
    return Candidate(release, partial(service.client, state), state.arguments)


LADDER: dict[str, str] = {
    "healthy": "The candidate answers at all.",
    "serves_the_declared_name": "Its list of models names what clients will ask for.",
    "golden_answers": "Known questions get their known answers, greedily.",
    "streams": "A streamed answer arrives in pieces and says that it is done.",
    "counts_tokens": "Answers carry token usage numbers that add up.",
    "live_arguments_as_declared": "The arguments that the engine itself reports equal the declared ones.",
    "within_slo": "The declared bounds hold.",
    "required_checks_passed": "The asset checks elsewhere that acceptance.requires names have passed.",
}
"""Check names in the order of the ladder, with what each states."""


def climb(asked: Candidate, progress: Progress) -> Iterator[Rung]:
    """The whole ladder. Ends after `healthy` when that fails, since nothing else could be asked."""
    first = healthy(asked, progress)
    yield first
    if not first.passed:
        return
    rungs: tuple[Callable[[Candidate], Rung], ...] = (served_name, golden_answers, streams, counts_tokens, live_arguments, within_slo)
    for rung in rungs:
        try:
            yield retry(partial(rung, asked), attempts=TRIES, pause=PAUSE, on=WAY, progress=progress)
        except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
            yield Rung(_name_of(rung), passed=False, why=f"no usable answer: {type(error).__name__}: {redact(str(error))[:200]}")


def healthy(asked: Candidate, progress: Progress) -> Rung:
    """One token, from the engine itself."""
    try:
        return retry(partial(one_token, asked), attempts=TRIES, pause=PAUSE, on=WAY, progress=progress)
    except httpx.HTTPError as error:
        return Rung("healthy", passed=False, why=f"no answer: {type(error).__name__}: {error}")


def one_token(asked: Candidate) -> Rung:
    """Asked once."""
    began = time.monotonic()
    answer = asked.post("/v1/completions", engine.one_token(asked.release))
    took = time.monotonic() - began
    good = answer.status_code == 200
    return Rung("healthy", good, "one token answered" if good else f"{answer.status_code}: {engine.clean(answer.text)}", {"seconds": round(took, 3)})


def served_name(asked: Candidate) -> Rung:
    """The name in /v1/models."""
    with asked.client(30) as client:
        names = [row["id"] for row in client.get("/v1/models").json()["data"]]
    wanted = asked.release.served_name
    return Rung("serves_the_declared_name", wanted in names, f"it serves {', '.join(names)}" + ("" if wanted in names else f", not {wanted}"))


def golden_answers(asked: Candidate) -> Rung:
    """Every declared question; the first wrong answer is told at length, two more by their beginning."""
    golden = asked.release.spec.acceptance.golden
    wrong: list[str] = []
    for row in golden:
        answer = asked.asked(row.prompt, max_tokens=_budget(asked))
        text = answer["choices"][0]["message"]["content"] or ""
        if not fits(row, text):
            wrong.append(f"{row.prompt!r}: expected {expected(row)}, got {text[: 40 if wrong else 200]!r}")
    told = "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")
    return Rung("golden_answers", not wrong, told or f"{len(golden)} of {len(golden)} as expected", {"asked": len(golden), "wrong": len(wrong)})


def fits(row: Golden, text: str) -> bool:
    """Whether an answer is right."""
    if row.answer is not None:
        return text == row.answer
    if row.contains is not None:
        return row.contains in text
    return bool(re.search(row.matches or "", text))


def expected(row: Golden) -> str:
    """What would have been right, in words."""
    if row.answer is not None:
        return repr(row.answer)
    return f"something with {row.contains!r}" if row.contains is not None else f"something that matches {row.matches!r}"


def streams(asked: Candidate) -> Rung:
    """Server-sent events, the last one [DONE], with usage when asked for."""
    body = asked.chat(_question(asked), max_tokens=32, stream=True, stream_options={"include_usage": True})
    pieces, ended, usage, first = 0, False, None, 0.0
    began = time.monotonic()
    with asked.client(ANSWER_SECONDS) as client, client.stream("POST", "/v1/chat/completions", json=body) as answer:
        for line in answer.iter_lines():
            if not line.startswith("data:"):
                continue
            data = line[5:].strip()
            if data == "[DONE]":
                ended = True
                break
            event = json.loads(data)
            usage = event.get("usage") or usage
            if any(choice.get("delta", {}).get("content") for choice in event.get("choices", ())):
                first = first or time.monotonic() - began
                pieces += 1
    good = ended and pieces > 0
    why = f"{pieces} pieces" if good else "the stream did not end with [DONE]" if pieces else "no piece arrived"
    return Rung("streams", good, why, {"pieces": pieces, "ttft_ms": round(first * 1000, 1)})


def counts_tokens(asked: Candidate) -> Rung:
    """prompt + completion = total, and both were counted."""
    usage = asked.asked(_question(asked), max_tokens=16)["usage"]
    prompt, completion, total = usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]
    good = prompt > 0 and completion > 0 and prompt + completion == total
    return Rung("counts_tokens", good, f"{prompt} + {completion} = {total}" if good else f"prompt {prompt}, completion {completion}, total {total}")


def live_arguments(asked: Candidate) -> Rung:
    """What the engine printed about itself when it started, not what was sent to it."""
    if not asked.arguments:
        return Rung("live_arguments_as_declared", passed=False, why="the engine's report of its arguments was not found in its log")
    off = engine.differences(asked.release, asked.arguments)
    declared = {**engine.arguments(asked.release), "served_model_name": asked.release.served_name}
    reported = [name for name in declared if engine.REPORTED.get(name, name) in asked.arguments]
    told = "; ".join(f"{name}: declared {want}, live {have}" for name, (want, have) in off.items())
    silent = sorted(set(declared) - set(reported))
    return Rung("live_arguments_as_declared", not off, told or f"{len(reported)} compared", {"compared": ", ".join(reported), "not reported by the engine": ", ".join(silent) or "none"})


def within_slo(asked: Candidate) -> Rung:
    """Time to the first streamed token, the median of three."""
    slo = asked.release.spec.acceptance.slo
    times = sorted(float(streams(asked).facts["ttft_ms"]) for _ in range(3))
    if slo.ttft_ms is not None and times[0] == 0:
        return Rung("within_slo", passed=False, why="a streamed answer had no token to measure", facts={"ttft_ms": times[1]})
    good = slo.ttft_ms is None or times[1] <= slo.ttft_ms
    bound = f"bound {slo.ttft_ms:,.0f} ms" if slo.ttft_ms is not None else "no bound declared"
    return Rung("within_slo", good, f"first token after {times[1]:,.0f} ms ({bound})", {"ttft_ms": times[1]})


def _question(asked: Candidate) -> str:
    golden = asked.release.spec.acceptance.golden
    return golden[0].prompt if golden else "Say hello."


def _budget(asked: Candidate) -> int:
    """Tokens for a golden answer: half of the context, at most 256."""
    return min(256, (asked.release.spec.engine.max_model_len or 512) // 2)


def _name_of(rung: Callable[[Candidate], Rung]) -> str:
    names: dict[Callable[[Candidate], Rung], str] = {served_name: "serves_the_declared_name", live_arguments: "live_arguments_as_declared"}
    return names.get(rung, rung.__name__)
