"""The engine double speaks as vLLM does; other tests lean on that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.doubles.engine import Running, engine

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    answers = tmp_path_factory.mktemp("engine") / "answers.json"
    answers.write_text('{"What is up?": "the sky is up"}')
    with engine("demo", "--answers", str(answers), "--root", "org/demo", "--max-model-len", "64") as found:
        yield found


def ask(demo: Running, **body: object) -> httpx.Response:
    with httpx.Client(trust_env=False) as client:
        return client.post(demo.url + CHAT, json=body)


def get(demo: Running, path: str) -> httpx.Response:
    with httpx.Client(trust_env=False) as client:
        return client.get(demo.url + path)


PROMPT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "What is up?"}]


def test_answers_come_from_the_mapping_with_usage(demo: Running) -> None:
    """The same prompt gets the same words, counted in words."""
    answer = ask(demo, model="demo", messages=PROMPT).json()

    assert answer["choices"][0]["message"]["content"] == "the sky is up"
    assert answer["choices"][0]["finish_reason"] == "stop"
    usage = {k: answer["usage"][k] for k in ("prompt_tokens", "completion_tokens", "total_tokens")}
    assert usage == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}


def test_a_limit_cuts_the_answer(demo: Running) -> None:
    """As the engine does: finish_reason length."""
    choice = ask(demo, model="demo", messages=PROMPT, max_tokens=2).json()["choices"][0]

    assert (choice["message"]["content"].split(), choice["finish_reason"]) == (["the", "sky"], "length")


@pytest.mark.parametrize("usage", [True, False])
def test_a_stream_has_usage_only_when_asked(demo: Running, usage: bool) -> None:
    """The last chunk has no choices and the numbers."""
    with openai.OpenAI(base_url=f"{demo.url}/v1", api_key="x") as client:
        options: openai.types.chat.ChatCompletionStreamOptionsParam = {"include_usage": usage}
        chunks = list(
            client.chat.completions.create(
                model="demo", messages=[{"role": "user", "content": "What is up?"}], stream=True, stream_options=options
            )
        )

    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "the sky is up"
    assert [c.usage.completion_tokens for c in chunks if c.usage] == ([4] if usage else [])


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"model": "nope", "messages": []}, 404, "NotFoundError"),
        ({"model": "demo"}, 400, "BadRequestError"),
        ({"model": "demo", "messages": [], "max_tokens": 0}, 400, "BadRequestError"),
        ({"model": "demo", "messages": [], "max_tokens": 65}, 400, "BadRequestError"),
        ({"model": "demo", "messages": [], "temperature": -1}, 400, "BadRequestError"),
    ],
)
def test_bad_requests_get_the_engines_errors(demo: Running, body: dict[str, object], status: int, kind: str) -> None:
    """Shape and status as vLLM's."""
    answer = ask(demo, **body)

    assert (answer.status_code, answer.json()["error"]["type"], answer.json()["error"]["code"]) == (status, kind, status)


def test_it_tells_what_it_serves_how_it_is_and_what_it_did(demo: Running) -> None:
    """Model card, version, health and metrics in the engine's names."""
    ask(demo, model="demo", messages=PROMPT)
    card = get(demo, "/v1/models").json()["data"][0]
    metrics = get(demo, "/metrics").text

    assert (card["id"], card["root"], card["max_model_len"]) == ("demo", "org/demo", 64)
    assert get(demo, "/version").json()["version"]
    assert (get(demo, "/health").status_code, get(demo, "/health").content) == (200, b"")
    assert 'vllm:num_requests_running{engine="0",model_name="demo"} 0.0' in metrics
    values = {line.split("{")[0]: float(line.rsplit(" ", 1)[1]) for line in metrics.splitlines() if not line.startswith("#")}
    assert values["vllm:prompt_tokens_total"] >= 5
    assert values["vllm:generation_tokens_total"] >= 4
    assert demo.log()["requests"][-1]["prompt"] == "What is up?"


def test_it_dies_and_sickens_as_told(tmp_path: Path) -> None:
    """Cut after one token; unhealthy after one request."""
    with engine("demo", "--die-after", "1", "--unhealthy-after", "1") as sick:
        well = get(sick, "/health").status_code
        with pytest.raises(httpx.RemoteProtocolError):
            ask(sick, model="demo", messages=PROMPT, stream=True)

        assert (well, get(sick, "/health").status_code) == (200, 503)
