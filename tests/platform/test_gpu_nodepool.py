"""`gpu_nodepool` on every platform: whether a release fits, with numbers, before anything is started.

How much is free is this machine's memory on `local` and what pods request of nodes on a cluster, so tests that set it are of one platform each:
those of a cluster, for the same promises, are in tests/kubernetes/test_capacity.py.
"""

from __future__ import annotations

import pytest

from infra.errors import CapacityError
from infra.local import machine
from infra.platform import Platform
from infra.waiting import Progress
from tests.platform.conftest import LocalStand, Stand, killed

GIB = 1 << 30
SMALL = machine.Machine(2, 64 * GIB, (), "6.0", "3.11", "host", "id")


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Memory of the machine, to be said by the test."""
    said = {"memory": 64 * GIB}
    monkeypatch.setattr(machine, "memory_free", lambda: said["memory"])
    return said


def test_a_release_that_fits_is_told_so_with_numbers(stand: Stand, platform: Platform, free: dict[str, int]) -> None:
    """Observing and applying say the same, make nothing, and can be repeated."""
    release = stand.unfetched()

    seen = platform.gpu_nodepool.observe(release)
    applied = platform.gpu_nodepool.apply(release, Progress(250))

    assert seen
    assert (seen.fits, seen.needs) == (applied.fits, applied.needs)
    assert applied.fits
    assert not applied.changed
    assert 0 < applied.needs["memory"] < applied.free["memory"]
    platform.gpu_nodepool.delete(release, Progress(250))
    platform.gpu_nodepool.delete(release, Progress(250))
    again = platform.gpu_nodepool.observe(release)
    assert again and (again.fits, again.needs) == (seen.fits, seen.needs)


@pytest.mark.only("local")
def test_one_that_does_not_fit_is_refused_with_both_numbers(stand: LocalStand, platform: Platform, free: dict[str, int]) -> None:
    """Before it is started, and with something to do."""
    free["memory"] = 1 * GIB

    with pytest.raises(CapacityError) as told:
        platform.gpu_nodepool.apply(stand.release(), Progress(250))

    assert "GiB of memory" in (told.value.problem.why or "")
    assert "0.5 GiB are free" in (told.value.problem.why or "")
    assert told.value.problem.next


@pytest.mark.only("local")
def test_gpus_are_counted(stand: LocalStand, platform: Platform, free: dict[str, int]) -> None:
    """A hundred are not there."""
    with pytest.raises(CapacityError) as told:
        platform.gpu_nodepool.apply(stand.unfetched(resources={"gpu": 64}), Progress(250))

    assert "needs 64 GPUs" in (told.value.problem.why or "")


def test_needs_grow_with_replicas_and_a_declared_size_wins(stand: Stand, platform: Platform, free: dict[str, int]) -> None:
    """One replica after the other; what a person measured is believed."""
    one = platform.gpu_nodepool.room(stand.unfetched())
    two = platform.gpu_nodepool.room(stand.unfetched(replicas={"min": 2, "max": 2}))
    said = platform.gpu_nodepool.room(stand.unfetched(resources={"memory": "3Gi"}))

    assert two.needs["memory"] == 2 * one.needs["memory"]
    assert said.needs["memory"] == 3 * GIB


@pytest.mark.only("local")
def test_declared_cpus_are_slots_and_undeclared_ones_refuse_nobody(stand: LocalStand, platform: Platform, free: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas count; the refusal has both numbers."""
    monkeypatch.setattr(machine, "look", lambda: SMALL)

    fits = [platform.gpu_nodepool.room(stand.release(resources=given)).fits for given in ({}, {"cpu": 2}, {"cpu": "500m"})]
    with pytest.raises(CapacityError) as told:
        platform.gpu_nodepool.apply(stand.release(resources={"cpu": 1.5}, replicas={"min": 2, "max": 2}), Progress(250))

    assert fits == [True, True, True]
    assert told.value.problem.why == "needs 3 CPUs, this machine has 2"


@pytest.mark.only("local")
def test_what_another_model_declared_is_taken(stand: LocalStand, platform: Platform, free: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """CPUs of another model's release that runs; those of an earlier release of the same model come free with it. GPUs belong to one release each."""
    monkeypatch.setattr(machine, "look", lambda: SMALL)
    first = stand.release(resources={"cpu": 1, "memory": "1Gi"})
    with platform.gpu_nodepool.reserve(first, Progress(250)):
        platform.ray_service.apply(first, Progress(250))
        needy = {"name": "other", "resources": {"cpu": 2, "memory": "1Gi"}}

        other = platform.gpu_nodepool.room(stand.release(**needy))
        own = platform.gpu_nodepool.room(stand.release(resources={"cpu": 2, "memory": "1Gi"}))

    assert not other.fits and other.why == f"needs 2 CPUs, this machine has 2 and 1 are not taken ({first.name} 1)"
    assert own.fits


@pytest.mark.only("local")
def test_room_that_one_got_is_not_given_to_another_before_it_is_used(stand: LocalStand, platform: Platform, free: dict[str, int]) -> None:
    """Two models start at the same time, each in a process of its own; while neither has its memory, only one may."""
    first, second = stand.release(resources={"memory": "4Gi"}), stand.release(name="other", resources={"memory": "4Gi"})
    free["memory"] = 7 * GIB
    alone = platform.gpu_nodepool.room(second).fits

    with platform.gpu_nodepool.reserve(first, Progress(250)) as got:
        beside = stand.again().gpu_nodepool.room(second)
        with stand.again().gpu_nodepool.reserve(second, Progress(250)) as refused:
            pass
    after = platform.gpu_nodepool.room(second)

    assert alone and got.fits and not beside.fits and not refused.fits
    assert f"4.0 GiB that {first.name} will still take" in beside.why
    assert after.fits, "who started nothing holds nothing"


@pytest.mark.only("local")
def test_a_release_that_runs_keeps_what_it_needs_and_not_more_than_once(stand: LocalStand, platform: Platform, free: dict[str, int]) -> None:
    """What it has not taken yet is not free; what it has taken is in the machine's own number. Gone, it holds nothing."""
    first, second = stand.release(resources={"memory": "4Gi"}), stand.release(name="other", resources={"memory": "1Gi"})
    with platform.gpu_nodepool.reserve(first, Progress(250)):
        platform.ray_service.apply(first, Progress(250))
    free["memory"] = 5 * GIB
    used = platform.ray_service.memory(first.name)  # type: ignore[attr-defined]

    beside = platform.gpu_nodepool.room(second)
    platform.ray_service.delete(first, Progress(250))
    platform.gpu_nodepool.delete(first, Progress(250))

    assert not beside.fits
    assert used // 2 < beside.free["memory"] - (GIB - (512 << 20)) < used * 2
    assert platform.gpu_nodepool.room(second).fits


@pytest.mark.only("local")
def test_room_that_a_killed_start_had_is_free(stand: LocalStand, platform: Platform, free: dict[str, int]) -> None:
    """Its lock died with it, and nothing has to be cleared away."""
    first, second = stand.release(resources={"memory": "4Gi"}), stand.release(name="other", resources={"memory": "4Gi"})
    free["memory"] = 7 * GIB

    def die(progress: Progress) -> None:
        with stand.again().gpu_nodepool.reserve(first, progress):
            progress.phase("starting")

    killed(die, "starting")

    assert platform.gpu_nodepool.room(second).fits


@pytest.mark.only("local")
def test_one_that_runs_already_fits_whatever_is_free(stand: LocalStand, platform: Platform, free: dict[str, int]) -> None:
    """Its memory is its own: a second `up` must not be refused because the first one succeeded."""
    release = stand.release()
    platform.ray_service.apply(release, Progress(250))
    free["memory"] = 0

    found = platform.gpu_nodepool.apply(release, Progress(250))

    assert found.fits
    assert "already" in found.why


@pytest.mark.only("local")
def test_one_that_fits_only_instead_of_its_predecessor_says_so(stand: LocalStand, platform: Platform, free: dict[str, int]) -> None:
    """The strategy decides then; nobody is refused. Another model's memory is never counted as free."""
    old, new = stand.release(), stand.release(engine={"max_model_len": 128})
    platform.ray_service.apply(old, Progress(250))
    needs = int(platform.gpu_nodepool.room(new).needs["memory"])
    free["memory"] = needs + (512 << 20) - 1

    beside = platform.gpu_nodepool.room(new)
    instead = platform.gpu_nodepool.room(new, without=(old.name,))
    applied = platform.gpu_nodepool.apply(new, Progress(250))

    assert (beside.fits, instead.fits) == (False, True)
    assert applied.fits
    assert old.name in applied.why
