"""A sample of `make sweep`: the run, the router, an engine are killed in the middle of something, and the next `up` mends it."""

from __future__ import annotations

import pytest

from tests.sweep.cells import cell, points_of
from tests.sweep.points import Point

SAMPLE = [
    ("first up", "endpoint", "start endpoint", "run"),
    ("version change", "endpoint", "pushed", "run"),
    ("refused candidate", "smoke_test", "phase golden_answers", "live engine"),
    ("down", "tear_down", "half-removed home/router", "run"),
]


@pytest.mark.parametrize(("story", "stage", "what", "victim"), SAMPLE)
def test_what_is_killed_there_is_mended_by_up_and_gone_after_down(story: str, stage: str, what: str, victim: str) -> None:
    """One release serves with one set of processes, the history has its end, and `down` leaves nothing."""
    found = cell(story, Point(stage, what), victim)

    assert found.good, (found.run, found.wrong)


def test_a_run_passes_points_in_every_stage() -> None:
    """The points are found, not listed: a stage without one would not be swept."""
    stages = {point.stage for point in points_of("first up")}

    assert stages >= {"deployment", "model_weights", "image", "gpu_nodepool", "ray_service", "smoke_test", "endpoint"}
