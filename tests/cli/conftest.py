"""A clone with a double platform, and a terminal of 80 columns in front of it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.settings import Settings
from llm_pipeline import cli, console, decide_verbs, lease_verbs, leases, plan_verb, rest_verbs
from tests.assets.clone import Clone, make
from tests.cli.screen import WIDTH, Direct, Terminal
from tests.doubles.platform import World


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's settings, a home of the test, a port where nobody listens."""
    for name in [name for name in os.environ if name.startswith(("LLM_PIPELINE_", "DAGSTER_", "HF_", "AWS_"))]:
        monkeypatch.delenv(name)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = {
        "LLM_PIPELINE_HOME": tmp_path / "home", "LLM_PIPELINE_DAGSTER_PORT": port, "LLM_PIPELINE_ENDPOINT_PORT": 0, "DAGSTER_HOME": tmp_path / "dagster",
        "HF_ENDPOINT": "http://127.0.0.1:9", "LOGNAME": "ann", "NO_COLOR": 1, "COLUMNS": WIDTH,
    }  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console.out, "_width", WIDTH)
    monkeypatch.setattr(console.err, "_width", WIDTH)


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clone]:
    made, close = make(tmp_path, monkeypatch)
    yield made
    close()


@pytest.fixture
def world(clone: Clone) -> World:
    return clone.world


@pytest.fixture
def dagster(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> list[Direct]:
    """Every Dagster that a command made, newest last."""
    made: list[Direct] = []

    def one(settings: Settings) -> Direct:
        made.append(Direct(settings, clone))
        return made[-1]

    for module in (cli, decide_verbs, lease_verbs, leases, plan_verb, rest_verbs):
        monkeypatch.setattr(module, "Dagster", one)
    return made


@pytest.fixture
def terminal(clone: Clone, dagster: list[Direct], capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(clone, capsys)
