"""The first broken link between a cluster and an answer: pure over what objects say, and over pods of a real control plane that are really so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.errors import Timeout
from infra.kubernetes import causes, chain, kinds
from infra.kubernetes.chain import APPLICATION, CLUSTER, ENGINE, IMAGE, NODE, RAY, ROUTER, WEIGHTS, Seen
from infra.kubernetes.diagnosis import Diagnosis
from infra.kubernetes.endpoint import KubernetesEndpoint
from infra.kubernetes.image import KubernetesImage
from infra.kubernetes.model_weights import KubernetesWeights
from infra.kubernetes.place import Place
from infra.kubernetes.ray_service import KubernetesService
from infra.kubernetes.rayservice_manifest import HEAD, WORKER
from infra.kubernetes.records import KubernetesRecords
from infra.kubernetes.weights_claim import Claim, Told
from infra.kubernetes.weights_job import claim
from infra.platform import Release
from infra.specs import Endpoint
from infra.states import Chain
from infra.waiting import Progress
from tests.doubles.releases import release
from tests.kubernetes.fixtures import Places

Object = dict[str, Any]

IMAGE_USED = "registry.example.com/llm-engine@sha256:" + "0" * 64
CAPTURED = Path(__file__).parent / "captured"
CONFIG = {"num_key_value_heads": 2, "num_attention_heads": 4, "hidden_size": 128, "num_hidden_layers": 2, "max_position_embeddings": 512, "vocab_size": 1000}


# ---------------------------------------------------------------- pure


def captured(name: str) -> Object:
    found: Object = yaml.safe_load((CAPTURED / name).read_text())
    return found


def pod(name: str, container: str, *, ready: bool = True, **status: Any) -> Object:
    """One that was placed, and runs."""
    conditions = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": str(ready)}]
    row = {"name": container, "ready": ready, "restartCount": 0, "state": {"running": {"startedAt": "2026-11-21T11:35:18Z"}}, **status}
    return {"metadata": {"name": name, "uid": name}, "spec": {"nodeName": "n1", "containers": [{"name": container}]}, "status": {"phase": "Running", "conditions": conditions, "containerStatuses": [row]}}


def well(**more: Any) -> Seen:
    """A release of Ray with which nothing is wrong."""
    held = {"metadata": {"name": "weights-0"}, "status": {"phase": "Bound"}}
    pods = (pod("head", HEAD), pod("worker", WORKER))
    return replace(Seen(True, {"metadata": {"name": "llm"}}, held, True, captured("rayservices/RUNNING.yaml"), pods, ()), **more)


UNPLACED = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient memory."}]


@pytest.mark.parametrize(
    ("seen", "link", "said"),
    [
        (well(namespace=None), CLUSTER, "its namespace is not there"),
        (well(main=captured("quota.yaml"), ray=False, pods=()), CLUSTER, "FailedCreate"),
        (well(pods=(captured("claim_pending.yaml"),)), WEIGHTS, "Unschedulable"),
        (well(pods=(captured("gpus.yaml"),)), NODE, "Unschedulable"),
        (well(pods=(pod("head", HEAD), {**pod("worker", WORKER), "status": {"phase": "Pending", "conditions": UNPLACED}})), NODE, "Unschedulable"),
        (well(pods=(pod("head", HEAD), pod("worker", WORKER, ready=False, state={"waiting": {"reason": "ContainerCreating"}}))), IMAGE, "ContainerCreating"),
        (well(pods=(captured("image_missing.yaml"),)), IMAGE, "ImagePullBackOff"),
        (well(claim=None), WEIGHTS, "their claim is not there"),
        (well(claim={"metadata": {"name": "weights-0"}, "status": {"phase": "Pending"}}), WEIGHTS, "claim weights-0 is Pending"),
        (well(verified=False), WEIGHTS, "are not verified"),
        (well(pods=()), RAY, "has no pods yet"),
        (well(main=None, pods=()), RAY, "nothing of it runs"),
        (well(pods=(pod("head", HEAD, ready=False), pod("worker", WORKER))), RAY, "its head is not ready"),
        (well(pods=(pod("head", HEAD),)), RAY, "no worker of it runs"),
        (well(pods=(pod("head", HEAD), pod("worker", WORKER, ready=False, restartCount=2, lastState={"terminated": {"exitCode": 1}}))), RAY, "ended with exit 1, 2 restarts"),
        (well(pods=(pod("head", HEAD), pod("worker", WORKER, ready=False, lastState={"terminated": {"exitCode": 137, "reason": "OOMKilled"}}))), RAY, "OOMKilled"),
        (well(main=captured("rayservices/DEPLOY_FAILED.first.yaml")), APPLICATION, "RuntimeError: weights are not there"),
        (well(main=captured("rayservices/DEPLOY_FAILED.import.yaml")), APPLICATION, "ModuleNotFoundError: No module named 'no_such_module'"),
        (well(main=captured("rayservices/DEPLOY_FAILED.ready.yaml")), APPLICATION, "DEPLOY_FAILED"),
    ],
)
def test_the_first_link_that_does_not_hold_is_found(seen: Seen, link: str, said: str) -> None:
    """What stands before it holds, what comes behind it is not known."""
    broken = chain.first(seen)

    assert broken
    assert (broken.link, said in broken.words) == (link, True), broken
    assert "\n" not in broken.words, "a row of a table"
    rows = chain.links(seen, broken, router=True)
    at = [row.name for row in rows].index(link)
    assert rows[at].holds is False and rows[at].why == broken.words
    assert all(row.holds is True for row in rows[:at] if seen.pods or row.name not in (NODE, IMAGE))
    assert all(row.holds is None for row in rows[at + 1 :])


def test_what_is_well_has_no_broken_link() -> None:
    """Also where a container died once and is back, and an ended pod lies beside the one that took its place."""
    died = pod("worker", WORKER, restartCount=1, lastState={"terminated": {"exitCode": 137, "reason": "OOMKilled"}})
    gone = {**captured("evicted.yaml"), "spec": {"nodeName": "n1", "containers": [{"name": WORKER}]}}
    gone["status"] = {**gone["status"], "phase": "Failed"}

    assert chain.first(well()) is None
    assert chain.first(well(pods=(pod("head", HEAD), died, gone))) is None
    assert [row.holds for row in chain.links(well(), None, router=True)] == [True] * 7


def test_every_known_cause_breaks_one_link() -> None:
    """A cause without one would be found and never told."""
    assert set(chain.LINK_OF) == {row.name for row in causes.KNOWN}
    assert set(chain.LINK_OF.values()) <= set(chain.OF_RAY)


# ---------------------------------------------------------------- on a real control plane


class Standing:
    """A release whose objects are made, and whoever says what is wrong with it."""

    def __init__(self, place: Place, *, verified: bool = True, scripted: str = "") -> None:
        self.place, image = place, KubernetesImage(place)
        extra = {"scripted": scripted} if scripted else {}
        self.release: Release = release(image=IMAGE_USED, engine={"kind": "vllm", "max_model_len": 64, "max_num_seqs": 2, "extra": extra})
        self.service = KubernetesService(place, KubernetesWeights(place, image), image)
        self.diagnosis = Diagnosis(place, KubernetesEndpoint(place, KubernetesRecords(place), image, Endpoint.model_validate({"image": IMAGE_USED})))
        place.api.apply(claim(place, self.release.manifest, "demo", "ReadWriteMany"))
        if verified:
            Claim(place).note(self.release.manifest, Told(1.0, None, CONFIG))
        self.service._make(self.release, Progress(120), None)

    def until(self, link: str, *, live: bool = False, said: str = "") -> Chain:
        """Once this is the first link that does not hold, and its problem tells of that."""

        def look() -> Chain | None:
            found = self.diagnosis.chain(self.release, live=live)
            told = found.problem.text() if found.problem else ""
            return found if found.broken and found.broken.name == link and said in told else None

        return Progress(250).until(look, every=0.5)


def known(name: str) -> causes.Known:
    return next(row for row in causes.KNOWN if row.name == name)


def test_a_pod_that_no_node_takes_is_told_with_the_schedulers_words(places: Places) -> None:
    """And a start that reaches its deadline says where it stood, not only that it did."""
    standing = Standing(places(node_selector={"accelerator": "none-such"}))

    found = standing.until(NODE, said=known("selector").why)
    with pytest.raises(Timeout) as told:
        standing.service.apply(standing.release, Progress(4))

    assert found.problem
    assert (found.problem.why, found.problem.next) == (known("selector").why, known("selector").next)
    assert [link.holds for link in found.links] == [True, False, None, None, None, None]
    assert "node: Unschedulable" in (told.value.problem.why or "")
    assert "node affinity" in (told.value.problem.log or "")


def test_an_image_that_can_not_be_pulled_is_told_with_the_registrys_words(place: Place) -> None:
    """The pod's status is written as a kubelet would: nothing is pulled here."""
    standing = Standing(place)
    (name,) = (item["metadata"]["name"] for item in pods(standing, 1))
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image: failed to resolve reference "registry.example.com/llm-engine": not found'}
    row = {"name": "engine", "image": "x", "imageID": "", "ready": False, "restartCount": 0, "state": {"waiting": waiting}}

    def patch() -> bool | None:
        status = {"phase": "Pending", "containerStatuses": [row], "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}]}
        place.api.call("PATCH", kinds.POD.path(place.namespace, name, "status"), {}, {"status": status}, content="application/merge-patch+json")
        found = standing.diagnosis.chain(standing.release, live=False)
        return True if found.broken and found.broken.name == IMAGE and found.problem and "not found" in (found.problem.log or "") else None

    Progress(250).until(patch, every=0.5)
    found = standing.until(IMAGE, said="not found")
    assert found.problem
    assert found.problem.why == known("image_missing").why


def test_a_container_that_goes_on_ending_tells_its_last_words(real_place: Place) -> None:
    """Those before the restart; and what they mean goes before what Kubernetes says."""
    standing = Standing(real_place, scripted="die too_long")

    found = standing.until(ENGINE, said="before restart")

    assert found.problem
    assert "not made for contexts this long" in (found.problem.why or "")
    assert "last lines:" in (found.problem.log or "")
    assert [link.holds for link in found.links] == [True, True, True, True, False, None]


def test_a_claim_without_a_volume_is_told_before_the_node_that_waits_for_it(places: Places) -> None:
    """Its storage class is served by nobody."""
    found = Standing(places(storage_class="none-such")).until(WEIGHTS, said="unbound immediate")

    assert found.problem
    assert found.problem.why == known("claim_pending").why


def test_a_quota_that_is_used_up_is_told_with_its_numbers(place: Place) -> None:
    """No pod is there that could say anything: what should have made it says it."""
    place.api.create({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small", "namespace": place.namespace}, "spec": {"hard": {"pods": "0"}}})
    Progress(250).until(lambda: quota_is_seen(place), every=0.5)

    found = Standing(place).until(CLUSTER, said="exceeded quota: small")

    assert found.problem
    assert found.problem.why == known("quota").why
    assert [link.holds for link in found.links] == [False, None, None, None, None, None]


def test_an_engine_that_is_up_and_a_router_that_is_not_are_told_apart(place: Place) -> None:
    """Whoever has no traffic yet is not asked about the router."""
    standing = Standing(place)

    live = standing.until(ROUTER, live=True)
    candidate = standing.diagnosis.chain(standing.release, live=False)

    assert live.problem
    assert "router: it is not there" in live.problem.what
    assert (candidate.problem, candidate.links[-1].holds) == (None, None)
    assert [link.holds for link in live.links] == [True] * 5 + [False]


def test_files_that_were_never_verified_are_told_before_the_engine_that_reads_them(place: Place) -> None:
    """The claim is there and mounted."""
    found = Standing(place, verified=False).until(WEIGHTS, said="are not verified")

    assert found.problem
    assert found.problem.next == "llm-pipeline up demo fills the claim again"


def pods(standing: Standing, count: int) -> list[Object]:
    """Of the release, once there are so many and they are said to run."""
    place = standing.place

    def look(now: Any) -> list[Object] | None:
        return list(now) if len(now) == count and all(item["status"].get("phase") == "Running" for item in now) else None

    return place.api.until(kinds.POD, place.namespace, look, Progress(250), labels=place.selector("ray_service", release=standing.release.name))


def quota_is_seen(place: Place) -> bool | None:
    """Whether its controller counted: before, nothing is refused."""
    found = place.api.get(kinds.QUOTA, "small", place.namespace)
    return True if found and (found.get("status") or {}).get("hard") else None
