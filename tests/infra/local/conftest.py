"""What the suite of all platforms (tests/platform) uses, for what is so on this machine alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.platform.conftest import LocalStand, platform, quick, sources

__all__ = ["platform", "quick", "sources", "stand"]


@pytest.fixture
def stand(tmp_path: Path, sources: Path) -> Iterator[LocalStand]:  # noqa: F811
    """A home in which nothing is yet."""
    made = LocalStand(tmp_path, sources)
    yield made
    made.close()
