"""Fixtures of a running router, for `pytest_plugins = ("tests.doubles.router_fixtures",)`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doubles.router import Stack, routed


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One for all: each test begins by saying where the models go."""
    with routed(tmp_path_factory.mktemp("router")) as found:
        yield found


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[Stack]:
    """For tests that stop the router, or look at its very first moments."""
    with routed(tmp_path) as found:
        yield found
