"""`gpu_nodepool` on every platform: whether a release fits, with numbers, before anything is started."""

from __future__ import annotations

import pytest

from infra.errors import CapacityError
from infra.local import machine
from infra.platform import Platform
from infra.waiting import Progress
from tests.platform.conftest import LocalStand

GIB = 1 << 30


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Memory of the machine, to be said by the test."""
    said = {"memory": 64 * GIB}
    monkeypatch.setattr(machine, "memory_free", lambda: said["memory"])
    return said


def test_a_release_that_fits_is_told_so_with_numbers(stand: LocalStand, platform: Platform, free: dict[str, int]) -> None:
    """Observing and applying say the same, make nothing, and can be repeated."""
    release = stand.release()

    seen = platform.gpu_nodepool.observe(release)
    applied = platform.gpu_nodepool.apply(release, Progress(5))

    assert seen
    assert seen == applied
    assert applied.fits
    assert not applied.changed
    assert 0 < applied.needs["memory"] < applied.free["memory"]
    platform.gpu_nodepool.delete(release, Progress(5))
    platform.gpu_nodepool.delete(release, Progress(5))
    assert platform.gpu_nodepool.observe(release) == seen


def test_one_that_does_not_fit_is_refused_with_both_numbers(stand: LocalStand, platform: Platform, free: dict[str, int]) -> None:
    """Before it is started, and with something to do."""
    free["memory"] = 1 * GIB

    with pytest.raises(CapacityError) as told:
        platform.gpu_nodepool.apply(stand.release(), Progress(5))

    assert "GiB of memory" in (told.value.problem.why or "")
    assert "0.5 GiB are free" in (told.value.problem.why or "")
    assert told.value.problem.next


def test_gpus_are_counted(stand: LocalStand, platform: Platform, free: dict[str, int]) -> None:
    """A hundred are not there."""
    with pytest.raises(CapacityError) as told:
        platform.gpu_nodepool.apply(stand.unfetched(resources={"gpu": 64}), Progress(5))

    assert "needs 64 GPUs" in (told.value.problem.why or "")


def test_needs_grow_with_replicas_and_a_declared_size_wins(stand: LocalStand, platform: Platform, free: dict[str, int]) -> None:
    """One replica after the other; what a person measured is believed."""
    one = platform.gpu_nodepool.room(stand.release())
    two = platform.gpu_nodepool.room(stand.release(replicas={"min": 2, "max": 2}))
    said = platform.gpu_nodepool.room(stand.release(resources={"memory": "3Gi"}))

    assert two.needs["memory"] == 2 * one.needs["memory"]
    assert said.needs["memory"] == 3 * GIB


def test_one_that_runs_already_fits_whatever_is_free(stand: LocalStand, platform: Platform, free: dict[str, int]) -> None:
    """Its memory is its own: a second `up` must not be refused because the first one succeeded."""
    release = stand.release()
    platform.ray_service.apply(release, Progress(20))
    free["memory"] = 0

    found = platform.gpu_nodepool.apply(release, Progress(5))

    assert found.fits
    assert "already" in found.why


def test_one_that_fits_only_instead_of_its_predecessor_says_so(stand: LocalStand, platform: Platform, free: dict[str, int]) -> None:
    """The strategy decides then; nobody is refused. Another model's memory is never counted as free."""
    old, new = stand.release(), stand.release(engine={"max_model_len": 128})
    platform.ray_service.apply(old, Progress(20))
    needs = int(platform.gpu_nodepool.room(new).needs["memory"])
    free["memory"] = needs + (512 << 20) - 1

    beside = platform.gpu_nodepool.room(new)
    instead = platform.gpu_nodepool.room(new, without=(old.name,))
    applied = platform.gpu_nodepool.apply(new, Progress(5))

    assert (beside.fits, instead.fits) == (False, True)
    assert applied.fits
    assert old.name in applied.why
