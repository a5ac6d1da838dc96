"""A scene for each story."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenarios.scene import Scene
from tests.scenarios.scene import scene as begin


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with begin(tmp_path) as made:
        yield made
