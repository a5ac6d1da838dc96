"""What passes through: streams as they are sent, exact counts, aborts, dying engines, flips under load."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from infra.router import ReleaseState, Up, Waiting
from tests.doubles.engine import engine
from tests.doubles.router import CHAT, Stack, chat, free_ports, routed, until

pytest_plugins = ("tests.doubles.router_fixtures",)


def counted(stack: Stack, release: str = "demo-a") -> ReleaseState:
    return stack.router.client.state().releases.get(release, ReleaseState(0, 0, 0, 0))


@contextmanager
def streaming(stack: Stack, **headers: str) -> Iterator[Iterator[str]]:
    """An answer under way: its tokens as they come, the first of them already here."""
    with (
        httpx.Client(trust_env=False, timeout=20) as client,
        client.stream(
            "POST", stack.url + CHAT, json=chat(stream=True), headers={k.replace("_", "-"): v for k, v in headers.items()}
        ) as answer,
    ):
        tokens = _tokens(answer)
        yield itertools.chain([next(tokens)], tokens)


def _tokens(answer: httpx.Response) -> Iterator[str]:
    for line in answer.iter_lines():
        if line.startswith("data: {") and (token := json.loads(line[6:])["choices"][0]["delta"]["content"]):
            yield token


def test_tokens_arrive_as_they_are_made(stack: Stack) -> None:
    """Sent 200 ms apart they arrive apart: nothing is collected on the way."""
    stack.route(demo=stack.to_a)

    with streaming(stack, x_gap_ms="200") as tokens:
        times = [time.monotonic() for _ in tokens]

    assert len(times) == 3
    assert min(b - a for a, b in itertools.pairwise(times)) > 0.1


def test_what_is_in_flight_is_counted_exactly(stack: Stack) -> None:
    """The count that decides about draining: up with each stream, down with its end and with a client that leaves."""
    stack.route(demo=stack.to_a)
    before = counted(stack)
    aborted = len(stack.a.log()["aborted"])

    with streaming(stack, x_gap_ms="300") as first:
        with streaming(stack, x_gap_ms="20000"), streaming(stack, x_gap_ms="20000"):
            during, engine_during = counted(stack), stack.a.log()["running"]
        until(lambda: counted(stack).in_flight == 1)
        until(lambda: len(stack.a.log()["aborted"]) == aborted + 2)
        list(first)
    until(lambda: counted(stack).in_flight == 0)

    assert (during.in_flight, engine_during) == (3, 3)
    after = counted(stack)
    assert (after.total - before.total, after.failed - before.failed) == (3, 0)
    assert after.bytes_out > before.bytes_out


@pytest.mark.parametrize("stream", [True, False])
def test_an_engine_hears_at_once_of_a_client_that_leaves_before_the_first_token(stack: Stack, stream: bool) -> None:
    """Else it would go on for minutes for nobody."""
    stack.route(demo=stack.to_a)
    aborted = len(stack.a.log()["aborted"])

    with httpx.Client(trust_env=False, timeout=0.5) as client, pytest.raises(httpx.ReadTimeout):
        client.post(stack.url + CHAT, json=chat(stream=stream), headers={"x-first-ms": "20000"}).read()
    left = time.time()
    until(lambda: len(stack.a.log()["aborted"]) > aborted)

    assert stack.a.log()["aborted"][-1] - left < 1
    until(lambda: counted(stack).in_flight == 0)


def test_a_draining_release_finishes_what_runs_while_what_comes_waits_for_the_next(stack: Stack) -> None:
    """Both are answered whole, each by its own release."""
    stack.route(demo=stack.to_a)
    with streaming(stack, x_gap_ms="300") as tokens, ThreadPoolExecutor() as pool:
        stack.route(demo=Waiting("draining", "demo-a", 5, "switching"))
        job = pool.submit(stack.post, chat())
        until(lambda: stack.router.client.state().models["demo"].holding == 1)
        running = counted(stack).in_flight
        stack.route(demo=stack.to_b)

        assert job.result().headers["x-llm-release"] == "demo-b"
        assert running == 1
        assert "".join(tokens) == "a1 a2 a3"


def test_a_connection_to_an_engine_is_used_once(stack: Stack) -> None:
    """An engine that closes idle connections just when the next request comes would lose it, though the client's is kept."""
    stack.route(demo=stack.to_a)

    with httpx.Client(trust_env=False) as client:
        statuses = [client.post(stack.url + CHAT, json=chat()).status_code for _ in range(4)]

    assert statuses == [200] * 4
    assert len({request["peer"] for request in stack.a.log()["requests"][-4:]}) == 4


def test_an_engine_that_dies_in_a_stream_breaks_the_stream(stack: Stack) -> None:
    """A cut answer must not look like a whole one."""
    stack.route(demo=stack.to_a)

    with streaming(stack, x_die_after="2") as tokens, pytest.raises(httpx.RemoteProtocolError):
        list(tokens)


def test_an_engine_that_closes_without_an_answer_is_a_502_and_asked_once(stack: Stack) -> None:
    """A request that may have begun is never repeated by the router."""
    stack.route(demo=stack.to_a)
    arrived, failed = stack.a.log()["arrived"], counted(stack).failed

    answer = stack.post(chat(), headers={"x-die-after": "0"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "engine_failed")
    assert answer.headers["x-llm-release"] == "demo-a"
    assert (stack.a.log()["arrived"], counted(stack).failed) == (arrived + 1, failed + 1)


def test_an_engine_that_is_gone_is_a_503_in_json_and_one_that_comes_back_in_time_answers(stack: Stack) -> None:
    """The router connects again for 3 s and then says so itself, with the release's mark; other models are not touched."""
    gone, late = free_ports(2)
    stack.route(demo=stack.to_a, dead=Up("dead-1", "127.0.0.1", gone), late=Up("late-1", "127.0.0.1", late))
    with ThreadPoolExecutor() as pool:
        began = time.monotonic()
        dead, lasting = pool.submit(stack.post, chat("dead")), pool.submit(stack.post, chat("late"))
        other = stack.post(chat()).status_code
        with engine("late", "--default", "back", "--listen-after", "0.5", port=late) as back:
            revived = lasting.result()
            seen = back.log()["arrived"]
        answer = dead.result()

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unreachable")
    assert answer.headers["x-llm-release"] == "dead-1"
    assert counted(stack, "dead-1").failed == 1
    assert time.monotonic() - began < 8
    assert other == 200
    assert (revived.status_code, revived.json()["choices"][0]["message"]["content"], seen) == (200, "back", 1)


def test_only_so_many_large_bodies_are_held_in_memory_at_once(tmp_path: Path) -> None:
    """One over 1 MiB is under way and one is allowed: the next is told to come back, small ones pass."""
    with routed(tmp_path, large_bodies=1) as stack, ThreadPoolExecutor() as pool:
        stack.route(demo=stack.to_a)
        large = chat(prompt="x" * (2 << 20))
        first = pool.submit(stack.post, large, headers={"x-first-ms": "700"})
        until(lambda: stack.a.log()["running"] == 1)
        second, small = stack.post(large), stack.post(chat())
        after = (first.result().status_code, stack.post(large).status_code)

    assert (second.status_code, second.json()["error"]["code"], second.headers["retry-after"]) == (503, "too_many_large_bodies", "2")
    assert small.status_code == 200
    assert after == (200, 200)


@dataclass
class Load:
    """Clients that ask without pause until told to stop; half of them streamed, half with a connection kept."""

    stack: Stack
    stop: threading.Event = field(default_factory=threading.Event)
    done: int = 0
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def client(self, n: int) -> None:
        kept = httpx.Client(trust_env=False, timeout=20)
        while not self.stop.is_set():
            fresh = kept if n % 2 else httpx.Client(trust_env=False, timeout=20)
            problem = self._ask(fresh, stream=n % 4 < 2)
            if fresh is not kept:
                fresh.close()
            with self.lock:
                self.done += 1
                self.wrong += [problem] if problem else []
        kept.close()

    def wait_for(self, more: int) -> None:
        done = self.done
        until(lambda: self.done >= done + more)

    def _ask(self, client: httpx.Client, *, stream: bool) -> str | None:
        try:
            answer = client.post(self.stack.url + CHAT, json=chat(stream=stream), headers={"x-gap-ms": "3"})
        except httpx.HTTPError as error:
            return repr(error)
        letter = answer.headers.get("x-llm-release", "?")[-1]
        whole = f"{letter}1 {letter}2 {letter}3"
        got = "".join(_tokens(answer)) if stream else answer.json()["choices"][0]["message"]["content"]
        ended = not stream or answer.text.endswith("data: [DONE]\n\n")
        return None if answer.status_code == 200 and got == whole and ended else f"{answer.status_code} {got!r}, not {whole!r}"


def test_flips_under_load_lose_nothing(stack: Stack) -> None:
    """10 flips, 8 clients: no failure, each answer whole and by the release that began it, each request seen exactly once."""
    stack.route(demo=stack.to_a)
    arrived = stack.a.log()["arrived"] + stack.b.log()["arrived"]
    load, late = Load(stack), list[int]()
    with ThreadPoolExecutor(9) as pool:
        jobs = [pool.submit(load.client, n) for n in range(8)]
        with streaming(stack, x_gap_ms="1000") as long:
            for n in range(10):
                old, new = ((stack.a, stack.to_b), (stack.b, stack.to_a))[n % 2]
                stack.route(demo=new)
                load.wait_for(16)
                settled = old.log()["arrived"]
                load.wait_for(24)
                late.append(old.log()["arrived"] - settled)
            whole = "".join(long)
        load.stop.set()
        for job in jobs:
            job.result()

    assert load.wrong == []
    assert load.done > 240
    assert late == [0] * 10
    assert stack.a.log()["arrived"] + stack.b.log()["arrived"] - arrived == load.done + 1
    assert whole == "a1 a2 a3"
