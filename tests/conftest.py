"""What all tests share: no deadline for properties (the machine may be busy), an environment without anybody's settings, and a list of what failed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.__main__ import FAILED

pytest_plugins = ("tests.kubernetes.fixtures",)

settings.register_profile("ours", deadline=None)
settings.load_profile("ours")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Where several processes test, only the one that hears of all of them writes."""
    if report.failed and (path := os.environ.get(FAILED)) and "PYTEST_XDIST_WORKER" not in os.environ:
        with Path(path).open("a") as out:
            out.write(f"{report.nodeid}\n")
