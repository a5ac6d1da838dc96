"""Who may ask: keys of clients, the token of the controller, and where neither of them may be found."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from infra.errors import ConfigError
from infra.router import Router
from tests.doubles.router import TOKEN, Stack, answer_of, chat, raw

pytest_plugins = ("tests.doubles.router_fixtures",)

ONE, TWO = "sk-one-key-of-a-client", "sk-two-key-of-a-client"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": f"Basic {ONE}"}, 401),
        ({"x-api-key": ""}, 401),
        ({"authorization": f"Bearer {ONE}"}, 200),
        ({"x-api-key": TWO}, 200),
    ],
)
def test_a_key_is_asked_for_when_the_table_has_keys(stack: Stack, headers: dict[str, str], status: int) -> None:
    """Either header, any of the keys; nothing else opens."""
    stack.route(demo=stack.to_a, keys=(ONE, TWO))

    assert stack.post(chat(), headers=headers).status_code == status
    assert stack.get("/v1/models", headers).status_code == status


def test_keys_change_with_the_table(stack: Stack) -> None:
    """A withdrawn key is refused from the acknowledgement on, without a restart; without keys nobody is asked."""
    stack.route(demo=stack.to_a, keys=(ONE,))
    stack.route(demo=stack.to_a, keys=(TWO,))
    withdrawn = stack.post(chat(), headers={"x-api-key": ONE})
    stack.route(demo=stack.to_a)

    assert withdrawn.json()["error"]["code"] == "invalid_api_key"
    assert stack.post(chat()).status_code == 200


def test_health_needs_no_key(stack: Stack) -> None:
    """Probes of a cluster have none."""
    stack.route(demo=stack.to_a, keys=(ONE,))

    assert stack.get("/health").json()["status"] == "ok"


def test_a_client_in_the_middle_of_an_upload_sees_its_401(stack: Stack) -> None:
    """The answer is not lost in a reset connection."""
    stack.route(demo=stack.to_a, keys=(ONE,))

    with raw(stack, f"content-length: {20 << 20}") as connection:
        connection.sendall(b"x" * (20 << 20))

        assert "invalid_api_key" in answer_of(connection)


def test_an_engine_never_sees_a_key(stack: Stack) -> None:
    """Engines log headers, and one key opens every model."""
    stack.route(demo=stack.to_a, keys=(ONE,))
    stack.post(chat(), headers={"authorization": f"Bearer {ONE}", "x-api-key": ONE})

    assert not {"authorization", "x-api-key"} & set(stack.a.log()["requests"][-1]["headers"])


def test_the_admin_port_asks_for_its_token(stack: Stack) -> None:
    """Tables, states and figures are the controller's alone; a key of a client is no token."""
    admin = stack.router.client.admin_url
    with httpx.Client(trust_env=False) as client:
        for path in ("/table", "/state", "/metrics", "/health"):
            assert client.get(admin + path).status_code == 401
            assert client.get(admin + path, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 401

    with Router(admin, "another token") as router, pytest.raises(ConfigError, match="refuses the admin token"):
        router.state()


def test_neither_keys_nor_token_are_on_command_lines_or_in_files(stack: Stack) -> None:
    """Whoever lists processes, reads the router's folder or its state learns no secret."""
    stack.route(demo=stack.to_a, keys=(ONE, TWO))
    stack.post(chat(), headers={"x-api-key": ONE})
    process = stack.router.process
    assert process
    shown = [Path(f"/proc/{process.pid}/{name}").read_text() for name in ("cmdline", "environ")]
    shown += [path.read_text() for path in stack.router.directory.iterdir()]
    shown += [str(stack.router.client.state()), str(stack.router.client.table())]

    assert [secret for secret in (ONE, TWO, TOKEN) if any(secret in text for text in shown)] == []
