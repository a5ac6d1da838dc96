"""A clone with the model `demo` on a double platform."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.assets.clone import Clone, make
from tests.doubles.platform import World

CONTEXT = ssl.create_default_context()


def pytest_configure(config: pytest.Config) -> None:
    """Dagster's own code reads a property that Dagster deprecates."""
    config.addinivalue_line("filterwarnings", "ignore:Property .OpDefinition.version:DeprecationWarning")


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody speaks TLS here, and reading the machine's certificates for every question would be a third of a test's time."""
    monkeypatch.setattr(httpx._transports.default, "create_ssl_context", lambda *_, **__: CONTEXT)  # noqa: SLF001


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clone]:
    made, close = make(tmp_path, monkeypatch)
    yield made
    close()


@pytest.fixture
def world(clone: Clone) -> World:
    return clone.world
