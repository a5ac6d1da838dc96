"""A model that is not up: requests wait, up to a number and a time, or hear when to come back."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from infra.router import Hold, ModelState, Waiting
from tests.doubles.router import CHAT, Stack, chat, until

pytest_plugins = ("tests.doubles.router_fixtures",)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(12) as found:
        yield found


def counted(stack: Stack) -> ModelState:
    return stack.router.client.state().models["demo"]


def test_held_requests_are_answered_when_the_model_wakes_and_no_more_than_n_are_held(stack: Stack, pool: ThreadPoolExecutor) -> None:
    """Of 8 clients 5 wait and get their answers right after the table says up; 3 are refused at once with the time to come back."""
    stack.route(demo=Waiting("waking", "demo-a", 3, "loading weights"), hold=Hold(5, 20))
    before = counted(stack)
    jobs = [pool.submit(stack.post, chat()) for _ in range(8)]
    until(lambda: counted(stack).holding == 5 and sum(job.done() for job in jobs) == 3)

    stack.route(demo=stack.to_a, hold=Hold(5, 20))
    woken = time.monotonic()
    answers = [job.result() for job in jobs]
    took = time.monotonic() - woken

    assert sorted(a.status_code for a in answers) == [200] * 5 + [503] * 3
    assert took < 2
    after = counted(stack)
    assert (after.arrivals - before.arrivals, after.held - before.held, after.refused - before.refused, after.holding) == (8, 5, 3, 0)


def test_a_refusal_says_what_goes_on_and_when_to_come_back(stack: Stack) -> None:
    """503 in OpenAI's shape with Retry-After, the phase and the honest estimate."""
    stack.route(demo=Waiting("waking", "demo-a", 7, "loading weights"), hold=Hold(0, 0))

    answer = stack.post(chat())

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert answer.json()["error"] == {
        "message": 'The model "demo" is not ready (loading weights); about 7 s more.',
        "type": "service_unavailable",
        "code": "model_not_ready",
        "param": "model",
        "phase": "loading weights",
        "estimate_s": 7,
    }


@pytest.mark.parametrize(("seconds", "retry_after"), [(0, "1"), (600, "60")])
def test_retry_after_lies_between_a_second_and_a_minute(stack: Stack, seconds: int, retry_after: str) -> None:
    """Clients give up on larger values and hammer on smaller ones; the estimate itself is not cut."""
    stack.route(demo=Waiting("asleep", "", seconds), hold=Hold(0, 0))

    answer = stack.post(chat())

    assert (answer.headers["retry-after"], answer.json()["error"]["estimate_s"]) == (retry_after, seconds)
    assert answer.json()["error"]["phase"] == "asleep"


def test_nobody_is_held_longer_than_the_time(stack: Stack) -> None:
    """T = 1 s: the refusal comes then."""
    stack.route(demo=Waiting("asleep", "demo-a", 30), hold=Hold(5, 1))

    began = time.monotonic()
    status = stack.post(chat()).status_code

    assert status == 503
    assert 0.9 < time.monotonic() - began < 10


def test_a_failed_model_refuses_at_once(stack: Stack) -> None:
    """There is nothing to wait for."""
    stack.route(demo=Waiting("failed", "demo-a", 30, "load-failed"), hold=Hold(5, 20))

    began = time.monotonic()
    error = stack.post(chat()).json()["error"]

    assert error["phase"] == "load-failed"
    assert time.monotonic() - began < 10


def test_a_request_held_for_a_model_that_is_removed_hears_so(stack: Stack, pool: ThreadPoolExecutor) -> None:
    """It is gone: 404 at once, so that clients don't retry for minutes."""
    stack.route(demo=Waiting("asleep", "demo-a", 30), hold=Hold(5, 20))
    job = pool.submit(stack.post, chat())
    until(lambda: counted(stack).holding == 1)

    stack.route()

    assert job.result(timeout=5).status_code == 404


def test_clients_that_left_while_held_never_reach_the_engine(stack: Stack) -> None:
    """Waking a model must not make it work for nobody; their places are free afterwards."""
    stack.route(demo=Waiting("asleep", "demo-a", 30), hold=Hold(50, 20))
    arrived = stack.a.log()["arrived"]
    body = json.dumps(chat()).encode()
    host, _, port = stack.router.settings.llm.partition(":")
    clients = [socket.create_connection((host, int(port))) for _ in range(10)]
    for client in clients:
        client.sendall(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
    until(lambda: counted(stack).holding == 10)
    for client in clients:
        client.close()

    stack.route(demo=stack.to_a)
    until(lambda: counted(stack).holding == 0)
    answered = stack.post(chat()).status_code

    assert answered == 200
    assert stack.a.log()["arrived"] - arrived == 1


def test_the_openai_client_reaches_a_sleeping_model_by_its_own_retries(stack: Stack, pool: ThreadPoolExecutor) -> None:
    """Held for 1 s, told to come back in 1 s, held again, answered: the caller notices a slow first answer and nothing else."""
    stack.route(demo=Waiting("waking", "demo-a", 1, "loading"), hold=Hold(5, 1))
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="x") as client:
        job = pool.submit(lambda: client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "hi"}]))
        with pytest.raises(openai.InternalServerError) as refused:
            client.with_options(max_retries=0).chat.completions.create(model="demo", messages=[])
        stack.route(demo=stack.to_a, hold=Hold(5, 1))

        assert job.result().choices[0].message.content == "a1 a2 a3"
        assert isinstance(refused.value.body, dict)
        assert refused.value.body["phase"] == "loading"


def test_the_openai_client_streams_lists_and_understands_the_404(stack: Stack) -> None:
    """What applications do with the official client works through the router."""
    stack.route(demo=stack.to_a)
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="x") as client:
        stream = client.chat.completions.create(model="demo", messages=[], stream=True, stream_options={"include_usage": True})
        chunks = list(stream)

        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "a1 a2 a3"
        assert chunks[-1].usage
        assert chunks[-1].usage.completion_tokens == 3
        assert [model.id for model in client.models.list()] == ["demo"]
        with pytest.raises(openai.NotFoundError, match="does not exist here"):
            client.chat.completions.create(model="nope", messages=[])
