"""`inventory` on a real API server: everything of ours by its labels, and nothing of anybody else's. The contract itself: tests/platform/test_inventory.py."""

from __future__ import annotations

import secrets
import threading
from typing import Any

import pytest

from infra import kubernetes, workers
from infra.errors import Blocked, Conflict, Timeout
from infra.kubernetes import kinds, lease, removal
from infra.kubernetes.api import Object, kind_of
from infra.kubernetes.namespace import ensure
from infra.kubernetes.place import Place
from infra.kubernetes.removal import gone
from infra.kubernetes.weights_job import MANIFEST
from infra.platform import Platform
from infra.specs import ClusterSpec
from infra.states import Leftover
from infra.waiting import Progress
from tests.platform.conftest import expiring

RELEASE = "demo-aaaaaaaaaa"
WEIGHTS = "weights-" + "b" * 16


def platform(place: Place) -> Platform:
    return kubernetes.platform(place.settings, ClusterSpec.model_validate({"name": place.cluster, "platform": "kubernetes", "kubernetes": place.block.model_dump()}))


def fresh(place: Place) -> Place:
    """A namespace that we make ourselves."""
    made = Place(place.settings, place.cluster, place.block.model_copy(update={"namespace": f"t-{secrets.token_hex(4)}"}))
    ensure(made, Progress(250))
    return made


def config_map(place: Place, name: str, part: str, **keys: Any) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": place.meta(name, part, **keys), "data": {"a": "b"}}


def deployment(place: Place, name: str, labels: dict[str, str], claim: str = "") -> Object:
    volumes = [{"name": "w", "persistentVolumeClaim": {"claimName": claim}}] if claim else []
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "any"}], "volumes": volumes}}
    meta = {"name": name, "namespace": place.namespace, "labels": labels}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": {"selector": {"matchLabels": labels}, "template": pod}}


def claim(place: Place, name: str = WEIGHTS) -> Object:
    """Bound at once, to a real volume."""
    meta = place.meta(name, "model_weights", "demo")
    meta["labels"][MANIFEST] = name.removeprefix("weights-")
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": "immediate", "resources": {"requests": {"storage": "2Gi"}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec}


def bound(place: Place) -> str:
    """The volume of the claim."""
    return place.api.until(kinds.CLAIM, place.namespace, lambda now: next((item["spec"]["volumeName"] for item in now if item.get("status", {}).get("phase") == "Bound"), None), Progress(250))


def running(found: Platform) -> tuple[Leftover, ...]:
    return tuple(row for row in found.inventory.find() if not row.data)


def test_nothing_is_found_where_nothing_was_made_also_not_a_namespace(place: Place) -> None:
    """Neither in an empty namespace of somebody else's, nor in one that does not exist."""
    assert platform(place).inventory.find() == ()
    assert platform(Place(place.settings, place.cluster, place.block.model_copy(update={"namespace": "nowhere"}))).inventory.find() == ()


def test_a_release_is_one_row_with_its_proof_whatever_is_left_of_it(place: Place) -> None:
    """Also when only what its controller made is there; removing the row leaves nothing, twice."""
    made = platform(place)
    place.api.apply(deployment(place, "demo-aaaaaaaaaa", place.labels("ray_service", release=RELEASE)))
    place.api.apply(config_map(place, "settings", "ray_service", release=RELEASE))
    place.api.until(kinds.POD, place.namespace, lambda pods: True if pods else None, Progress(250))

    (row,) = running(made)

    assert (row.part, row.id, row.model, row.release, row.cluster) == ("ray_service", RELEASE, "demo", RELEASE, "lab")
    assert "Deployment" in row.why_ours
    assert "app.kubernetes.io/managed-by=llm-pipeline" in row.why_ours
    for _ in range(2):
        made.inventory.remove(row, Progress(250))
    assert running(made) == ()
    assert place.api.list(kinds.POD, place.namespace).items == ()


def test_what_is_in_the_way_of_nobody_is_never_touched(place: Place) -> None:
    """Objects of others that look like ours: by name, by some labels, by another cluster's mark; compared by uid and version."""
    made = platform(place)
    ours = place.labels("ray_service", release=RELEASE)
    labels: list[dict[str, str]] = [
        {}, {"app.kubernetes.io/name": "demo"}, {**ours, "app.kubernetes.io/managed-by": "Helm"}, {**ours, "llm-pipeline/cluster": "other"},
        {key: value for key, value in ours.items() if not key.startswith("app.")},
    ]  # fmt: skip
    foreign = [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{RELEASE}-{number}", "namespace": place.namespace, "labels": given}} for number, given in enumerate(labels)]
    foreign += [{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"weights-{number}", "namespace": place.namespace, "labels": given}} for number, given in enumerate(labels)]
    before = [place.api.apply(item)["metadata"] for item in foreign]
    place.api.apply(config_map(place, "settings", "ray_service", release=RELEASE))

    for row in made.inventory.find():
        made.inventory.remove(row, Progress(250))

    after = [place.api.get(kind_of(item), item["metadata"]["name"], place.namespace) for item in foreign]
    assert [(item["metadata"]["uid"], item["metadata"]["resourceVersion"]) for item in after if item] == [(meta["uid"], meta["resourceVersion"]) for meta in before]
    assert made.inventory.find() == ()


def test_without_labels_to_go_by_nothing_at_all_is_removed(place: Place) -> None:
    """An empty selector would mean everything of everybody."""
    with pytest.raises(ValueError, match="selector"):
        gone(place, kinds.CONFIG_MAP, "", Progress(5))


def test_what_somebodys_finalizer_holds_is_waited_for_and_never_forced(place: Place) -> None:
    """Until the deadline, with its name; free again, the same word removes it."""
    made = platform(place)
    held = config_map(place, "settings", "ray_service", release=RELEASE)
    held["metadata"]["finalizers"] = ["example.com/held"]
    place.api.apply(held)

    with pytest.raises(Timeout) as told:
        made.inventory.remove(running(made)[0], expiring("stop"))

    left = place.api.get(kinds.CONFIG_MAP, "settings", place.namespace)
    assert left and left["metadata"]["finalizers"] == ["example.com/held"]
    assert "settings" in str(told.value.problem)
    place.api.merge(kinds.CONFIG_MAP, "settings", place.namespace, {"metadata": {"finalizers": None}})
    gone(place, kinds.CONFIG_MAP, place.selector("ray_service"), Progress(250))
    assert place.api.get(kinds.CONFIG_MAP, "settings", place.namespace) is None


def test_what_a_controller_made_for_a_release_is_waited_for_too(place: Place) -> None:
    """It has none of our labels, only its owner: KubeRay's Services are so. Here it goes two seconds later than its owner."""
    made, owner = platform(place), place.api.apply(deployment(place, "demo-aaaaaaaaaa", place.labels("ray_service", release=RELEASE)))
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "demo-aaaaaaaaaa", "uid": owner["metadata"]["uid"]}
    meta = {"name": "theirs", "namespace": place.namespace, "ownerReferences": [reference], "finalizers": ["example.com/held"]}
    place.api.create({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": [{"port": 8000}]}})
    let_go = threading.Timer(2, lambda: place.api.merge(kinds.SERVICE, "theirs", place.namespace, {"metadata": {"finalizers": None}}))
    let_go.start()

    made.inventory.remove(running(made)[0], Progress(250))

    assert place.api.get(kinds.SERVICE, "theirs", place.namespace) is None
    let_go.join()


def test_one_that_took_the_name_of_what_was_seen_is_not_removed_for_it(place: Place) -> None:
    """Between a look and the removal somebody made another: it is not the one that was looked at."""
    seen = place.api.apply(config_map(place, "settings", "ray_service", release=RELEASE))
    place.api.delete(kinds.CONFIG_MAP, "settings", place.namespace)
    place.api.apply(config_map(place, "settings", "ray_service", release=RELEASE))

    removal._delete(place, kinds.CONFIG_MAP, seen)

    assert place.api.get(kinds.CONFIG_MAP, "settings", place.namespace)


def test_weights_are_data_with_their_size_and_go_with_their_volume(place: Place) -> None:
    """One row for the claim and what fills it; the row of `held` has the same bytes and the manifest's digits."""
    made = platform(place)
    place.api.apply(claim(place))
    filling = config_map(place, f"{WEIGHTS}-fill", "model_weights")
    filling["metadata"]["labels"][MANIFEST] = "b" * 16
    place.api.apply(filling)
    volume = bound(place)

    (row,) = made.inventory.find()
    (held,) = made.inventory.held()

    assert (row.id, row.bytes, row.data) == (WEIGHTS, 2 << 30, True)
    assert (held.part, held.id, held.bytes) == ("model_weights", "b" * 16, 2 << 30)
    assert made.inventory.sharers() == ()
    assert made.inventory.discard(held, Progress(250)) == 2 << 30
    assert place.api.get(kinds.VOLUME, volume) is None
    assert place.api.list(kinds.CONFIG_MAP, place.namespace, place.selector()).items == ()
    assert made.inventory.find() == ()


def test_weights_that_somebody_reads_stay(place: Place) -> None:
    """Kubernetes would wait for that pod for ever, and the next pod would find a claim on its way out."""
    made = platform(place)
    place.api.apply(claim(place))
    bound(place)
    place.api.apply(deployment(place, "reader", {"app": "theirs"}, WEIGHTS))
    place.api.until(kinds.POD, place.namespace, lambda pods: True if pods else None, Progress(250))

    assert made.inventory.discard(made.inventory.held()[0], Progress(250)) == 0
    with pytest.raises(Conflict) as told:
        made.inventory.remove(made.inventory.find()[0], Progress(250))

    assert "reader" in str(told.value.problem.why)
    found = place.api.get(kinds.CLAIM, WEIGHTS, place.namespace)
    assert found
    assert "deletionTimestamp" not in found["metadata"]


def test_weights_that_are_being_filled_go_with_the_pod_that_fills_them(place: Place) -> None:
    """Nobody reads them yet: it is no user of theirs."""
    made = platform(place)
    place.api.apply(claim(place))
    bound(place)
    meta = place.meta("filling", "model_weights", "demo")
    meta["labels"][MANIFEST] = "b" * 16
    volumes = [{"name": "w", "persistentVolumeClaim": {"claimName": WEIGHTS}}]
    place.api.create({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [{"name": "c", "image": "any"}], "volumes": volumes}})

    made.inventory.remove(made.inventory.find()[0], Progress(250))

    assert place.api.get(kinds.CLAIM, WEIGHTS, place.namespace) is None
    assert place.api.list(kinds.POD, place.namespace).items == ()


def test_a_volume_that_outlived_its_claim_is_told_and_left_to_whoever_runs_the_cluster(place: Place) -> None:
    """Its class keeps it; the row says by which command it goes."""
    made = platform(place)
    place.api.apply(claim(place))
    volume = bound(place)
    place.api.merge(kinds.VOLUME, volume, None, {"spec": {"persistentVolumeReclaimPolicy": "Retain"}})
    made.inventory.remove(made.inventory.find()[0], Progress(250))

    (row,) = made.inventory.find()

    assert (row.data, row.bytes) == (True, 2 << 30)
    assert "Retain" in row.why_ours
    with pytest.raises(Blocked) as told:
        made.inventory.remove(row, Progress(5))
    assert volume in str(told.value.problem.next)
    place.api.merge(kinds.VOLUME, volume, None, {"spec": {"persistentVolumeReclaimPolicy": "Delete"}})
    place.api.until(kinds.VOLUME, None, lambda now: None if any(item["metadata"]["name"] == volume for item in now) else True, Progress(250))
    assert made.inventory.find() == ()


def test_a_lock_is_left_alone_while_its_holder_lives_and_found_when_it_is_dead(place: Place) -> None:
    """One of a process that is gone waits for nobody."""
    made = platform(place)
    with made.records.lock("demo.image", "run 1", Progress(250)):
        assert made.inventory.find() == ()
    meta = place.meta("lock-x", "lock", annotations={"llm-pipeline/worker": "elsewhere:b:1:1"})
    place.api.create({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": {"holderIdentity": "run 2", "renewTime": "2020-01-01T00:00:00.000000Z"}})

    (row,) = made.inventory.find()
    place.api.merge(kinds.LEASE, "lock-x", place.namespace, {"metadata": {"annotations": {"llm-pipeline/worker": workers.myself()}}, "spec": {"renewTime": "2999-01-01T00:00:00.000000Z"}})
    made.inventory.remove(row, Progress(250))
    taken_over = place.api.get(kinds.LEASE, "lock-x", place.namespace)
    place.api.merge(kinds.LEASE, "lock-x", place.namespace, {"metadata": {"annotations": {"llm-pipeline/worker": "elsewhere:b:1:1"}}, "spec": {"renewTime": "2020-01-01T00:00:00.000000Z"}})
    made.inventory.remove(row, Progress(250))

    assert taken_over, "somebody living took it between the look and the removal"
    assert (row.part, row.data) == ("lock", False)
    assert "run 2" in row.why_ours
    assert made.inventory.find() == ()


def test_a_namespace_of_ours_goes_last_with_the_lock_of_who_removes_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `down --cluster --purge` does it: records first, the namespace under the cluster's own lock, which is not lost by that."""
    monkeypatch.setattr(lease, "RENEW", 0.2)
    here = fresh(place)
    made = platform(here)
    made.records.put("demo", "deployment", {"wanted": False}, None)

    with made.records.lock("lab.cluster", "run 1", Progress(250)):
        rows = made.inventory.find()
        for row in rows:
            made.inventory.remove(row, Progress(250))
        made.records.purge("lab")

    assert [row.part for row in rows] == ["records", "namespace"]
    assert all(row.data for row in rows)
    assert here.api.get(kinds.NAMESPACE, here.namespace) is None
    assert made.inventory.find() == ()


def test_an_empty_namespace_that_another_declaration_made_is_not_ours(place: Place) -> None:
    """It is removed by whoever made it."""
    theirs = fresh(Place(place.settings, "other", place.block))

    assert platform(Place(place.settings, place.cluster, theirs.block)).inventory.find() == ()
    assert [row.part for row in platform(theirs).inventory.find()] == ["namespace"]
    place.api.delete(kinds.NAMESPACE, theirs.namespace)


@pytest.mark.parametrize("cluster", ["", "other"])
def test_a_namespace_with_anything_of_others_stays(place: Place, cluster: str) -> None:
    """Also when it came between the look and the removal; also when it is of another declaration of ours."""
    here = fresh(place)
    made = platform(here)
    (row,) = made.inventory.find()
    labels = Place(here.settings, cluster, here.block).labels("ray_service", release=RELEASE) if cluster else {}
    theirs = here.api.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "theirs", "namespace": here.namespace, "labels": labels}})

    with pytest.raises(Blocked):
        made.inventory.remove(row, Progress(250))

    assert made.inventory.find() == ()
    assert here.api.get(kinds.CONFIG_MAP, "theirs", here.namespace) == {**theirs}
    here.api.delete(kinds.NAMESPACE, here.namespace)
