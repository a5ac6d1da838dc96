"""Lines about a cluster, each with its fault: a scripted API server that is only ever asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.kubernetes import cluster, kinds, operator
from llm_pipeline import components
from llm_pipeline.doctor import clusters
from llm_pipeline.doctor.lines import Line
from tests.doctor.conftest import SECONDS, Declare, answers
from tests.doctor.conftest import clocks as clocks_of
from tests.doubles import unreachable
from tests.doubles.api_server import ApiServer

DEFAULT = {"storageclass.kubernetes.io/is-default-class": "true"}
PLUGINS = [{"name": "plugins", "hostPath": {"path": "/var/lib/kubelet/device-plugins"}}]


def node(name: str = "a", gpus: int = 0, **labels: str) -> dict[str, Any]:
    has = {"cpu": "8", "memory": "32Gi", "pods": "110", **({"nvidia.com/gpu": str(gpus)} if gpus else {})}
    return {"metadata": {"name": name, "labels": labels}, "spec": {}, "status": {"allocatable": has, "conditions": [{"type": "Ready", "status": "True"}]}}


def kuberay(version: str = "1.6.1", *words: str) -> dict[str, Any]:
    container = {"name": "kuberay-operator", "image": f"quay.io/kuberay/operator:v{version}", "args": list(words)}
    meta = {"name": "kuberay-operator", "namespace": "ray", "labels": {"app.kubernetes.io/name": "kuberay-operator"}}
    return {"metadata": meta, "spec": {"template": {"spec": {"containers": [container]}}}, "status": {"availableReplicas": 1}}


def pod(name: str, cpu: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "llm"}, "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}, "status": {"phase": "Running"}}


def quota(**hard: str) -> dict[str, Any]:
    return {"metadata": {"name": "team", "namespace": "llm"}, "spec": {"hard": {name.replace("_", "."): value for name, value in hard.items()}}}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiServer]:
    """With all that a cluster must have. Nobody changes anything there, nor asks for what it does not know."""
    with ApiServer(tmp_path) as made:
        made.put(kinds.NODE, node())
        made.put(kinds.STORAGE_CLASS, {"metadata": {"name": "standard", "annotations": DEFAULT}})
        made.put(kinds.DEFINITION, json.loads(json.dumps(next(one for one in operator.definitions() if one["metadata"]["name"] == "rayservices.ray.io"))))
        made.put(kinds.DEPLOYMENT, kuberay())
        yield made
        assert made.written == [] and made.unexpected == []


@pytest.fixture
def lab(server: ApiServer, declare: Declare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Declares the cluster `lab` over it, with other keys."""
    monkeypatch.setenv("LLM_PIPELINE_HOME", str(tmp_path / "home"))

    def put(**more: Any) -> None:
        block = {"kubeconfig": str(server.kubeconfig), "context": "scripted", "kuberay": "existing", **more}
        declare("clusters", "lab", {"platform": "kubernetes", "kubernetes": block})

    put()
    return put


def asked(seconds: float = SECONDS) -> dict[str, Line]:
    """The lines of the cluster `lab`, by the last word."""
    return {check.removeprefix("cluster lab "): line for check, line in answers(clusters.questions(components.declared(), SECONDS), seconds).items()}


def test_a_cluster_that_has_all_is_told_line_by_line(lab: Any, server: ApiServer) -> None:
    found = asked()

    assert list(found) == ["identity", "api_version", "rights", "storage_class", "kuberay", "nodes", "device_plugin", "quota"]
    assert {line.state for line in found.values()} == {"ok"}
    assert server.url in found["identity"].what and "1.6.1" in found["kuberay"].what
    assert {line.group for line in found.values()} == {"cluster lab"}


def test_a_context_that_is_not_there(lab: Any) -> None:
    """The kubeconfig's others are named; nothing else is asked."""
    lab(context="typo")

    found = asked()

    assert list(found) == ["identity"] and found["identity"].state == "missing" and "it has scripted" in found["identity"].what


def test_a_server_that_is_not_there(lab: Any, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    with ApiServer(tmp_path / "gone") as gone:
        lab(kubeconfig=str(gone.kubeconfig))

    found = asked()

    assert list(found) == ["identity"] and found["identity"].state == "fix" and "nobody listens there" in found["identity"].what


def test_a_server_that_is_silent_costs_its_own_line_only(lab: Any, declare: Declare, tmp_path: Path) -> None:
    """Another cluster is told of meanwhile; and a silence that ends first by a deadline of the connection's own says more."""
    (tmp_path / "other").mkdir()
    with ApiServer(tmp_path / "other") as other:
        other.deaf = True
        declare("clusters", "silent", {"platform": "kubernetes", "kubernetes": {"kubeconfig": str(other.kubeconfig), "context": "scripted"}})
        found = answers(clusters.questions(components.declared(), SECONDS), 6)

    line = found["cluster silent identity"]
    assert line.state == "fix" and line.what == "no answer within 6.0 s" and "VPN" in str(line.next)
    assert found["cluster lab rights"].state == "ok"


def test_each_way_of_not_being_there_is_a_line_of_its_own(declare: Declare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Likely cause and next step, as `plan` and `status` say them; told at once, since whoever asks wants to know how it is now."""
    monkeypatch.setattr(cluster, "PATIENCE", SECONDS)
    with unreachable.stand(tmp_path) as made:
        for name, config in made.items():
            declare("clusters", name, {"platform": "kubernetes", "kubernetes": {"kubeconfig": str(config), "context": "there"}})
        found = answers(clusters.questions(components.declared(), 3), SECONDS / 2)

    assert set(found) == {f"cluster {name} identity" for name in unreachable.WHY}
    for name, (why, following) in unreachable.WHY.items():
        line = found[f"cluster {name} identity"]
        assert why in line.what and following in str(line.next) and ("is not trusted" in line.what) == (name in ("stranger", "expired", "misnamed")), line
        assert line.state == ("missing" if name in ("unbelieved", "forbidden") else "fix") and "a-token-of-nobody" not in f"{line}"
    assert len([one for one in unreachable.ASKED if "kube-system" in one]) == 3, "whoever takes a request is asked once who it is"


def test_a_token_that_is_not_believed(lab: Any, server: ApiServer) -> None:
    server.kubeconfig.write_text(server.kubeconfig.read_text().replace("the-token-of-the-double", "an-old-one"))

    line = asked()["identity"]

    assert line.state == "missing" and "does not believe who we are" in line.what


def test_another_cluster_than_before(lab: Any, tmp_path: Path) -> None:
    """What this machine knows of it is compared; nothing is asked there."""
    (tmp_path / "home/clusters/lab").mkdir(parents=True)
    (tmp_path / "home/clusters/lab/identity.json").write_text(json.dumps({"uid": "another"}))

    found = asked()

    assert list(found) == ["identity"] and found["identity"].state == "missing" and "not the place that it was" in found["identity"].what


def test_a_right_that_is_missing_is_named(lab: Any, server: ApiServer) -> None:
    """Whatever else can be told is told all the same."""
    server.denied = {"list nodes", "create jobs"}

    found = asked()

    assert found["rights"].state == "missing" and "create jobs in llm; list nodes" in found["rights"].what and "doctor --rbac" in str(found["rights"].next)
    assert found["storage_class"].state == "ok" and found["nodes"].state == "missing"


@pytest.mark.parametrize(("version", "state", "word"), [("v1.27.9", "missing", "too old"), ("v1.35.4-eks-1", "ok", "v1.35.4-eks-1"), ("v1.41.0", "fix", "1.41 is newer than what was tested")])
def test_a_server_of_another_version(lab: Any, server: ApiServer, version: str, state: str, word: str) -> None:
    server.version = version

    line = asked()["api_version"]

    assert line.state == state and word in line.what


def test_no_default_storage_class(lab: Any, server: ApiServer) -> None:
    server.put(kinds.STORAGE_CLASS, {"metadata": {"name": "standard"}})

    line = asked()["storage_class"]

    assert line.state == "missing" and "it has standard" in line.what


@pytest.mark.parametrize(
    ("deployment", "state", "word"),
    [(kuberay("1.2.0"), "missing", "too old"), (kuberay("1.9.0"), "fix", "KubeRay 1.9 is newer than what was tested"), (kuberay("1.6.1", "--watch-namespace=theirs"), "missing", "looks after")],
    ids=["old", "new", "elsewhere"],
)  # fmt: skip
def test_an_operator_of_another_version_or_for_others(lab: Any, server: ApiServer, deployment: dict[str, Any], state: str, word: str) -> None:
    server.put(kinds.DEPLOYMENT, deployment)

    line = asked()["kuberay"]

    assert line.state == state and word in line.what


def test_no_kuberay_and_one_that_would_be_installed(lab: Any, server: ApiServer) -> None:
    server.objects[kinds.DEFINITION] = []
    existing = asked()["kuberay"]
    lab(kuberay="install")

    assert existing.state == "missing" and "kuberay: install" in str(existing.next)
    assert asked()["kuberay"].state == "ok"


def test_no_node_that_takes_pods(lab: Any, server: ApiServer) -> None:
    server.put(kinds.NODE, {**node(), "spec": {"unschedulable": True}})

    line = asked()["nodes"]

    assert line.state == "fix" and "0 of 1 ready" not in line.what and "no node takes pods" in line.what


def test_gpus_that_no_plugin_offers_and_a_plugin_that_does(lab: Any, server: ApiServer) -> None:
    server.put(kinds.NODE, node("g", **{"nvidia.com/gpu.present": "true"}))
    mute = asked()["device_plugin"]
    spec = {"template": {"spec": {"volumes": PLUGINS, "containers": [{"name": "nvidia", "image": "nvcr.io/nvidia/k8s-device-plugin"}]}}}
    server.put(kinds.DAEMON_SET, {"metadata": {"name": "plugin", "namespace": "gpu"}, "spec": spec})
    server.put(kinds.NODE, node("g", gpus=4, **{"nvidia.com/gpu.present": "true"}))

    offered = asked()["device_plugin"]

    assert mute.state == "fix" and "g has GPUs and offers none" in mute.what and "device plugin" in str(mute.next)
    assert offered.state == "ok" and "gpu/plugin" in offered.what


def test_models_that_ask_for_more_gpus_than_a_node_has(lab: Any, server: ApiServer, declare: Declare) -> None:
    """Also across nodes: a replica's engine is not laid over two of them."""
    server.put(kinds.NODE, node("g", gpus=2))
    server.put(kinds.NODE, node("h", gpus=2))
    declare("models", "big", {"cluster": "lab", "weights": "hf://org/tiny", "resources": {"gpu": 4}})
    declare("models", "small", {"cluster": "lab", "weights": "hf://org/tiny", "resources": {"gpu": 1}})
    short = asked()["gpus"]
    server.put(kinds.NODE, node("i", gpus=8))

    enough = asked()["gpus"]

    assert short.state == "fix" and "big asks for 4: at most 2 on one node" in short.what
    assert enough.state == "ok" and enough.what == "at most 8 on one node"


def test_a_quota_that_is_used_up(lab: Any, server: ApiServer) -> None:
    """Counted from the pods, as it is when one is brought up; the tightest is told while there is room."""
    server.put(kinds.QUOTA, quota(requests_cpu="4", pods="10"))
    server.put(kinds.POD, pod("one", "3"))
    room = asked()["quota"]
    server.put(kinds.POD, pod("two", "1"))

    spent = asked()["quota"]

    assert (room.state, room.what) == ("ok", "team leaves 1 CPU of 4 CPUs (requests.cpu)")
    assert spent.state == "fix" and "nothing more starts here: the quota team leaves 0 CPUs of 4 CPUs" in spent.what


def test_its_clock_is_seen_in_passing(lab: Any, server: ApiServer) -> None:
    server.skew = -400

    (seen,) = clocks_of(clusters.questions(components.declared(), SECONDS))

    assert seen.whose == "cluster lab" and round(seen.ahead, -1) == -400


def test_a_platform_that_this_version_does_not_have(declare: Declare) -> None:
    declare("clusters", "cloud", {"platform": "aws"})

    found = answers(clusters.questions(components.declared(), SECONDS))

    assert found["cluster cloud identity"].state == "missing" and "is not available in this version" in found["cluster cloud identity"].what


def test_reviews_are_all_that_is_ever_sent(lab: Any, server: ApiServer) -> None:
    """They ask what we may, and nothing of them stays."""
    asked()

    assert {request.split("/apis/authorization.k8s.io/v1/")[-1] for request in server.requests if not request.startswith("GET ")} == {"selfsubjectaccessreviews", "selfsubjectrulesreviews"}
