"""The life of a model on a cluster, told as a user lives it: the real API server and KubeRay, real Ray Serve, real vLLM and HAProxy as pods.

What stands in: this machine's file system for every image; nodes are simulated. The story itself is that of tests/life, in the same words.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from infra.errors import PipelineError
from infra.kubernetes import kinds
from infra.kubernetes.place import OURS
from infra.kubernetes.ray_service import READY
from infra.kubernetes.router_manifest import ROUTER
from infra.waiting import Progress
from tests.doubles.permute import permute
from tests.kubernetes import foreign
from tests.kubernetes.lab import REAL, Lab, first_process
from tests.life import clone as clones
from tests.life.clone import Clone
from tests.life.load import Load
from tests.life.told import KUBERNETES, untyped

pytestmark = [pytest.mark.real, pytest.mark.timeout(5400)]

PATIENCE = 1500
"""Seconds for one command: a start takes one minute where nobody else needs the machine."""

IMAGE, HAPROXY = (f"registry.invalid/{name}@sha256:{digit * 64}" for name, digit in (("llm-engine", "a"), ("haproxy", "b")))


@dataclass
class Far:
    """A clone on this machine whose model lives in a namespace of the lab."""

    clone: Clone
    lab: Lab
    namespace: str
    looked: tuple[float, bool] = (0.0, False)

    @property
    def url(self) -> str:
        """As programs inside the cluster reach it."""
        found = self.lab.api.get(kinds.SERVICE, ROUTER, self.namespace)
        assert found
        return f"http://{found['spec']['clusterIP']}:8000/v1"

    def json(self, *args: str, expect: int = 0) -> Any:
        """One command of the product."""
        return self.clone.json(*args, expect=expect, timeout=PATIENCE)

    def ours(self) -> set[str]:
        """What of the namespace has our labels."""
        mine = {**OURS, "llm-pipeline/cluster": "lab"}
        return {name for name, labels in foreign.everything(self.lab.api, self.namespace).items() if mine.items() <= labels.items()}

    def two_are_up(self) -> bool:
        """The candidate answers, and the old release is not gone yet. Looked at once a second."""
        at, seen = self.looked
        if time.monotonic() - at >= 1:
            seen = self._two()
            self.looked = time.monotonic(), seen
        return seen

    def _two(self) -> bool:
        try:
            found = self.lab.api.list(kinds.SERVICE, self.namespace, "llm-pipeline/part=ray_service").items
        except PipelineError:  # who asks is a client among others, and can not tell now
            return False
        return sum(READY in (item["metadata"].get("annotations") or {}) for item in found) == 2

    def pod(self, role: str) -> str:
        """The only pod of Ray's that has this role."""
        (found,) = self.lab.api.list(kinds.POD, self.namespace, f"llm-pipeline/part=ray_service,ray.io/node-type={role}").items
        return str(found["metadata"]["name"])


@pytest.fixture
def far(real_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    """The demo, moved to a cluster."""
    with real_lab.namespace() as namespace, clones.made(tmp_path_factory.mktemp("clone")) as clone:
        declared(clone.root / "assets/clusters/lab/defs.yaml", real_lab, namespace)
        found = Far(clone, real_lab, namespace)
        moves(found)
        yield found


def declared(path: Path, lab: Lab, namespace: str) -> None:
    """JSON is YAML."""
    block = {"kubeconfig": str(lab.kubeconfig), "context": lab.context, "namespace": namespace, "kuberay": "existing", "pod_annotations": REAL}
    attributes = {"platform": "kubernetes", "kubernetes": block, "endpoint": {"image": HAPROXY}}
    path.parent.mkdir()
    path.write_text(json.dumps({"type": "llm_pipeline.components.Cluster", "attributes": attributes}))


def test_a_life_on_a_cluster(far: Far) -> None:
    """Declare, up, chat, a new revision under load, a bad one refused, rollback, down: no request is lost, nothing of ours is left, nothing else touched.

    Beside more it types what docs/from-laptop-to-kubernetes.md tells people to type, in that order.
    """
    clone, theirs = far.clone, foreign.make(far.lab.api, far.namespace)
    before = foreign.settled(far.lab.api, theirs)
    first = far.json("up", "demo")
    assert (first["result"], first["endpoint"]) == ("serving", f"http://{ROUTER}.{far.namespace}.svc:8000/v1")
    assert clone.run("chat", "demo", "What is a release?").stdout.startswith("A release is one exact combination")
    assert far.json("up", "demo")["result"] == "unchanged"
    assert clone.run("status").returncode == 0
    assert "Initializing a V1 LLM engine" in clone.run("logs", "demo").stdout
    assert far.json("diff", "demo")["equal"]

    with Load(far.url, "demo", long_when=far.two_are_up, pause=1.5) as load:
        second = new_revision(far)
        refused(far, second["release"])
        back = far.json("rollback", "demo")
        assert (back["result"], back["release"], back["previous_release"]) == ("serving", first["release"], second["release"])
    assert not load.failed, load.failed[:5]
    assert set(load.releases()) == {f"demo-{first['release']}", f"demo-{second['release']}"}
    assert load.releases(long=True), "no long answer was under way while two were up"
    taken_down(far)
    assert foreign.marks(far.lab.api, theirs) == before
    moves_back(far)
    assert untyped(KUBERNETES, clone.typed, {"REGISTRY/llm-engine:cpu": IMAGE}) == []


def test_ray_that_is_killed_serves_the_same_release_again(far: Far) -> None:
    """Its worker, then its head: healed by `up`, then by the cluster itself. Whoever asks meanwhile is refused, and nobody else; nothing is doubled or left."""
    release = far.json("up", "demo")["release"]
    with Load(far.url, "demo", long_when=lambda: False, pause=1.5) as load:
        outages = [(killed(far, "worker"), by_up(far, release)), (killed(far, "head"), by_itself(far))]

    lost = [answer for answer in load.failed if not any(began <= answer.ended and answer.began <= ended for began, ended in outages)]
    assert not lost, lost[:5]
    assert set(load.releases()) == {f"demo-{release}"}
    row = far.clone.model()
    assert (row["state"], row["release"], row["candidate"]) == ("serving", release, None)
    taken_down(far)


def moves(far: Far) -> None:
    """The cluster is declared. Before anything is made there: the rights, whether it answers, one edit of the model, and what would be sent."""
    clone = far.clone
    assert "kind: ClusterRole" in clone.run("doctor", "--rbac").stdout
    lines = [row for row in far.json("doctor") if row["check"].startswith("cluster lab")]
    assert lines and [row for row in lines if row["state"] == "missing"] == []
    assert clone.json("down", "demo")["left"] == []
    clone.edit("demo", "cluster: local ", "cluster: lab ")
    clone.edit("demo", "image: null ", f"image: {IMAGE} ")
    assert "kind: RayService" in clone.run("generate", "demo").stdout


def moves_back(far: Far) -> None:
    """The same edit the other way round: it serves on this machine as before, and nothing of it stays."""
    clone = far.clone
    clone.edit("demo", "cluster: lab ", "cluster: local ")
    clone.edit("demo", f"image: {IMAGE} ", "image: null ")
    clone.edit("demo", "weights: file://weights/v3", "weights: file://weights/v1")
    back = far.json("up", "demo")
    assert (back["result"], back["endpoint"]) == ("serving", clone.url)
    assert clone.json("down", "demo")["left"] == []
    assert clone.processes() == {}


def new_revision(far: Far) -> dict[str, str]:
    """One line of the YAML, `up`: the old one answers until the new one does."""
    far.clone.edit("demo", "weights: file://weights/v1", "weights: file://weights/v2")
    done = far.json("up", "demo")
    assert done["result"] == "serving"
    assert far.clone.run("chat", "demo", "Who are you?").stdout.startswith("I am revision v2")
    return dict(done)


def refused(far: Far, serving: str) -> None:
    """Permuted weights load and answer, wrongly: what serves, serves on."""
    folder = far.clone.root / "assets/models/demo/weights"
    permute(folder / "v1", folder / "v3", seed=1)
    far.clone.edit("demo", "weights: file://weights/v2", "weights: file://weights/v3")
    assert far.json("up", "demo", expect=1)["result"] == "refused"
    row = far.clone.model()
    assert (row["release"], row["candidate"]) == (serving, None)


def taken_down(far: Far) -> None:
    """What runs goes, data is kept and listed; with --purge that goes too."""
    report = far.json("down", "--cluster", "lab", "--include-models")
    assert report["left"] == []
    assert {row["part"] for row in report["removed"]} >= {"ray_service", "endpoint"}
    assert {name.partition("/")[0] for name in far.ours()} <= {"configmaps", "persistentvolumeclaims"}
    assert far.json("leftovers") == []
    assert far.json("down", "--all", "--purge", "--yes")["left"] == []
    assert far.ours() == set()


def killed(far: Far, role: str) -> float:
    """When it was; once the loss shows."""
    at = time.time()
    os.kill(first_process(far.pod(role)), signal.SIGKILL)
    eventually(lambda: far.clone.model()["state"] != "serving")
    return at


def by_up(far: Far, release: str) -> float:
    """Nobody but the person who runs it is needed; when it was done."""
    done = far.json("up", "demo")
    assert done["result"] in ("serving", "unchanged")
    assert done["release"] == release
    return time.time()


def by_itself(far: Far) -> float:
    """KubeRay's operator brings it back."""
    eventually(lambda: far.clone.model()["state"] == "serving" and far.clone.run("chat", "demo", "What is a pin?").returncode == 0)
    return time.time()


def eventually(probe: Callable[[], bool]) -> None:
    Progress(PATIENCE).until(lambda: probe() or None, every=1)
