"""Room on this machine: its free memory, its CPUs and its GPUs. The contract itself: tests/platform/test_gpu_nodepool.py."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import pytest

from infra.errors import CapacityError, ConfigError
from infra.local import machine
from infra.platform import Platform
from infra.waiting import Progress
from infra.weights import Outline
from tests.infra.planner_doubles import facts
from tests.platform.conftest import LocalStand

GIB = 1 << 30
SMALL = machine.Machine(2, 64 * GIB, (), "6.0", "3.11", "host", "id")


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Memory of the machine, to be said by the test."""
    said = {"memory": 64 * GIB}
    monkeypatch.setattr(machine, "memory_free", lambda: said["memory"])
    return said


def test_one_that_does_not_fit_is_refused_with_both_numbers(stand: LocalStand, platform: Platform, free: dict[str, int]) -> None:
    """Before it is started, and with something to do."""
    free["memory"] = 1 * GIB

    with pytest.raises(CapacityError) as told:
        platform.gpu_nodepool.apply(stand.release(), Progress(250))

    assert "GiB of memory" in (told.value.problem.why or "")
    assert "0.5 GiB are free" in (told.value.problem.why or "")
    assert told.value.problem.next


def test_gpus_are_counted(stand: LocalStand, platform: Platform, free: dict[str, int]) -> None:
    """A hundred are not there, whoever else goes."""
    with pytest.raises(ConfigError) as told:
        platform.gpu_nodepool.apply(stand.unfetched(resources={"gpu": 64}), Progress(250))

    assert "needs 64 GPUs" in (told.value.problem.why or "")


def test_declared_cpus_are_slots_and_undeclared_ones_refuse_nobody(stand: LocalStand, platform: Platform, free: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas count; the refusal has both numbers."""
    monkeypatch.setattr(machine, "look", lambda: SMALL)

    fits = [platform.gpu_nodepool.room(stand.release(resources=given)).fits for given in ({}, {"cpu": 2}, {"cpu": "500m"})]
    with pytest.raises(CapacityError) as told:
        platform.gpu_nodepool.apply(stand.release(resources={"cpu": 1.5}, replicas={"min": 2, "max": 2}), Progress(250))

    assert fits == [True, True, True]
    assert told.value.problem.why == "needs 3 CPUs, this machine has 2"


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


def test_one_without_a_replica_takes_what_its_head_uses(stand: LocalStand, platform: Platform, free: dict[str, int]) -> None:
    """Its engine's share is free for others, and it is asked for again when it comes back; what its head has is its own already."""
    first, second = stand.release(engine={"kind": "ray"}, resources={"memory": "4Gi"}), stand.release(name="other", resources={"memory": "1Gi"})
    with platform.gpu_nodepool.reserve(first, Progress(250)):
        platform.ray_service.apply(first, Progress(250))
    free["memory"] = 5 * GIB
    before = platform.gpu_nodepool.room(second)
    platform.ray_service.shrink(first, Progress(250))
    head = platform.ray_service.memory(first.name)
    assert head

    beside, back = platform.gpu_nodepool.room(second), platform.gpu_nodepool.room(first)
    free["memory"] = 4 * GIB
    late = platform.gpu_nodepool.room(first)

    assert not before.fits and beside.fits and beside.free["memory"] == 5 * GIB - (512 << 20)
    assert back.fits and back.free["memory"] > 5 * GIB - (512 << 20)
    assert not late.fits and "needs 4.0 GiB" in late.why


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


LLAMA = Outline(facts("llama_3_1_8b")["config"])
GPU: dict[str, Any] = {"resources": {"gpu": 1}, "engine": {"max_model_len": 8192, "max_num_seqs": 16}}


@pytest.mark.parametrize(
    ("gpus", "verdict", "hardware"),
    [(("NVIDIA L4",), "fits", "1 x L4"), (("Tesla T4",), "refused", "1 x T4"), (("NVIDIA Whatever",), "unknown", "1 x NVIDIA Whatever"), ((), "refused", "")],
)
def test_the_gpus_that_the_driver_shows_are_planned_with(stand: LocalStand, platform: Platform, monkeypatch: pytest.MonkeyPatch, gpus: tuple[str, ...], verdict: str, hardware: str) -> None:
    """By their names; of one that nobody knows nothing is said; where there are none, that."""
    monkeypatch.setattr(machine, "look", lambda: replace(SMALL, gpus=gpus))

    found = platform.gpu_nodepool.fits(stand.unfetched(**GPU), LLAMA)

    assert (found.verdict, found.hardware) == (verdict, hardware)


def test_what_the_planner_refuses_is_not_started(stand: LocalStand, platform: Platform, free: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the numbers and the nearest thing that would fit, however much is free now; what fits tells its numbers too."""
    monkeypatch.setattr(machine, "look", lambda: replace(SMALL, memory=6 * GIB))
    fits = platform.gpu_nodepool.apply(stand.unfetched(), Progress(250))
    monkeypatch.setattr(machine, "look", lambda: replace(SMALL, memory=2 * GIB))

    with pytest.raises(ConfigError) as told:
        platform.gpu_nodepool.apply(stand.unfetched(), Progress(250))

    assert (fits.fit and fits.fit.verdict == "unknown") or (fits.fit and fits.fit.verdict == "fits")
    assert "does not fit into main memory" in told.value.problem.what
    assert "this machine, if nothing else ran: needs 3." in (told.value.problem.why or "") and "1.50 GiB are free" in (told.value.problem.why or "")
    assert told.value.problem.next


def test_a_source_that_is_gone_does_not_keep_what_is_stored_from_starting(stand: LocalStand, platform: Platform, free: dict[str, int]) -> None:
    """The store tells what is planned with. Of what is neither here nor there nothing is computed, and that is said."""
    here, nowhere = stand.release(), stand.unfetched()
    shutil.rmtree(stand.sources)

    stored, silent = platform.gpu_nodepool.apply(here, Progress(250)), platform.gpu_nodepool.apply(nowhere, Progress(250))

    assert stored.fit and stored.fit.numbers["weights"]
    assert silent.fit and silent.fit.verdict == "unknown" and "not computed: " in silent.fit.why
