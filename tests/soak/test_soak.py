"""The short form of `make soak`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.run import soak


@pytest.mark.real
@pytest.mark.timeout(900)
def test_three_minutes_of_everything_lose_nothing(tmp_path: Path) -> None:
    """Every request answered or excused by a kill of ours, every release in history, nothing left, memory and open files flat."""
    found = soak(tmp_path, minutes=3, seed=20)

    print(found.text())
    assert found.wrong == ()
    assert found.requests > 200
    assert sum(found.acts.values()) >= 5
