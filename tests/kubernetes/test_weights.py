"""Weights on a cluster: the claim, the Job that fills it, what runs in its pod, and how files of this machine get there."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra import settings, weights
from infra.errors import ConfigError, Conflict, PipelineError
from infra.kubernetes import kinds, weights_job
from infra.kubernetes.image import KubernetesImage
from infra.kubernetes.inside.order import DONE, HOPELESS, Order
from infra.kubernetes.model_weights import KubernetesWeights
from infra.kubernetes.place import Place
from infra.kubernetes.weights_claim import Claim, Told
from infra.kubernetes.weights_code import archive
from infra.kubernetes.weights_job import Task, claim, claim_name
from infra.platform import Release
from infra.specs import KubernetesBlock
from infra.waiting import Progress
from infra.weights import Access, Manifest, Seen
from tests.doubles.hub import Hub
from tests.doubles.model import lay_model, model_files
from tests.doubles.releases import release, spec
from tests.kubernetes.fixtures import Places
from tests.kubernetes.lab import Lab

IMAGE = "registry.example.com/engine@sha256:" + "0" * 64
TOKEN = "hf_" + "tokenoftests"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with the files of a small model."""
    return lay_model(tmp_path / "source")


@pytest.fixture
def real(real_place: Place) -> KubernetesWeights:
    """Where pods are processes, and every look at the files is a fresh one."""
    return KubernetesWeights(real_place, KubernetesImage(real_place), trust=0)


def released(part: KubernetesWeights, folder: Path, **more: Any) -> Release:
    """A release of what the folder holds now."""
    wanted = spec(weights=f"file://{folder.name}", **more)
    seen = part.look(wanted, folder.parent, Progress(120))
    return Release(wanted, seen.revision, seen.manifest, IMAGE, seen.source, str(folder.parent))


def volume(lab: Lab, place: Place, manifest: Manifest) -> Path:
    """The folder that is the claim's volume."""
    claim = place.api.get(kinds.CLAIM, claim_name(manifest), place.namespace)
    assert claim
    found = place.api.get(kinds.VOLUME, claim["spec"]["volumeName"])
    assert found
    return Path(found["spec"]["hostPath"]["path"])


def ours(place: Place) -> dict[str, list[str]]:
    """Names of everything of weights in the namespace."""
    wanted = (kinds.JOB, kinds.POD, kinds.CONFIG_MAP, kinds.SECRET, kinds.CLAIM)
    found = {kind.plural: [item["metadata"]["name"] for item in place.api.list(kind, place.namespace, place.selector(weights_job.PART)).items] for kind in wanted}
    return {kind: names for kind, names in found.items() if names}


# ------------------------------------------------ on a cluster


def test_of_filling_and_looking_only_the_claim_is_left(lab: Lab, real_place: Place, real: KubernetesWeights, source: Path) -> None:
    """And what an engine needs to know is told beside it; what is repaired is sent, and nothing else; what goes takes everything along."""
    release, progress = released(real, source), Progress(250)

    real.apply(release, progress)
    told, beside = real.config(release), ours(real_place)
    bad = volume(lab, real_place, release.manifest) / "config.json"
    bad.write_bytes(bad.read_bytes()[:-1] + b" ")
    real.verify(release, progress)
    repaired = real.apply(release, progress)

    assert told["hidden_size"] == 100
    assert beside == ours(real_place) == {"persistentvolumeclaims": [real.claim(release)]}
    assert repaired.fetched_bytes == (source / "config.json").stat().st_size
    real.delete(release, progress)
    assert ours(real_place) == {}


def test_a_step_that_is_killed_leaves_a_job_that_the_next_one_goes_on_with(real_place: Place, real: KubernetesWeights, source: Path) -> None:
    """Never two of them, and the code that it runs goes with it."""
    release, seen = released(real, source), set()

    def looking(die: str) -> Progress:
        """Looks for Jobs whenever anything is said, and dies when this is."""
        made = Progress(250)
        say = made.phase

        def phase(name: str, detail: str = "", started: float | None = None) -> None:
            say(name, detail, started)
            seen.update(job["metadata"]["uid"] for job in real_place.api.list(kinds.JOB, real_place.namespace).items)
            if detail.startswith(die):
                raise KeyboardInterrupt

        made.phase = phase  # type: ignore[method-assign]
        return made

    with pytest.raises(KeyboardInterrupt):
        real.apply(release, looking("sending"))
    (left,) = real_place.api.list(kinds.JOB, real_place.namespace).items
    (code,) = real_place.api.list(kinds.CONFIG_MAP, real_place.namespace, real_place.selector(weights_job.PART)).items
    state = real.apply(release, looking("nothing of this"))

    assert state.changed
    assert seen == {left["metadata"]["uid"]}
    assert [owner["uid"] for owner in code["metadata"]["ownerReferences"]] == [left["metadata"]["uid"]]
    assert ours(real_place) == {"persistentvolumeclaims": [real.claim(release)]}


def test_a_folder_that_has_moved_on_makes_nothing(place: Place, source: Path) -> None:
    """A release names its bytes: what lies there now is another one."""
    part = KubernetesWeights(place, KubernetesImage(place))
    release = released(part, source)
    (source / "config.json").write_text("{}")

    with pytest.raises(PipelineError, match="does not hold the weights"):
        part.apply(release, Progress(120))

    assert ours(place) == {}


def test_a_claim_on_its_way_out_holds_no_weights(place: Place) -> None:
    """A pod that mounts it would never start."""
    manifest = release().manifest
    leaving = claim(place, manifest, "demo", "ReadWriteMany")
    leaving["metadata"]["finalizers"] = ["test/held"]
    place.api.apply(leaving)
    before = Claim(place).find(manifest)

    place.api.delete(kinds.CLAIM, claim_name(manifest), place.namespace)

    assert before and Claim(place).find(manifest) is None
    assert place.api.get(kinds.CLAIM, claim_name(manifest), place.namespace)
    place.api.merge(kinds.CLAIM, claim_name(manifest), place.namespace, {"metadata": {"finalizers": None}})


def test_a_verification_is_believed_for_a_while(place: Place, source: Path) -> None:
    """`up` asks twice: no pod reads it all again for that. What was never verified is bad, file by file."""
    part = KubernetesWeights(place, KubernetesImage(place), trust=3600)
    release = released(part, source)
    assert {bad.path for bad in part.verify(release, Progress(120))} == {file.path for file in release.manifest.files}
    claim = Claim(place)
    claim.ensure(release, Progress(120))
    claim.note(release.manifest, Told(time.time(), None, {}))

    assert part.verify(release, Progress(120)) == ()
    assert part.observe(release)
    assert part.observe(replace(release, manifest=Manifest(release.manifest.files[1:]))) is None


@pytest.mark.parametrize("verb", ["apply", "verify"])
def test_a_job_that_a_killed_step_left_behind_full_weights_goes_with_the_next(place: Place, source: Path, verb: str) -> None:
    """It was killed between the mark on the claim and the removal of what had filled it; the next step asks first whether all is right."""
    part = KubernetesWeights(place, KubernetesImage(place))
    release = released(part, source)
    Claim(place).ensure(release, Progress(120))
    Claim(place).note(release.manifest, Told(time.time(), None, {}))
    for manifest in part.manifests(release)[1:]:
        place.api.apply(manifest)

    state = getattr(part, verb)(release, Progress(120))

    assert state == () or not state.changed
    assert ours(place) == {"persistentvolumeclaims": [part.claim(release)]}


def test_a_class_of_one_node_is_refused_where_several_could_run_the_engine(lab: Lab, places: Places, source: Path) -> None:
    """With the way out; with one node chosen it is right, and all that mounts the claim goes there. A class that shares is used as one."""
    for name, provisioner in (("t-block", "ebs.csi.aws.com"), ("t-shared", "nfs.csi.k8s.io")):
        lab.api.apply({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"})
    node = lab.api.list(kinds.NODE).items[0]["metadata"]
    block = places(storage_class="t-block")
    release = released(KubernetesWeights(block, KubernetesImage(block)), source)
    chosen = places(storage_class="t-block", node_selector={"kubernetes.io/hostname": node["labels"]["kubernetes.io/hostname"]})

    with pytest.raises(ConfigError, match="t-block can not hold the weights") as told:
        Claim(block).ensure(release, Progress(120))
    assert "node_selector" in (told.value.problem.next or "")

    assert Claim(chosen).ensure(release, Progress(120)) == (node["name"],)
    assert mode(chosen, release) == ["ReadWriteOnce"]
    Claim(chosen).delete(release.manifest, Progress(120))
    assert Claim(places(storage_class="t-shared")).ensure(release, Progress(120)) == ()
    assert mode(chosen, release) == ["ReadWriteMany"]
    with pytest.raises(ConfigError, match="no storage class t-none"):
        Claim(places(storage_class="t-none")).ensure(release, Progress(120))


def test_weights_that_somebody_reads_are_not_taken_away(place: Place, source: Path) -> None:
    """Kubernetes would wait for that pod for ever."""
    part = KubernetesWeights(place, KubernetesImage(place))
    release = released(part, source)
    Claim(place).ensure(release, Progress(120))
    volumes = [{"name": "w", "persistentVolumeClaim": {"claimName": part.claim(release)}}]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "reader", "namespace": place.namespace}, "spec": {"containers": [{"name": "c", "image": "x"}], "volumes": volumes}}
    place.api.apply(pod)

    with pytest.raises(Conflict, match="in use"):
        part.delete(release, Progress(120))

    place.api.delete(kinds.POD, "reader", place.namespace, grace=0)
    part.delete(release, Progress(120))


def mode(place: Place, release: Release) -> list[str]:
    found = place.api.get(kinds.CLAIM, claim_name(release.manifest), place.namespace)
    assert found
    return list(found["spec"]["accessModes"])


# ------------------------------------------------ manifests


def test_the_token_of_the_hub_is_in_its_secret_and_nowhere_else(tmp_path: Path) -> None:
    """The Job names the Secret; the one of the cluster where there is one, else one that goes with the Job."""
    place = Place(settings.load(home=tmp_path, HF_TOKEN=TOKEN), "lab", KubernetesBlock(context="lab"))
    order = Order("fill", Manifest(()), "hf://org/tiny", "hub", "1" * 40, endpoint="https://hub.example.com", repo="org/tiny")
    task = weights_job.with_own_token(Task(order, "demo", IMAGE))
    owner = {"metadata": {"name": task.name, "uid": "u-1"}}

    job, code, secret = weights_job.job(place, task), weights_job.code(place, task, owner), weights_job.secret(place, task, TOKEN, owner)
    (container,) = job["spec"]["template"]["spec"]["containers"]

    assert {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": task.name, "key": "token"}}} in container["env"]
    assert TOKEN not in json.dumps([job, code])
    assert base64.b64decode(secret["data"]["token"]).decode() == TOKEN
    assert secret["metadata"]["ownerReferences"][0]["uid"] == "u-1"
    assert len(json.dumps(code)) < 1 << 20


# ------------------------------------------------ what runs in the pod


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture
def pod(tmp_path: Path) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Runs an order as the pod does: the archive, in a process that has the standard library only. Its code and its last line."""
    (tmp_path / "weights.pyz").write_bytes(archive())
    (tmp_path / "claim").mkdir()

    def run(order: Order, token: str = "") -> tuple[int, dict[str, Any]]:
        (tmp_path / "order.json").write_text(order.to_json())
        argv = [sys.executable, "-I", "-S", str(tmp_path / "weights.pyz"), str(tmp_path / "order.json"), str(tmp_path / "claim")]
        done = subprocess.run(argv, env={"PATH": os.environ["PATH"], "HF_TOKEN": token}, capture_output=True, text=True, timeout=280, check=False)
        assert not done.stderr, done.stderr
        assert TOKEN not in done.stdout
        return done.returncode, json.loads(done.stdout.splitlines()[-1])

    return run


def ordered(hub: Hub, seen: Seen, **more: Any) -> Order:
    return Order("fill", seen.manifest, seen.source, "hub", seen.revision, endpoint=hub.endpoint, repo="org/tiny", **{"stall": 6.0, **more})


def looked(hub: Hub, folder: Path) -> Seen:
    return weights.open_source(weights.parse("hf://org/tiny", folder), Access(hf_endpoint=hub.endpoint, hf_token=TOKEN)).look(Progress(120))


def test_a_pod_fetches_from_the_hub_through_every_fault_that_passes(hub: Hub, tmp_path: Path, pod: Callable[..., tuple[int, dict[str, Any]]]) -> None:
    """A broken connection, one that stalls, a damaged copy, a server that is busy: all bytes are right in the end, and the token went to the Hub alone."""
    hub.tokens.add(TOKEN)
    files = model_files(rows=5000)
    hub.commit("org/tiny", files)
    seen = looked(hub, tmp_path)
    for kind, path, more in (("drop", "model.safetensors", {"after": 300_000}), ("stall", "model.safetensors", {"after": 100_000}), ("flip", "tokenizer.json", {"after": 3}), ("status", "config.json", {"status": 503})):
        hub.fault(kind, path, **more)  # type: ignore[arg-type]

    code, last = pod(ordered(hub, seen), TOKEN)
    again, told = pod(ordered(hub, seen), TOKEN)

    assert (code, again) == (DONE, DONE)
    assert last["result"]["manifest"] == told["result"]["manifest"] == seen.manifest.digest
    assert (last["result"]["fetched"] >= seen.manifest.size, told["result"]["fetched"]) == (True, 0)
    assert all((tmp_path / "claim" / file.path).read_bytes() == files[file.path] for file in seen.manifest.files)
    assert {request.server for request in hub.requests if request.authorised} == {"hub"}
    assert hub.twice() < 300_000
    assert not hub.unexpected


def test_a_pod_that_the_hub_refuses_says_why_and_that_trying_again_is_in_vain(hub: Hub, tmp_path: Path, pod: Callable[..., tuple[int, dict[str, Any]]]) -> None:
    """In the words that the laptop has for it."""
    hub.tokens.add(TOKEN)
    hub.commit("org/tiny", model_files(rows=10))
    seen = looked(hub, tmp_path)
    hub.repos["org/tiny"].gated = True

    code, last = pod(ordered(hub, seen), TOKEN)

    assert code == HOPELESS
    assert (last["problem"]["kind"], "gated" in last["problem"]["why"]) == ("Denied", True)


def test_a_pod_that_verifies_changes_nothing_and_names_what_is_bad(hub: Hub, tmp_path: Path, pod: Callable[..., tuple[int, dict[str, Any]]]) -> None:
    """Damaged and missing files, by name; what was never filled is not here."""
    hub.commit("org/tiny", model_files(rows=10))
    seen = weights.open_source(weights.parse("hf://org/tiny", tmp_path), Access(hf_endpoint=hub.endpoint)).look(Progress(120))
    look = Order("verify", seen.manifest, seen.source)
    _, empty = pod(look)
    pod(ordered(hub, seen))
    _, good = pod(look)
    (tmp_path / "claim" / "config.json").write_text("{}")
    (tmp_path / "claim" / "tokenizer.json").unlink()

    code, last = pod(look)

    assert len(empty["result"]["bad"]) == len(seen.manifest.files)
    assert good["result"]["bad"] == []
    assert (code, [path for path, _ in last["result"]["bad"]]) == (DONE, ["config.json", "tokenizer.json"])
    assert (tmp_path / "claim" / "config.json").read_text() == "{}"
