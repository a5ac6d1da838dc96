"""The image of a release on a cluster: by its digest, found out once and kept."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest

from infra.errors import ConfigError, Transient
from infra.kubernetes import kinds
from infra.kubernetes.image import FOR_GPU, PART, KubernetesImage
from infra.kubernetes.place import Place
from infra.kubernetes.registry import Reference
from infra.waiting import Progress
from tests.doubles.releases import release, spec
from tests.kubernetes.fixtures import Places
from tests.kubernetes.test_registry import Guarded

BY_DIGEST = "registry.example.com/team/engine@sha256:" + "a" * 64


def pins(place: Place) -> list[dict[str, str]]:
    return [item["data"] for item in place.api.list(kinds.CONFIG_MAP, place.namespace, place.selector(PART)).items]


def test_a_reference_with_a_digest_needs_no_registry(place: Place) -> None:
    """It is what is deployed, without its tag: the digest alone says what it is."""
    part = KubernetesImage(place)

    assert part.resolve(spec(image=BY_DIGEST), Progress(60)) == BY_DIGEST
    assert part.resolve(spec(image=BY_DIGEST.replace("@", ":v1@")), Progress(60)) == BY_DIGEST
    assert pins(place) == []


def test_a_tag_is_asked_for_once_and_stays_what_it_was(place: Place) -> None:
    """Also for another process, when the registry is down, or the tag has moved on; until it is forgotten."""
    with Guarded() as registry:
        wanted = spec(image=f"{registry.host}/public/engine:v1")
        first = KubernetesImage(place).resolve(wanted, Progress(60))
    later = KubernetesImage(place).resolve(wanted, Progress(60))
    made = release(image=first)

    assert later == first
    assert first.startswith(f"{registry.host}/public/engine@sha256:")
    assert [pin["reference"] for pin in pins(place)] == [wanted.image]

    KubernetesImage(place).delete(made, Progress(60))
    KubernetesImage(place).delete(made, Progress(60))
    with pytest.raises(Transient, match="does not answer"):
        KubernetesImage(place).resolve(wanted, Progress(60))
    assert pins(place) == []


def test_of_two_who_ask_at_once_what_was_kept_first_holds_for_both(place: Place) -> None:
    """The tag moved between the two answers; both deploy the same."""
    kept = "sha256:" + "b" * 64
    with Guarded() as registry:
        reference = f"{registry.host}/public/engine:v1"
        KubernetesImage(place).pinned(reference, Progress(60))
        (pin,) = place.api.list(kinds.CONFIG_MAP, place.namespace, place.selector(PART)).items
        place.api.merge(kinds.CONFIG_MAP, pin["metadata"]["name"], place.namespace, {"data": {"digest": kept}})

        assert KubernetesImage(place)._ask(reference, Reference.of(reference), Progress(60)) == kept


def test_the_pull_secret_of_the_cluster_opens_a_private_registry(places: Places) -> None:
    """As a node would; one that is not there is told by its name."""
    place = places(image_pull_secret="pull")
    with Guarded() as registry:
        wanted = spec(image=f"{registry.host}/team/engine:v1")
        with pytest.raises(ConfigError, match="the Secret pull of"):
            KubernetesImage(place).resolve(wanted, Progress(60))
        config = {"auths": {registry.host: {"username": "deployer", "password": "right"}}}
        data = {".dockerconfigjson": base64.b64encode(json.dumps(config).encode()).decode()}
        place.api.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pull", "namespace": place.namespace}, "type": "kubernetes.io/dockerconfigjson", "data": data})

        assert "@sha256:" in KubernetesImage(place).resolve(wanted, Progress(60))
    assert "right" not in json.dumps(pins(place))


def test_without_an_image_only_a_gpu_has_a_default(place: Place) -> None:
    """Else the command that makes one, and the key to set."""
    with pytest.raises(ConfigError) as told:
        KubernetesImage(place).resolve(spec(), Progress(60))

    assert "docker build" in (told.value.problem.next or "") and "image:" in (told.value.problem.next or "")
    place.api.create({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": pin_meta(place), "data": {"reference": FOR_GPU, "digest": "sha256:" + "b" * 64},
    })  # fmt: skip
    image = KubernetesImage(place).resolve(spec(resources={"gpu": 1}), Progress(60))
    state = KubernetesImage(place).apply(release(image=image), Progress(60))

    assert image == "rayproject/ray-llm@sha256:" + "b" * 64
    assert (state.data_version, state.changed, state.versions) == (image, False, {"ray": FOR_GPU.partition(":")[2].partition("-")[0]})


def test_an_image_of_another_platform_is_not_deployed(place: Place) -> None:
    """Nor one that names no digest."""
    for image in ("local:" + "0" * 16, "registry.example.com/engine:v1"):
        assert KubernetesImage(place).observe(release(image=image)) is None
        with pytest.raises(ConfigError, match="is not an image that a cluster can pull"):
            KubernetesImage(place).apply(release(image=image), Progress(60))


def pin_meta(place: Place) -> dict[str, object]:
    """As the part itself writes it for its default image, asked for on an earlier day."""
    meta = place.meta("image-" + hashlib.sha256(FOR_GPU.encode()).hexdigest()[:16], PART)
    meta["labels"]["llm-pipeline/digest"] = "b" * 16
    return meta
