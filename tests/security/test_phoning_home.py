"""Whether the real engine tells anybody that it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.security import namespace
from tests.security.phoning import phones_home


@pytest.mark.real
@pytest.mark.timeout(300)
def test_a_real_engine_comes_up_without_a_way_out_and_asks_nobody(tmp_path: Path) -> None:
    """Loopback and nothing else, and a proxy in the environment that nobody takes: no usage statistics, no look at the Hub."""
    if reason := namespace.refused():
        pytest.skip(reason)

    assert phones_home(tmp_path) == []
