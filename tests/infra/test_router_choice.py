"""Which model a request means, and what it hears when the router can not tell."""

from __future__ import annotations

import json
import time

import httpx
import pytest

from infra.router import Waiting
from tests.doubles.router import CHAT, Stack, answer_of, chat, raw, until

pytest_plugins = ("tests.doubles.router_fixtures",)

MIB = 1 << 20
EMOJI = "fox \N{FOX FACE} é"


@pytest.fixture(autouse=True)
def routed(stack: Stack) -> None:
    """demo goes to one engine, org/other and a name beyond ASCII to the other."""
    stack.routes({"demo": stack.to_a, "org/other": stack.to_b, EMOJI: stack.to_b})


def nested(levels: int) -> bytes:
    return b'{"tools":' + b'{"a":[' * levels + b"1" + b"]}" * levels + b',"messages":[],"model":"demo"}'


LURES = {
    "messages": [{"content": '","model":"nope","x":{\\"', "model": "nope"}],
    "metadata": {"model": "nope"},
    "x": "model",
    "model": "org/other",
}


@pytest.mark.parametrize(
    ("body", "release"),
    [
        pytest.param(json.dumps(chat()).encode(), "demo-a", id="model last"),
        pytest.param(b'{ "model" :\n "demo", "messages": []}', "demo-a", id="model first, with blanks"),
        pytest.param(nested(5), "demo-a", id="nested"),
        pytest.param(nested(5000), "demo-a", id="nested ten thousand levels deep"),
        pytest.param(json.dumps(LURES).encode(), "demo-b", id="lures in strings and inner objects"),
        pytest.param(b'{"model":"org\\/other"}', "demo-b", id="an escaped slash"),
        pytest.param(json.dumps({"model": EMOJI}).encode(), "demo-b", id="surrogate pairs"),
        pytest.param(json.dumps({"model": EMOJI}, ensure_ascii=False).encode(), "demo-b", id="plain UTF-8"),
        pytest.param(b'{"messages":["' + b"A" * (4 * MIB) + b'"],"model":"demo"}', "demo-a", id="4 MiB before the model"),
        pytest.param(b'{"model":"demo","messages":["' + b"A" * (20 * MIB) + b'"]}', "demo-a", id="the model first, 20 MiB after it"),
    ],
)
def test_the_model_is_read_from_the_body(stack: Stack, body: bytes, release: str) -> None:
    """Only the outermost object's `model` counts, wherever it stands and however it is written."""
    assert stack.post(body).headers.get("x-llm-release") == release


def test_a_chunked_body_is_read_like_any_other(stack: Stack) -> None:
    """A client that doesn't know the length beforehand is no exception."""
    body = json.dumps(chat(prompt="x" * 100_000)).encode()

    with raw(stack, "transfer-encoding: chunked") as connection:
        for part in (body[:50_000], body[50_000:], b""):
            time.sleep(0.05)  # each part a packet of its own, and none of them beside the head
            connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
        answer = answer_of(connection)

    assert "x-llm-release: demo-a" in answer


def test_body_comes_before_header_and_header_before_path(stack: Stack) -> None:
    """Three ways to name the model, in this order; the path that named it is not passed on."""
    path = f"/models/demo{CHAT}"

    both = stack.post(chat("org/other"), path, {"x-model": "demo"})
    header = stack.post({"messages": []}, path, {"x-model": "org/other"})
    alone = stack.post({"messages": []}, path)
    slashes = stack.post({"messages": []}, f"/models/org/other{CHAT}")

    assert [r.headers["x-llm-release"] for r in (both, header, alone, slashes)] == ["demo-b", "demo-b", "demo-a", "demo-b"]
    assert alone.status_code == 200
    assert stack.a.log()["requests"][-1]["path"] == CHAT


@pytest.mark.parametrize("way", ["header", "path"])
def test_a_body_beyond_the_buffer_passes_when_header_or_path_name_the_model(stack: Stack, way: str) -> None:
    """20 MiB arrive whole: nothing is held back to look for what is known already."""
    body = json.dumps(chat(prompt="A" * (20 * MIB))).encode()

    path, headers = (CHAT, {"x-model": "demo"}) if way == "header" else (f"/models/demo{CHAT}", {})

    assert stack.post(body, path, headers).status_code == 200
    assert stack.a.log()["requests"][-1]["bytes"] == len(body)


def test_such_a_body_is_passed_on_while_it_is_still_being_sent(stack: Stack) -> None:
    """The engine sees the request long before its last byte: nothing waits for a buffer to fill."""
    arrived = stack.a.log()["arrived"]

    with raw(stack, f"x-model: demo\r\ncontent-length: {20 * MIB}") as connection:
        connection.sendall(b"{" + b" " * MIB)
        until(lambda: stack.a.log()["arrived"] > arrived)
        assert stack.a.log()["arrived"] == arrived + 1


def test_a_client_sees_its_refusal_whatever_is_left_to_send(stack: Stack) -> None:
    """The rest of the body is read and dropped; else a plain client finds its connection reset in place of the answer."""
    with raw(stack, f"content-length: {40 * MIB}") as connection:
        connection.sendall(b'["' + b"A" * (40 * MIB - 2))

        assert "model_not_read" in answer_of(connection)


def test_a_packed_body_is_not_read(stack: Stack) -> None:
    """The router doesn't unpack; the header names the model."""
    named = stack.post(b"\x1f\x8b123", headers={"content-encoding": "gzip", "x-model": "demo"})
    unnamed = stack.post(b"\x1f\x8b123", headers={"content-encoding": "gzip"})

    assert named.headers["x-llm-release"] == "demo-a"
    assert (unnamed.status_code, unnamed.json()["error"]["code"]) == (400, "model_missing")


def test_a_form_names_its_model_in_a_field(stack: Stack) -> None:
    """Audio is uploaded as a form; its field `model` counts."""
    with httpx.Client(trust_env=False) as client:
        answer = client.post(
            f"{stack.url}/v1/audio/transcriptions", data={"model": "org/other"}, files={"file": ("a.wav", bytes(range(256)) * 500)}
        )

    assert answer.headers["x-llm-release"] == "demo-b"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        pytest.param(b'{"model":"nope","messages":[]}', 404, "model_not_found", id="unknown"),
        pytest.param(b'{"model":"nope","messages":[', 404, "model_not_found", id="unknown, cut off later"),
        pytest.param(b'{"messages":[{"a":"', 413, "model_not_read", id="cut off before the model"),
        pytest.param(b'{"messages":["' + b"A" * (20 * MIB) + b'"],"model":"demo"}', 413, "model_not_read", id="model behind 20 MiB"),
        pytest.param(b'{"messages":[]}', 400, "model_missing", id="whole, without a model"),
        pytest.param(b'{"model":5}', 400, "model_missing", id="a model that is no text"),
        pytest.param(b'["model"]', 400, "model_missing", id="no object"),
        pytest.param(b"", 400, "model_missing", id="no body"),
    ],
)
def test_refusals_are_openai_errors_and_say_which(stack: Stack, body: bytes, status: int, code: str) -> None:
    """`no such model` is said only after the model was really read; a client that is still sending sees its refusal too."""
    answer = stack.post(body)

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (status, code, "invalid_request_error")
    assert "x-llm-release" not in answer.headers


def test_an_unknown_model_hears_the_known_ones(stack: Stack) -> None:
    """A typing mistake is repaired without asking anyone."""
    error = stack.post(chat("dmo")).json()["error"]

    assert error["known"] == ["demo", EMOJI, "org/other"]
    assert "Known: demo, " in error["message"]


def test_the_list_of_models_is_the_tables(stack: Stack) -> None:
    """Models that are asleep are listed too: a request wakes them."""
    stack.routes({"demo": stack.to_a, "org/b c": Waiting("asleep", "", 60)})

    listed = stack.get("/v1/models").json()

    assert [(card["id"], card["state"], card["object"]) for card in listed["data"]] == [
        ("demo", "up", "model"),
        ("org/b c", "asleep", "model"),
    ]
    assert stack.get("/v1/models/org/b%20c").json()["id"] == "org/b c"
    assert stack.get("/models/demo/v1/models").json()["id"] == "demo"
    assert stack.get("/v1/models/nope").status_code == 404
