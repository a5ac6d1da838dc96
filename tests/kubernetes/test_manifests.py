"""What is sent to a cluster for a release: the three systems that this product replaces, as they would be declared here, and KubeRay's schemas.

The texts lie in golden/. After a change that is meant: python -c "from tests.kubernetes.test_manifests import write; write()"   and read the difference.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from infra import settings
from infra.kubernetes import pods, rayservice_manifest, server_manifest
from infra.kubernetes.api import kind_of
from infra.kubernetes.place import Place, object_name
from infra.kubernetes.pods import Object, Serving
from infra.kubernetes.requests import requests
from infra.platform import Release
from infra.specs import KubernetesBlock, ModelSpec
from tests.doubles.releases import MANIFEST, release

GOLDEN = Path(__file__).with_name("golden")
VERSIONS = ("v1.4.2", "v1.5.1", "v1.6.1", "v1.7.0")
DIGEST = "@sha256:" + "5" * 64
DEMO = {"num_key_value_heads": 2, "num_attention_heads": 4, "hidden_size": 128, "num_hidden_layers": 2, "max_position_embeddings": 512, "vocab_size": 1000}

SYSTEMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # DeepSeek-R1-Distill-Llama-8B with Ray and vLLM on one A10G
    "s1": (
        {
            "name": "deepseek_r1_llama_8b", "weights": "hf://deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "served_name": "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
            "engine": {"max_model_len": 8192, "max_num_seqs": 4, "dtype": "bfloat16", "extra": {"gpu_memory_utilization": 0.9}},
            "resources": {"gpu": 1, "cpu": 12, "memory": "60Gi"}, "replicas": {"min": 1, "max": 4},
        },
        {"node_selector": {"NodeGroupType": "g5-gpu-karpenter"}},
    ),
    # Mistral-7B-Instruct-v0.2 with RayServe and vLLM: a gated model, pulled from a private registry, on tainted nodes
    "s2": (
        {
            "name": "mistral", "weights": "hf://mistralai/Mistral-7B-Instruct-v0.2", "served_name": "mistralai/Mistral-7B-Instruct-v0.2",
            "engine": {"max_model_len": 8192, "chat_template": "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"}, "resources": {"gpu": 1},
        },
        {"image_pull_secret": "registry", "hub_secret": "hf-token", "tolerations": ({"key": "gpu", "operator": "Equal", "value": "ours", "effect": "NoSchedule"},)},
    ),
    # a self-hosted 7B without Ray: a plain server, eager, 16,000 tokens
    "s3": (
        {
            "name": "self_hosted", "weights": "hf://mistralai/Mistral-7B-Instruct-v0.3", "served_name": "mistral",
            "engine": {"kind": "vllm", "max_model_len": 16000, "extra": {"enforce_eager": True}}, "resources": {"gpu": 1, "cpu": 2, "memory": "16Gi"},
        },
        {"pod_annotations": {"sidecar.istio.io/inject": "false"}},
    ),
    # the demo model, without a GPU
    "demo": ({"engine": {"max_model_len": 512, "max_num_seqs": 4, "dtype": "bfloat16"}}, {}),
}  # fmt: skip


def place(**block: Any) -> Place:
    """A declared cluster that nobody ever speaks to."""
    return Place(settings.load(home=Path("/nowhere")), "lab", KubernetesBlock.model_validate({"context": "lab", **block}))


def serving(made: Release, ray: str = "2.60.0") -> Serving:
    return Serving(made, requests(made, DEMO), "weights-0123456789abcdef", DEMO, ray)


def rendered(name: str, ray: str = "2.60.0") -> tuple[Object, ...]:
    """The manifests of one system."""
    keys, block = SYSTEMS[name]
    spec = ModelSpec.model_validate({"name": "demo", "cluster": "lab", "weights": "file://weights", **keys})
    image = "docker.io/vllm/vllm-openai" if spec.engine.kind == "vllm" else "docker.io/rayproject/ray-llm"
    made = Release(spec, "1a2b3c4d5e6f" + "0" * 28, MANIFEST, image + DIGEST, spec.weights)
    side = server_manifest if spec.engine.kind == "vllm" else rayservice_manifest
    return side.manifests(place(**block), serving(made, ray))


def write() -> None:
    """Writes the texts anew."""
    for name in SYSTEMS:
        (GOLDEN / f"{name}.yaml").write_text(_text(rendered(name)))


def _text(made: tuple[Object, ...]) -> str:
    class Readable(yaml.SafeDumper):
        """Texts of several lines as blocks, and nothing as a reference to something else."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    Readable.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None))
    return yaml.dump_all(made, Dumper=Readable, sort_keys=False, width=160)


@pytest.fixture(scope="session")
def definitions(crd_archive: Path) -> dict[str, dict[str, Any]]:
    """The schema of a RayService, by KubeRay's version."""
    found = {}
    with tarfile.open(crd_archive) as archive:
        for version in VERSIONS:
            text = archive.extractfile(f"{version}.rayservices.yaml")
            assert text
            document = yaml.load(text.read(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            found[version] = next(row for row in document["spec"]["versions"] if row["name"] == "v1")["schema"]["openAPIV3Schema"]
    return found


# ---------------------------------------------------------------- the systems


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_a_system_is_rendered_as_it_was_read(name: str) -> None:
    """Whoever changes what is sent sees it here first."""
    assert _text(rendered(name)) == (GOLDEN / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_no_pod_may_do_more_than_it_must(name: str) -> None:
    """Not root, no new privileges, memory that it can not exceed, weights that it can not change, no token of the API server."""
    templates = [template for item in rendered(name) for template in _templates(item)]

    assert templates
    for template in templates:
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
            assert "@sha256:" in container["image"]
            assert not any("valueFrom" in row or row["name"].endswith("_TOKEN") for row in container["env"])
        claims = [volume["persistentVolumeClaim"] for volume in spec["volumes"] if "persistentVolumeClaim" in volume]
        assert all(claim["readOnly"] for claim in claims)
        scaled = template["spec"]["containers"][0]["name"] == rayservice_manifest.HEAD and name == "s1"
        assert spec["automountServiceAccountToken"] is scaled, "only the autoscaler speaks to the API server"


def test_only_what_computes_gets_gpus_and_weights() -> None:
    """Ray's head runs no replica: a GPU for it would be idle, and a claim for one node must not be asked for by two."""
    (_, _, service) = rendered("s2")
    head, workers = _templates(service)

    assert "nvidia.com/gpu" not in str(head)
    assert "persistentVolumeClaim" not in str(head)
    assert workers["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert service["spec"]["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_a_declared_chat_template_is_a_file_beside_the_weights() -> None:
    """With exactly the declared text, where the engine's arguments say."""
    config, _, service = rendered("s2")

    assert config["data"]["chat_template.jinja"] == SYSTEMS["s2"][0]["engine"]["chat_template"]
    assert "chat_template: /settings/chat_template.jinja" in service["spec"]["serveConfigV2"]
    assert config["metadata"]["name"] in str(_templates(service)[1]["spec"]["volumes"])


def test_one_worker_never_gets_two_replicas() -> None:
    """Without a GPU nothing but a resource of our own keeps them apart."""
    made = release(engine={"max_model_len": 64}, replicas={"min": 2, "max": 2})

    item = rayservice_manifest.ray_service(place(), serving(made))
    (group,) = item["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (application,) = yaml.safe_load(item["spec"]["serveConfigV2"])["applications"]

    assert group["replicas"] == group["maxReplicas"] == 2
    assert application["args"]["llm_configs"][0]["deployment_config"]["ray_actor_options"] == {"resources": {"replica": 1}}
    assert yaml.safe_load(yaml.safe_load(group["rayStartParams"]["resources"])) == {"replica": 1}


def test_rays_autoscaler_comes_only_where_there_is_something_to_scale() -> None:
    """It costs a container; and KubeRay may never replace the cluster by itself."""
    scaled, fixed = (rayservice_manifest.ray_service(place(), serving(release(replicas={"min": 1, "max": most}))) for most in (3, 1))

    assert scaled["spec"]["rayClusterConfig"]["enableInTreeAutoscaling"]
    assert [scaled["spec"]["rayClusterConfig"]["workerGroupSpecs"][0][key] for key in ("minReplicas", "maxReplicas")] == [1, 3]
    assert "enableInTreeAutoscaling" not in fixed["spec"]["rayClusterConfig"]
    assert fixed["spec"]["upgradeStrategy"] == scaled["spec"]["upgradeStrategy"] == {"type": "None"}


@pytest.mark.parametrize(("ray", "asked"), [("2.60.0", True), ("2.52.1", True), ("2.51.0", False), ("", False)])
def test_ray_asks_for_a_token_where_its_version_can(ray: str, asked: bool) -> None:
    """An unknown version gets none: the operator would refuse the object."""
    cluster = rayservice_manifest.ray_service(place(), serving(release(), ray))["spec"]["rayClusterConfig"]

    assert ("authOptions" in cluster) is asked
    assert cluster.get("rayVersion", "") == ray


def test_everything_carries_the_labels_by_which_it_is_found() -> None:
    """Objects and pods; and nothing of it has the name of another release."""
    for name in SYSTEMS:
        for item in rendered(name):
            labels = {"app.kubernetes.io/managed-by": "llm-pipeline", "llm-pipeline/cluster": "lab", "llm-pipeline/part": pods.PART}
            for meta in (item["metadata"], *(template["metadata"] for template in _templates(item))):
                assert labels.items() <= meta["labels"].items()
                assert object_name(meta["labels"]["llm-pipeline/release"]) == item["metadata"]["name"]
                assert meta["labels"]["llm-pipeline/revision"].startswith("1a2b3c4d5e6f")


# ---------------------------------------------------------------- KubeRay's schemas


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["s1", "s2", "demo"])
def test_kuberays_definition_takes_the_rayservice(definitions: dict[str, dict[str, Any]], name: str, version: str) -> None:
    """Valid, and nothing in it is unknown and so cut off, but the token before it was known."""
    item, schema = rendered(name)[-1], definitions[version]

    jsonschema.Draft202012Validator(schema).validate(item)
    assert _unknown(item, schema) == ({"/spec/rayClusterConfig/authOptions"} if version == "v1.4.2" else set())


def test_a_key_that_the_definition_does_not_know_is_found(definitions: dict[str, dict[str, Any]]) -> None:
    """Else the test before would say nothing."""
    item = rendered("demo")[-1]
    item["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]["nodeSelectors"] = {}

    assert _unknown(item, definitions["v1.6.1"]) == {"/spec/rayClusterConfig/workerGroupSpecs/template/spec/nodeSelectors"}


def test_the_real_api_server_takes_every_manifest_whole(place_on_lab: Place) -> None:
    """As a dry run that refuses unknown keys; for Deployment and Service too."""
    for name in SYSTEMS:
        for item in rendered(name):
            sent = {**item, "metadata": {**item["metadata"], "namespace": place_on_lab.namespace}}
            path = kind_of(item).path(place_on_lab.namespace, item["metadata"]["name"])

            answer = place_on_lab.api.call("PATCH", path, {"fieldManager": "test", "dryRun": "All", "fieldValidation": "Strict"}, sent, content="application/apply-patch+yaml")

            assert answer["metadata"]["name"] == item["metadata"]["name"]


@pytest.fixture
def place_on_lab(request: pytest.FixtureRequest) -> Place:
    """A real one."""
    found: Place = request.getfixturevalue("place")
    return found


def _templates(item: Object) -> list[Object]:
    """Of its pods."""
    if item["kind"] == "Deployment":
        return [item["spec"]["template"]]
    cluster = item.get("spec", {}).get("rayClusterConfig")
    return [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])] if cluster else []


def _unknown(value: Any, schema: dict[str, Any], path: str = "") -> set[str]:
    """Keys that the API server would cut off."""
    if isinstance(value, list):
        return {found for one in value for found in _unknown(one, schema.get("items", {}), path)}
    known = schema.get("properties")
    if not isinstance(value, dict) or not known or path == "/metadata":
        return set()
    return {f"{path}/{key}" for key in value if key not in known} | {found for key in value if key in known for found in _unknown(value[key], known[key], f"{path}/{key}")}
