"""A sample of `python -m tests.kubernetes.killed`: through the real steps, the process of a run is killed at a change that it makes."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.kubernetes import lab as labs
from tests.kubernetes.between import Middle, between
from tests.kubernetes.killed import Cell, played, points
from tests.kubernetes.lab import Lab
from tests.kubernetes.world import Point

pytestmark = pytest.mark.timeout(1800)

SAMPLE = [
    ("PATCH jobs/", "PUT configmaps/record-demo-deployment", True),
    ("PATCH deployments/demo-", "PUT pods/./proxy/table", True),
    ("POST secrets/llm-router", "DELETE namespaces/", False),
]
"""Where `up` is killed, where `down`, and whether after the server took it."""


@pytest.fixture(scope="module")
def middle(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Middle]:
    labs.insist_on_processes()
    with between(lab.api, tmp_path_factory.mktemp("between")) as made:
        yield made


@pytest.fixture(scope="module")
def passed(lab: Lab, middle: Middle) -> tuple[list[Point], list[Point]]:
    """What an undisturbed `up` and `down` change, in order."""
    return points(lab, middle)


def test_an_undisturbed_life_changes_something_in_every_part(passed: tuple[list[Point], list[Point]]) -> None:
    """The requests are found, not listed: a part without one would not be swept."""
    up, down = ({point.what.partition("/")[0] for point in verb} for verb in passed)

    assert up >= {"POST namespaces", "POST configmaps", "POST leases", "PATCH persistentvolumeclaims", "PATCH jobs", "POST pods", "PATCH deployments", "PATCH services", "POST secrets"}
    assert down >= {"PUT configmaps", "PUT secrets", "PUT pods", "DELETE deployments", "DELETE services", "DELETE secrets", "DELETE persistentvolumeclaims", "DELETE configmaps", "DELETE namespaces"}


@pytest.mark.parametrize(("first", "last", "after"), SAMPLE)
def test_what_is_killed_there_is_mended_by_the_same_word(lab: Lab, middle: Middle, passed: tuple[list[Point], list[Point]], first: str, last: str, after: bool) -> None:
    """One release serves with one object of each kind, and no lock stays; and `down`, killed too, leaves nothing when it is said again."""
    up, down = (next(point for point in verb if re.match(wanted, point.what)) for verb, wanted in zip(passed, (first, last), strict=True))

    done = played(lab, middle, Cell(up, down, after))

    assert done.wrong == []
    assert (done.told[0], done.told[2]) == ("killed", "killed")
