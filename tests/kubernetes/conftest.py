"""For every test of this folder."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def unhurried(patient: None) -> None:
    """None of them depends on how quick this machine is."""
