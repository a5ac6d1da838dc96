"""A clone with the model `demo` on a double platform."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import acceptance
from tests.assets.clone import Clone, make
from tests.doubles.platform import World


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clone]:
    monkeypatch.setattr(acceptance, "PAUSE", 0.01)
    made, close = make(tmp_path, monkeypatch)
    yield made
    close()


@pytest.fixture
def world(clone: Clone) -> World:
    return clone.world
