"""`records` on a real API server: what only a cluster can do wrong. The contract itself: tests/platform/test_records.py."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from infra import workers
from infra.errors import ConfigError, Conflict, Transient, Withdrawn
from infra.kubernetes import kinds, lease
from infra.kubernetes.namespace import ensure, made_by_us
from infra.kubernetes.place import Place
from infra.kubernetes.records import LIMIT, KubernetesRecords
from infra.waiting import Progress
from tests.kubernetes.between import Middle, between
from tests.kubernetes.fixtures import Places
from tests.kubernetes.lab import Lab


@pytest.fixture
def middle(lab: Lab, tmp_path: Path) -> Iterator[Middle]:
    with between(lab.api, tmp_path) as made:
        yield made


@pytest.fixture
def far(places: Places, middle: Middle) -> Place:
    """The same namespace, by a way that breaks."""
    return places(kubeconfig=str(middle.kubeconfig), context="between")


def locks(place: Place) -> tuple[dict[str, object], ...]:
    return place.api.list(kinds.LEASE, place.namespace).items


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_put_whose_connection_broke_counts_once(place: Place, far: Place, middle: Middle, when: str) -> None:
    """Whether it had arrived or not: the writer is told the version that is stored, and writes on from there."""
    records = KubernetesRecords(far)
    middle.break_next("POST", "/configmaps", when)
    middle.break_next("PUT", "/configmaps", when)

    first = records.put("demo", "pin", {"n": 1}, None)
    second = records.put("demo", "pin", {"n": 2}, first.version)

    assert KubernetesRecords(place).get("demo", "pin") == second
    assert sum(row.startswith("PUT") for row in middle.seen) == 2
    with pytest.raises(Conflict):
        records.put("demo", "pin", {"n": 2}, first.version)


def test_a_conflict_is_one_also_when_the_answer_to_it_was_lost(place: Place, far: Place, middle: Middle) -> None:
    """Somebody else's equal document is not taken for ours."""
    stored = KubernetesRecords(place).put("demo", "pin", {"n": 1}, None)
    KubernetesRecords(place).put("demo", "pin", {"n": 2}, stored.version)
    middle.break_next("PUT", "/configmaps", "after")

    with pytest.raises(Conflict) as told:
        KubernetesRecords(far).put("demo", "pin", {"n": 2}, stored.version)

    assert f"expected {stored.version}" in str(told.value.problem.why)


def test_names_that_look_alike_are_different_documents(place: Place) -> None:
    """Kubernetes' names have fewer letters than ours."""
    records = KubernetesRecords(place)
    names = ("release/a", "release-a", "release_a", "RELEASE/A")
    for name in names:
        records.put("demo", name, {"is": name}, None)

    assert {name: row.value["is"] for name, row in records.list("demo").items()} == {name: name for name in names}


def test_two_clusters_of_one_namespace_keep_their_documents_apart(place: Place) -> None:
    """Two declarations may lead to the same namespace; neither sees or removes what the other decided."""
    mine, theirs = KubernetesRecords(place), KubernetesRecords(Place(place.settings, "other", place.block))
    mine.put("demo", "pin", {}, None)
    theirs.put("demo", "pin", {"theirs": True}, None)

    mine.purge("demo")

    assert mine.owners() == ()
    assert theirs.get("demo", "pin")


def test_what_others_keep_beside_is_never_touched(place: Place) -> None:
    """ConfigMaps with our names, with some of our labels, or named like a record."""
    KubernetesRecords(place).put("demo", "pin", {}, None)
    foreign = [
        {"name": "record-demo-pin", "labels": {}},
        {"name": "record-demo-live", "labels": {"llm-pipeline/part": "records", "llm-pipeline/owner": "demo"}},
        {"name": "record-demo-acts", "labels": {**place.labels("records"), "app.kubernetes.io/managed-by": "somebody"}},
    ]
    before = [place.api.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**meta, "namespace": place.namespace}, "data": {"owner": "demo"}})["metadata"] for meta in foreign]

    KubernetesRecords(place).purge("demo")

    after = [place.api.get(kinds.CONFIG_MAP, meta["name"], place.namespace) for meta in foreign]
    assert [(item["metadata"]["uid"], item["metadata"]["resourceVersion"]) for item in after if item] == [(meta["uid"], meta["resourceVersion"]) for meta in before]
    assert KubernetesRecords(place).owners() == ()


@pytest.mark.parametrize("data", [{"document": '{"wanted": tr'}, {"document": "[]"}, {}])
def test_a_record_that_can_not_be_read_is_not_taken_for_absent(place: Place, data: dict[str, str]) -> None:
    """Absent would mean "nobody wants it"; the error names the ConfigMap."""
    records = KubernetesRecords(place)
    records.put("demo", "deployment", {"wanted": True}, None)
    (item,) = place.api.list(kinds.CONFIG_MAP, place.namespace, place.selector("records")).items
    name = item["metadata"]["name"]
    place.api.merge(kinds.CONFIG_MAP, name, place.namespace, {"data": {"document": None, **data}})

    for ask in (lambda: records.get("demo", "deployment"), lambda: records.list("demo")):
        with pytest.raises(Transient) as told:
            ask()
        assert name in told.value.problem.what


def test_a_document_that_is_too_large_is_refused_with_its_size(place: Place) -> None:
    """And not by a server that says something about etcd."""
    with pytest.raises(ConfigError) as told:
        KubernetesRecords(place).put("demo", "release/a", {"files": "x" * LIMIT}, None)

    assert "1,000,0" in told.value.problem.what


def test_the_first_lock_makes_the_namespace_and_marks_it(places: Places, namespace: str) -> None:
    """The cluster's own step is locked before it makes anything."""
    place = places()
    fresh = Place(place.settings, place.cluster, place.block.model_copy(update={"namespace": f"{namespace}-new"}))

    with KubernetesRecords(fresh).lock("lab.cluster", "run 1", Progress(60)):
        found = fresh.api.get(kinds.NAMESPACE, fresh.namespace)
        assert found
        assert made_by_us(fresh, found)

    assert locks(fresh) == ()
    fresh.api.delete(kinds.NAMESPACE, fresh.namespace)


def test_a_put_on_what_went_with_its_namespace_is_a_conflict_and_makes_none(place: Place) -> None:
    """Whoever read it decided on what is gone; only a first document makes the namespace."""
    nowhere = Place(place.settings, place.cluster, place.block.model_copy(update={"namespace": f"{place.namespace}-gone"}))

    with pytest.raises(Conflict):
        KubernetesRecords(nowhere).put("demo", "deployment", {"wanted": True}, 7)

    assert nowhere.api.get(kinds.NAMESPACE, nowhere.namespace) is None


def test_in_a_namespace_that_goes_away_one_waits_and_makes_it_anew(places: Places, namespace: str) -> None:
    """Kubernetes forbids to make anything in it meanwhile, which is no want of rights."""
    place = places()
    again = Place(place.settings, place.cluster, place.block.model_copy(update={"namespace": f"{namespace}-again"}))

    def lock() -> None:
        with KubernetesRecords(again).lock("demo.image", "run 1", Progress(120)):
            pass

    for use in (lambda: KubernetesRecords(again).put("demo", "pin", {}, None), lock):
        ensure(again, Progress(60))
        again.api.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "held", "namespace": again.namespace, "finalizers": ["test/held"]}})
        again.api.delete(kinds.NAMESPACE, again.namespace)
        threading.Timer(2, lambda: place.api.merge(kinds.CONFIG_MAP, "held", again.namespace, {"metadata": {"finalizers": None}})).start()

        use()

        found = again.api.get(kinds.NAMESPACE, again.namespace)
        assert found
        assert "deletionTimestamp" not in found["metadata"]
    again.api.delete(kinds.NAMESPACE, again.namespace)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lock_whose_taking_and_giving_back_lost_their_answers_is_one_lock(place: Place, far: Place, middle: Middle, when: str) -> None:
    """It is ours at once, held, and gone afterwards: nobody waits for it to expire."""
    middle.break_next("POST", "/leases", when)
    middle.break_next("DELETE", "/leases", when)

    with KubernetesRecords(far).lock("demo.image", "run 1", Progress(60)):
        (held,) = locks(place)
        assert "run 1" in str(held["spec"])

    assert locks(place) == ()


def test_a_lock_of_another_machine_is_taken_when_it_was_not_renewed(place: Place) -> None:
    """By the clock of who waits: the times that the holder wrote, here of next century, say nothing."""
    far_away = "elsewhere:00000000-0000-0000-0000-000000000000:1:1"
    _lease(place, "demo.image", worker=far_away, seconds=2, stamp="2199-01-01T00:00:00.000000Z")
    told: list[str] = []

    with KubernetesRecords(place).lock("demo.image", "run 2", Progress(120, report=lambda phase: told.append(phase.detail))):
        (held,) = locks(place)

    assert "run 1" in told[0]
    assert "run 2" in str(held["spec"])


def test_a_lock_of_a_process_of_this_machine_that_is_gone_is_not_waited_for(place: Place) -> None:
    """However long it would last."""
    _lease(place, "demo.image", worker=f"{platform.node()}:an earlier boot:1:1", seconds=100_000)

    with KubernetesRecords(place).lock("demo.image", "run 2", Progress(120)):
        (held,) = locks(place)

    assert "run 2" in str(held["spec"])


def test_a_lock_whose_holder_renews_is_not_taken_however_long_it_lasts(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder renews it by itself; and whoever waits counts from the last renewal that was seen, here by a clock that the test moves."""
    monkeypatch.setattr(lease, "RENEW", 0.1)
    with KubernetesRecords(place).lock("demo.image", "run 1", Progress(60)):
        (first,) = locks(place)
        Progress(120).until(lambda: locks(place)[0]["spec"]["renewTime"] != first["spec"]["renewTime"] or None, every=0.1)  # type: ignore[index]
        (later,) = locks(place)
    now, waiter = [0.0], lease.Lease(place, "demo.image", "demo.image", "run 2")
    monkeypatch.setattr(lease, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(workers, "gone", lambda _: False)

    def free(seen: Any, at: float) -> bool:
        now[0] = at
        return waiter._free([seen], Progress(60)) is not None

    assert [free(first, 0), free(first, 19), free(later, 21), free(later, 40), free(later, 42)] == [False, False, False, False, True]


def test_who_lost_its_lock_stops_at_the_next_wait_and_says_so_at_the_end(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody removed it by hand, and another may hold it by now."""
    monkeypatch.setattr(lease, "RENEW", 0.1)
    progress = Progress(60)

    with pytest.raises(Conflict), KubernetesRecords(place).lock("demo.image", "run 1", progress):
        place.api.delete(kinds.LEASE, str(locks(place)[0]["metadata"]["name"]), place.namespace)  # type: ignore[index]
        _lease(place, "demo.image", worker="elsewhere:b:1:1", seconds=60)
        with pytest.raises(Conflict) as told:
            progress.sleep(50)
        assert "demo.image" in told.value.problem.what

    (theirs,) = locks(place)
    assert "run 1 elsewhere" in str(theirs["spec"])


def test_who_can_not_renew_its_lock_stops_before_others_may_take_it(far: Place, middle: Middle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server refuses everything; the holder gives up by its own clock."""
    monkeypatch.setattr(lease, "RENEW", 0.1)
    monkeypatch.setattr(lease, "GIVE_UP", 2.0)
    progress = Progress(60)

    with pytest.raises(Conflict) as told, KubernetesRecords(far).lock("demo.image", "run 1", progress):
        middle.break_next("PUT", "/leases", 503, times=10_000)
        progress.sleep(50)

    assert "could not be renewed" in str(told.value.problem.why)
    assert progress.stop.__name__ == "never"


def test_who_stood_still_for_longer_than_its_lock_lasts_goes_on_when_nobody_took_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that was asleep or had no time: the Lease is as we left it, so nobody worked under it meanwhile."""
    monkeypatch.setattr(lease, "RENEW", 1000.0)
    progress, began = Progress(60), time.monotonic()

    with KubernetesRecords(place).lock("demo.image", "run 1", progress):
        (before,) = locks(place)
        monkeypatch.setattr(lease, "time", SimpleNamespace(monotonic=lambda: began + 1000, time=time.time))
        progress.stop()
        (after,) = locks(place)

    assert before["spec"]["renewTime"] != after["spec"]["renewTime"]  # type: ignore[index]
    assert locks(place) == ()


def test_locks_of_holders_that_are_gone_are_swept_away_and_no_others(place: Place) -> None:
    """Of a process of this machine that ended, and of one elsewhere that was silent for longer than clocks differ. Not one that may be alive, and none of anybody else's."""
    now, elsewhere = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "elsewhere:b:1:1"
    _lease(place, "killed", worker=f"{platform.node()}:an earlier boot:1:1", seconds=20, stamp=now)
    _lease(place, "silent", worker=elsewhere, seconds=20)
    _lease(place, "alive", worker=elsewhere, seconds=20, stamp=now)
    theirs = {"name": "theirs", "namespace": place.namespace, "labels": {**place.labels("lock"), "app.kubernetes.io/managed-by": "Helm"}}
    place.api.create({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": theirs, "spec": {"holderIdentity": "x", "renewTime": "2020-01-01T00:00:00.000000Z"}})

    with KubernetesRecords(place).lock("mine", "run 2", Progress(60)):
        lease.sweep(place)
        left = {item["metadata"]["name"] for item in place.api.list(kinds.LEASE, place.namespace).items}

    assert left == {"theirs", *(KubernetesRecords(place)._object_name("lock", name) for name in ("alive", "mine"))}


def test_a_down_ends_the_wait_for_a_lock_and_leaves_it_to_its_holder(place: Place) -> None:
    """Nothing of who waited stays."""
    stop = threading.Event()

    def down() -> None:
        if stop.is_set():
            raise Withdrawn("taken down")

    with KubernetesRecords(place).lock("demo.image", "run 1", Progress(60)):
        threading.Timer(1, stop.set).start()
        with pytest.raises(Withdrawn), KubernetesRecords(place).lock("demo.image", "run 2", Progress(60, stop=down)):
            raise AssertionError("both hold the lock")
        (held,) = locks(place)
        assert "run 1" in str(held["spec"])


def _lease(place: Place, name: str, *, worker: str, seconds: int, stamp: str = "2020-01-01T00:00:00.000000Z") -> None:
    """A lock as another machine would hold it."""
    meta = place.meta(KubernetesRecords(place)._object_name("lock", name), "lock", annotations={"llm-pipeline/worker": worker})
    spec = {"holderIdentity": "run 1 elsewhere", "leaseDurationSeconds": seconds, "renewTime": stamp}
    place.api.create({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec})
