"""The version of Ray that an engine's own image says of itself: asked of a real registry when its tag is resolved, and kept with it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from infra import loopback
from infra.kubernetes import registry
from infra.kubernetes.image import RAY_VERSION, KubernetesImage
from infra.kubernetes.place import Place
from infra.kubernetes.registry import Reference
from infra.local.image_build import SERVING, pins
from infra.waiting import Progress
from tests.doubles.releases import release, spec
from tests.kubernetes.test_registry import MANIFEST, needs_registry, serving

INDEX = "application/vnd.oci.image.index.v1+json"


def push(host: str, repository: str, tag: str, labels: dict[str, str], *, index: bool = False) -> str:
    """An image with these labels, alone or as the one of an index; the digest of what the tag leads to."""
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Labels": labels}}).encode()
    named = f"sha256:{hashlib.sha256(config).hexdigest()}"
    with loopback.client(30, f"http://{host}") as client:
        where = client.post(f"/v2/{repository}/blobs/uploads/").headers["Location"]
        assert client.put(f"{where}&digest={named}", content=config).status_code == 201
        body = {"schemaVersion": 2, "mediaType": MANIFEST, "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": named, "size": len(config)}, "layers": []}
        text = json.dumps(body).encode()
        reply = client.put(f"/v2/{repository}/manifests/{f'one-{tag}' if index else tag}", content=text, headers={"Content-Type": MANIFEST})
        if index:
            row = {"mediaType": MANIFEST, "digest": reply.headers["Docker-Content-Digest"], "size": len(text), "platform": {"architecture": "amd64", "os": "linux"}}
            body = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [row]}
            reply = client.put(f"/v2/{repository}/manifests/{tag}", content=json.dumps(body), headers={"Content-Type": INDEX})
    assert reply.status_code == 201, reply.text
    return str(reply.headers["Docker-Content-Digest"])


@needs_registry
@pytest.mark.parametrize("index", [False, True])
def test_the_labels_of_an_image_are_read_from_its_configuration(tmp_path: Path, index: bool) -> None:
    """Of an index those of its image; of an image without any: none."""
    with serving(tmp_path / "r") as host:
        pushed = push(host, "engine", "v1", {RAY_VERSION: "2.60.0"}, index=index)
        bare = push(host, "engine", "v2", {}, index=index)

        assert registry.labels(Reference.of(f"{host}/engine:v1"), pushed, None) == {RAY_VERSION: "2.60.0"}
        assert registry.labels(Reference.of(f"{host}/engine:v2"), bare, None) == {}


@needs_registry
def test_a_labelled_image_tells_its_ray_also_when_the_registry_is_gone(place: Place, tmp_path: Path) -> None:
    """Kept with the digest when the tag is resolved; what is no version is none."""
    with serving(tmp_path / "r") as host:
        push(host, "engine", "v1", {RAY_VERSION: "2.60.0"})
        push(host, "engine", "v2", {RAY_VERSION: "newest"})
        labelled, odd = (KubernetesImage(place).resolve(spec(image=f"{host}/engine:{tag}"), Progress(120)) for tag in ("v1", "v2"))

    found = [KubernetesImage(place).observe(release(image=image)) for image in (labelled, odd)]

    assert [state.versions for state in found if state] == [{"ray": "2.60.0"}, {}]


def test_the_image_of_the_product_says_the_ray_of_its_locks() -> None:
    """The label is written by hand beside locks that are made."""
    text = (SERVING / "Dockerfile").read_text()
    version = next(line.partition("=")[2] for line in text.splitlines() if line.startswith("ARG RAY_VERSION="))

    assert f"LABEL {RAY_VERSION}=$RAY_VERSION" in text
    assert all(f"ray=={version}" in pins(SERVING / f"{flavour}.lock") for flavour in ("cpu", "gpu"))
