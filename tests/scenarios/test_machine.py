"""The machine of updates, a few lives long; `make scenarios` plays more of them, and others each time."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.scenarios.machine import Updates


@pytest.mark.timeout(600)
def test_whatever_happens_only_the_accepted_answers_and_the_newest_good_one_is_live_in_the_end() -> None:
    """The same lives at each run; what must hold after each step is in the machine."""
    given = settings(max_examples=60, stateful_step_count=20, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink])
    run_state_machine_as_test(Updates, settings=given)
