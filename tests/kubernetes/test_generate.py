"""`generate` and `diff` on a cluster: what would be sent, told without a cluster; and what is otherwise, told without a change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from infra import kubernetes, settings
from infra.errors import PipelineError
from infra.kubernetes import diff, kinds
from infra.kubernetes.api import Object, kind_of
from infra.kubernetes.generate import KubernetesManifests
from infra.kubernetes.place import Place, object_name
from infra.kubernetes.router_manifest import ROUTER
from infra.platform import Platform, Release
from infra.specs import ClusterSpec, ModelSpec
from infra.states import Sent
from infra.waiting import Progress
from llm_pipeline import manifests
from tests.kubernetes.fixtures import Places

DIGEST = "@sha256:" + "7" * 64
ENGINE, HAPROXY = "registry.example.com/llm-engine" + DIGEST, "registry.example.com/haproxy" + DIGEST
CONFIG = '{"num_key_value_heads": 2, "num_attention_heads": 4, "hidden_size": 128, "num_hidden_layers": 2, "max_position_embeddings": 512, "vocab_size": 1000}'
TOKEN = "hf_abcdefghijklmnop123456"  # noqa: S105 - nobody's


def platform(block: dict[str, Any], home: Path, **more: Any) -> Platform:
    spec = ClusterSpec.model_validate({"name": "lab", "platform": "kubernetes", "kubernetes": block, "endpoint": {"image": HAPROXY}, **more})
    return kubernetes.platform(settings.load(home=home, cache=home / "cache", hf_token=SecretStr(TOKEN)), spec)


@pytest.fixture
def nobody(tmp_path: Path) -> Platform:
    """A cluster that can not be asked: there is no kubeconfig."""
    return platform({"kubeconfig": str(tmp_path / "none"), "context": "lab", "kuberay": "existing"}, tmp_path)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder with a model, as small as one can be."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text(CONFIG)
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).write_bytes(b"\x02\x00\x00\x00\x00\x00\x00\x00{}" if name.endswith("tensors") else b"{}")
    return folder


def model(kind: str = "ray", **more: Any) -> ModelSpec:
    given = {"name": "demo", "cluster": "lab", "weights": "file://weights", "image": ENGINE, "engine": {"kind": kind, "max_model_len": 256, "max_num_seqs": 2}, **more}
    return ModelSpec.model_validate(given)


def declared(of: Platform, spec: ModelSpec, base: Path) -> tuple[Release, tuple[Sent, ...]]:
    assert of.manifests
    return of.manifests.declared(spec, base, Progress(120))


def names(rows: tuple[Sent, ...]) -> list[str]:
    return [f"{row.document['kind']} {row.document['metadata']['name']}" for row in rows]


def test_every_manifest_is_told_without_a_cluster(nobody: Platform, weights: Path) -> None:
    """In the order of an `up`: the same that the parts themselves send. A Secret is told without what is in it."""
    release, rows = declared(nobody, model(), weights.parent)

    claim, name = f"weights-{release.manifest.digest[:16]}", object_name(release)
    assert names(rows) == [
        "Namespace llm", f"PersistentVolumeClaim {claim}", f"ConfigMap {claim}-fill", f"Job {claim}-fill", f"Service {name}", f"RayService {name}",
        f"Secret {ROUTER}", f"ConfigMap {ROUTER}", f"Deployment {ROUTER}", f"PodDisruptionBudget {ROUTER}", f"Service {ROUTER}", "Service demo-serve-svc",
    ]  # fmt: skip
    secret = next(row for row in rows if row.document["kind"] == "Secret")
    assert "data" not in secret.document
    assert "token" in secret.notes[-1]
    assert "memory" not in " ".join(note for row in rows for note in row.notes), "the model's config.json lies on this machine"
    again, same = declared(nobody, model(), weights.parent)
    assert (again.id, same) == (release.id, rows)


@pytest.mark.parametrize("kind", ["ray", "vllm"])
def test_without_a_router_all_of_the_endpoint_is_a_service_that_leads_to_the_release(tmp_path: Path, weights: Path, kind: str) -> None:
    """Its selector is that of the release's own Service, so that it leads to what takes requests; no Secret, no haproxy."""
    of = platform({"kubeconfig": str(tmp_path / "none"), "context": "lab", "kuberay": "existing"}, tmp_path, endpoint={"via": "service"})

    release, rows = declared(of, model(kind), weights.parent)

    own, front = (next(row.document for row in rows if row.document["metadata"]["name"] == name) for name in (object_name(release), "demo-serve-svc"))
    assert names(rows)[-1] == "Service demo-serve-svc"
    assert not [name for name in names(rows) if ROUTER in name]
    assert front["spec"]["selector"] == own["spec"]["selector"]
    assert front["spec"]["selector"]["llm-pipeline/release"] == release.name


def test_what_is_installed_or_pooled_comes_first(tmp_path: Path, weights: Path) -> None:
    """KubeRay's operator with `kuberay: install`, a pool of nodes with `nodepool`; the operator's definitions are only named."""
    pool = {"limits": {"cpu": "8"}, "nodeClassRef": {"group": "karpenter.example.com", "kind": "NodeClass", "name": "default"}}
    of = platform({"kubeconfig": str(tmp_path / "none"), "context": "lab", "kuberay": "install", "nodepool": pool}, tmp_path)

    _, rows = declared(of, model(), weights.parent)

    operator = [f"{kind} kuberay-operator" for kind in ("ServiceAccount", "Role", "RoleBinding", "Deployment")]
    assert names(rows)[:6] == ["Namespace llm", *operator, "NodePool llm-pipeline-lab-llm"]
    assert "rayservices.ray.io" in rows[1].notes[0]


def test_it_is_yaml_that_says_what_only_the_cluster_knows(nobody: Platform, weights: Path) -> None:
    """One document each; what is known only there is a comment before it, and no document but a comment lacks."""
    release, rows = declared(nobody, model(), weights.parent)
    text = manifests.text({"model": "demo", "release": release.id, "manifests": [row.document for row in rows], "notes": [list(row.notes) for row in rows]})

    assert list(yaml.safe_load_all(text)) == [row.document for row in rows]
    assert text.startswith(f"# demo, release {release.id}")
    assert "# accessModes: ReadWriteOnce where" in text
    assert "# rayVersion and authOptions are set where" in text


def test_a_token_of_the_hub_is_in_no_manifest(nobody: Platform, tmp_path: Path, weights: Path) -> None:
    """Neither plain nor packed; its Secret is named."""
    part = nobody.manifests
    assert isinstance(part, KubernetesManifests)
    release, _ = declared(nobody, model(), weights.parent)
    hub = Release(model(weights="hf://team/demo"), release.revision, release.manifest, ENGINE, "hf://team/demo", str(tmp_path))

    rows = tuple(part._filling(hub))

    assert [name.split()[0] for name in names(rows)] == ["PersistentVolumeClaim", "ConfigMap", "Secret", "Job"]
    assert TOKEN not in repr(rows)
    assert "data" not in rows[2].document


def test_a_tag_that_nobody_can_resolve_is_told_with_what_would_do(nobody: Platform, weights: Path) -> None:
    """The release's name holds the digest: without one there is nothing to print."""
    with pytest.raises(PipelineError) as told:
        declared(nobody, model(image="registry.example.com/llm-engine:v1"), weights.parent)

    assert told.value.problem.what == "which image registry.example.com/llm-engine:v1 is can not be told"
    assert "@sha256:" in (told.value.problem.next or "")


# ---------------------------------------------------------------- diff


def test_paths_of_what_differs_are_told_by_names_where_there_are_names() -> None:
    """What is on one side only, and lists of another length, as a whole."""
    live = {"a": 1, "list": [{"name": "x", "v": 1}, {"name": "y", "v": 2}], "args": ["1", "2"], "more": ["1"]}
    wanted = {"a": 1, "list": [{"name": "y", "v": 3}, {"name": "x", "v": 1}], "args": ["1", "3"], "more": ["1", "2"], "new": {"k": True}}

    found = list(diff.fields(live, wanted))

    assert found == [("list[y].v", 2, 3), ("args[1]", "2", "3"), ("more", ["1"], ["1", "2"]), ("new", None, {"k": True})]


def test_what_is_as_declared_is_equal_and_what_was_changed_is_told(places: Places, tmp_path: Path, weights: Path) -> None:
    """Against the real API server, with its defaults and with what others wrote beside ours. Nothing is changed by looking."""
    place = places(kuberay="existing")
    of = platform(place.block.model_dump(mode="json"), tmp_path)
    part = of.manifests
    assert isinstance(part, KubernetesManifests)
    release, _ = declared(of, model("vllm"), weights.parent)
    before = told(part, release)
    standing = part._standing(release, Progress(120))
    for item in standing:
        place.api.apply(item)
    equal = told(part, release)

    others = {"metadata": {"annotations": {"team": "theirs"}}}
    place.api.call("PATCH", kinds.DEPLOYMENT.path(place.namespace, ROUTER), {"fieldManager": "somebody"}, others, content="application/merge-patch+json")
    beside = told(part, release)
    place.api.call("PATCH", kinds.DEPLOYMENT.path(place.namespace, ROUTER), {"fieldManager": "somebody"}, {"spec": {"replicas": 7}}, content="application/merge-patch+json")
    place.api.delete(kinds.BUDGET, ROUTER, place.namespace)
    marks = versions(place, standing)
    changed = told(part, release)

    route = ("Route", "demo", "release", None, release.name)
    assert {(kind, live) for kind, _, field, live, _ in before if not field} == {(item["kind"], None) for item in standing}
    assert equal == beside == [route]
    assert changed == [("Deployment", ROUTER, "spec.replicas", 7, 2), ("PodDisruptionBudget", ROUTER, "", None, "is there"), route]
    assert versions(place, standing) == marks


def test_a_service_that_was_led_elsewhere_is_told_field_by_field(places: Places, tmp_path: Path, weights: Path) -> None:
    """Without a router, where what is live and what is declared differ in one selector."""
    place = places(kuberay="existing")
    of = platform(place.block.model_dump(mode="json"), tmp_path, endpoint={"via": "service"})
    part = of.manifests
    assert isinstance(part, KubernetesManifests)
    release, _ = declared(of, model("vllm"), weights.parent)
    for item in part._standing(release, Progress(120)):
        place.api.apply(item)
    equal = told(part, release)

    elsewhere = {"spec": {"selector": {"llm-pipeline/release": "demo-0000000000"}}}
    place.api.call("PATCH", kinds.SERVICE.path(place.namespace, "demo-serve-svc"), {"fieldManager": "somebody"}, elsewhere, content="application/merge-patch+json")
    changed = told(part, release)

    assert equal == []
    assert changed == [
        ("Service", "demo-serve-svc", "spec.selector.llm-pipeline/release", "demo-0000000000", release.name), ("Route", "demo", "release", "demo-0000000000", release.name),
    ]  # fmt: skip


def told(part: KubernetesManifests, release: Release) -> list[tuple[str, str, str, Any, Any]]:
    return [(row.kind, row.name, row.field, row.live, row.declared) for row in part.differences(release, Progress(120))]


def versions(place: Place, standing: list[Object]) -> Mapping[str, str]:
    """What may not change: each object's generation, or where there is none what is in it."""
    found = {}
    for item in standing:
        live = place.api.get(kind_of(item), item["metadata"]["name"], place.namespace)
        found[f"{item['kind']} {item['metadata']['name']}"] = str(live and (live["metadata"].get("generation") or live.get("data") or live.get("spec")))
    return found
