"""The acceptance ladder, climbed against a scripted engine over real HTTP."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra import acceptance, local, loopback, settings
from infra.acceptance import LADDER, Candidate, Rung, climb
from infra.errors import Transient
from infra.states import ServiceState
from infra.waiting import Progress
from tests.doubles.engine import Script
from tests.doubles.ray_engine import CompletingEngine
from tests.doubles.releases import release

LIVE = {"max_seq_len": "64", "served_model_name": "demo", "dtype": "bfloat16", "tensor_parallel_size": "1", "enforce_eager": "True"}
GOLDEN = [{"prompt": "ping", "answer": "pong"}, {"prompt": "sum", "contains": "42"}, {"prompt": "poem", "matches": "ros?e"}]
ANSWERS = {"ping": "pong", "sum": "it is 42 I think", "poem": "two roses are red"}

CLIMBED = [name for name in LADDER if name != "required_checks_passed"]
"""The rungs that are asked of the candidate; the last one asks Dagster."""

Climb = Callable[..., dict[str, Rung]]


def at(url: str) -> Callable[[float], httpx.Client]:
    """How somebody at this address is reached."""
    return partial(loopback.client, base=url)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked again at once."""
    monkeypatch.setattr(acceptance, "PAUSE", 0.001)


@pytest.fixture
def engine_at() -> Iterator[Callable[[Script], str]]:
    """Starts a scripted engine in this process; its base address."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    servers: list[asyncio.Server] = []

    def start(script: Script) -> str:
        engine = CompletingEngine(script)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await engine.serve(reader, writer)
            finally:
                writer.close()

        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(serve, "127.0.0.1", 0), loop).result(5)
        servers.append(server)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    yield start

    async def stop() -> None:
        for server in servers:
            server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # sockets are closed in the loop's next rounds

    asyncio.run_coroutine_threadsafe(stop(), loop).result(5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()


@pytest.fixture
def ladder(engine_at: Callable[[Script], str]) -> Climb:
    """Climbs it for an engine that answers `answers`, and a release declared with `keys`."""

    def climbed(answers: dict[str, str] | None = None, live: dict[str, str] | None = None, model: str = "demo", **keys: Any) -> dict[str, Rung]:
        made = release(**{"engine": {"max_model_len": 64}, "acceptance": {"golden": GOLDEN}, **keys})
        url = engine_at(Script(model, ANSWERS if answers is None else answers, default="one two three"))
        return {rung.name: rung for rung in climb(Candidate(made, at(url), LIVE if live is None else live), Progress())}

    return climbed


def test_a_good_candidate_climbs_every_rung_with_evidence(ladder: Climb) -> None:
    """In the order of the ladder, each with a sentence."""
    rungs = ladder()

    assert list(rungs) == CLIMBED
    assert all(rung.passed and rung.why for rung in rungs.values()), rungs
    assert rungs["golden_answers"].facts == {"asked": 3, "wrong": 0}
    assert rungs["streams"].facts["pieces"] == 1
    assert rungs["within_slo"].facts["ttft_ms"] > 0


def test_a_candidate_that_does_not_answer_is_asked_nothing_else() -> None:
    """The first rung says why; the rest would say the same."""
    rungs = list(climb(Candidate(release(), at("http://127.0.0.1:9"), LIVE), Progress()))

    assert [(rung.name, rung.passed) for rung in rungs] == [("healthy", False)]
    assert "no answer" in rungs[0].why


def test_what_breaks_on_the_way_says_nothing_of_the_candidate(engine_at: Callable[[Script], str]) -> None:
    """A server in between that is busy, a connection that is cut: asked again. When it stays so it is no verdict: somebody tries later."""
    reach = at(engine_at(Script("demo", answers=ANSWERS)))
    trouble = iter([Transient("busy"), httpx.ReadError("cut"), Transient("busy"), None])

    def rough(timeout: float) -> httpx.Client:
        if error := next(trouble, None):
            raise error
        return reach(timeout)

    def away(timeout: float) -> httpx.Client:
        raise Transient("the API server is away")

    rungs = list(climb(Candidate(release(acceptance={"golden": GOLDEN}), rough, LIVE), Progress()))

    assert [rung.name for rung in rungs if rung.passed] == CLIMBED
    with pytest.raises(Transient):
        list(climb(Candidate(release(), away, LIVE), Progress()))


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ({**ANSWERS, "ping": "pong "}, "'ping': expected 'pong', got 'pong '"),
        ({**ANSWERS, "sum": "it is 41"}, "expected something with '42', got 'it is 41'"),
        ({**ANSWERS, "poem": "violets"}, "expected something that matches 'ros?e'"),
        ({}, "'poem'"),
    ],
)
def test_a_wrong_answer_is_told_in_full(ladder: Climb, answers: dict[str, str], told: str) -> None:
    """To the letter: that is what golden means. Other rungs are climbed all the same."""
    rungs = ladder(answers)

    assert not rungs["golden_answers"].passed
    assert told in rungs["golden_answers"].why
    assert [name for name, rung in rungs.items() if not rung.passed] == ["golden_answers"]


def test_further_wrong_answers_are_told_by_their_beginning(ladder: Climb) -> None:
    """A model that babbles does so at every question: once is enough."""
    told = ladder(dict.fromkeys(ANSWERS, 300 * "b"))["golden_answers"].why

    assert told.count("got") == 3 and told.count("b" * 40 + "'") == 3 and told.count("b" * 200) == 1


def test_a_name_that_clients_do_not_know_is_seen(ladder: Climb) -> None:
    """And what it is served under instead; refusals are told in the engine's own words."""
    rungs = ladder(model="other")

    assert not rungs["serves_the_declared_name"].passed
    assert "it serves other, not demo" in rungs["serves_the_declared_name"].why
    assert "404" in rungs["golden_answers"].why
    assert "does not exist" in rungs["golden_answers"].why


def test_arguments_are_compared_with_the_engines_own_report(ladder: Climb) -> None:
    """Declared and live value side by side; no report is no proof."""
    off = ladder(live={**LIVE, "max_seq_len": "32"})["live_arguments_as_declared"]
    silent = ladder(live={})["live_arguments_as_declared"]
    on = ladder()["live_arguments_as_declared"]

    assert (off.passed, off.why) == (False, "max_model_len: declared 64, live 32")
    assert not silent.passed
    assert "not found" in silent.why
    assert on.facts["not reported by the engine"] == "max_num_seqs"


def test_a_bound_that_is_not_kept_is_told_with_both_numbers(engine_at: Callable[[Script], str]) -> None:
    """The median of three; without a bound it is measured all the same."""
    slow = engine_at(Script("demo", default="one", first_ms=30))

    kept = acceptance.within_slo(Candidate(release(acceptance={"slo": {"ttft_ms": 5000}}), at(slow), LIVE))
    broken = acceptance.within_slo(Candidate(release(acceptance={"slo": {"ttft_ms": 10}}), at(slow), LIVE))
    free = acceptance.within_slo(Candidate(release(), at(slow), LIVE))

    assert (kept.passed, broken.passed, free.passed) == (True, False, True)
    assert "bound 10 ms" in broken.why
    assert broken.facts["ttft_ms"] >= 30
    assert "no bound declared" in free.why


def test_an_answer_that_breaks_off_is_no_stream(engine_at: Callable[[Script], str]) -> None:
    """Cut in the middle, or without a single piece; the second proves no speed either."""
    cut = {rung.name: rung for rung in climb(Candidate(release(), at(engine_at(Script("demo", default="one two three", die_after=2))), LIVE), Progress())}
    empty = Candidate(release(acceptance={"slo": {"ttft_ms": 5000}}), at(engine_at(Script("demo", default=""))), LIVE)

    assert not cut["streams"].passed
    assert "no usable answer" in cut["streams"].why
    assert acceptance.streams(empty).why == "no piece arrived"
    assert not acceptance.within_slo(empty).passed


# ---------------------------------------------------------------- answers that no engine should give


def test_a_stream_that_does_not_say_that_it_is_done_is_none(odd_server: Callable[[Any], Candidate]) -> None:
    """A client would wait for more."""
    piece = b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n'

    assert acceptance.streams(odd_server(piece + b"data: [DONE]\n\n")).passed
    cut = acceptance.streams(odd_server(piece))

    assert not cut.passed
    assert "[DONE]" in cut.why


@pytest.fixture
def odd_server() -> Iterator[Callable[[Any], Candidate]]:
    """A server that answers every POST with the same document."""
    servers: list[ThreadingHTTPServer] = []

    def start(document: Any) -> Candidate:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                body = document if isinstance(document, bytes) else json.dumps(document).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return Candidate(release(), at(f"http://127.0.0.1:{server.server_address[1]}"), LIVE)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("usage", [(3, 2, 6), (0, 2, 2), (3, 0, 3)])
def test_token_counts_must_add_up(odd_server: Callable[[Any], Candidate], usage: tuple[int, int, int]) -> None:
    """Somebody is billed by them."""
    document = {"usage": dict(zip(("prompt_tokens", "completion_tokens", "total_tokens"), usage, strict=True)), "choices": []}

    assert not acceptance.counts_tokens(odd_server(document)).passed


@pytest.mark.parametrize("document", [b"<html>", b"", {}, {"choices": []}, [], {"usage": None, "choices": [{"message": {"content": None}}]}])
def test_nonsense_never_raises(odd_server: Callable[[Any], Candidate], document: Any) -> None:
    """A rung that can not be judged is not climbed, and says what came."""
    rungs = list(climb(odd_server(document), Progress()))

    assert rungs[0].passed
    assert [rung.name for rung in rungs] == CLIMBED
    assert not any(rung.passed for rung in rungs if rung.name in ("serves_the_declared_name", "streams", "counts_tokens"))


def test_the_candidates_address_is_the_services_own(tmp_path: Path) -> None:
    """Not the router's: it has no traffic yet."""
    platform = local.platform(settings.load(home=tmp_path, cache=tmp_path / "cache"))
    state = ServiceState("demo-a", "demo", "ready", ("127.0.0.1", 1234), arguments={"dtype": "x"})

    found = acceptance.candidate(release(), state, platform.ray_service)

    assert found.arguments == {"dtype": "x"}
    with found.client(1) as client:
        assert client.base_url == "http://127.0.0.1:1234"
