"""image on a cluster: an OCI image by its digest. Nothing is built or pulled here: nodes do that, by the digest.

A tag is resolved once, and the answer is kept in the namespace: what is served does not depend on the day, and the loop asks no registry.
Another tag, or a digest, is how another image is taken.

    ConfigMap image-<hash of the reference>     data: reference, digest

Upstream     deployment            Downstream     ray_service
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from typing import Any

from infra.errors import ConfigError, Conflict, Transient
from infra.kubernetes import kinds, registry
from infra.kubernetes.api import Object
from infra.kubernetes.failures import Absent
from infra.kubernetes.place import Place
from infra.kubernetes.registry import Reference
from infra.platform import ImageState, Release
from infra.specs import ModelSpec
from infra.waiting import Progress, retry

PART = "image"
DIGEST = "llm-pipeline/digest"
"""Label: first 16 hex digits of the digest."""

FOR_GPU = "rayproject/ray-llm:2.58.0-py312-cu130"
"""Ray's own image with vLLM, for releases with a GPU that name none. It needs a driver of at least 580."""

REMEMBER = 60.0
"""Seconds for which an answer is not asked for again, not even in the cluster."""


class KubernetesImage:
    """`ImagePart` by reference."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._known: dict[str, tuple[float, str]] = {}

    def resolve(self, spec: ModelSpec, progress: Progress) -> str:
        reference = spec.image or (FOR_GPU if spec.resources.gpu else "")
        if not reference:
            raise ConfigError(
                f"{spec.name} names no image", why="for releases without a GPU there is none that everybody may take",
                next="docker build --build-arg FLAVOUR=cpu --tag REGISTRY/llm-engine:cpu infra/serving && docker push REGISTRY/llm-engine:cpu; then set image: REGISTRY/llm-engine:cpu",
            )  # fmt: skip
        return self.pinned(reference, progress)

    def pinned(self, reference: str, progress: Progress) -> str:
        """The image by its digest: as written, as kept, or as the registry says now, which is then kept."""
        parsed = Reference.of(reference)
        if parsed.digest:
            return parsed.at(parsed.digest)
        at, image = self._known.get(reference, (0.0, ""))
        if not image or time.monotonic() - at > REMEMBER:
            image = parsed.at(self._kept(reference) or self._ask(reference, parsed, progress))
            self._known[reference] = (time.monotonic(), image)
        return image

    def observe(self, spec: Release) -> ImageState | None:
        """An image by its digest is there for whoever pulls it: no registry is asked."""
        parsed = _by_digest(spec.image)
        return ImageState(spec.image, spec.image, versions=self._versions(parsed)) if parsed else None

    def apply(self, spec: Release, progress: Progress) -> ImageState:
        """ConfigError for what is no image by digest: a release of another platform, or one that was written by hand."""
        found = self.observe(spec)
        if found is None:
            raise ConfigError(
                f"{spec.image!r} is not an image that a cluster can pull", why="only images by digest are deployed; this one is of another platform",
                next=f"llm-pipeline up {spec.model} (a release with the image that its declaration names)",
            )  # fmt: skip
        return found

    def delete(self, spec: Release, progress: Progress) -> None:
        """Forgets which reference led to it. The image itself is the registry's."""
        parsed = _by_digest(spec.image)
        for item in self._pins(parsed) if parsed else ():
            self._place.api.delete(kinds.CONFIG_MAP, item["metadata"]["name"], self._place.namespace, uid=item["metadata"]["uid"])
        self._known.clear()

    # ------------------------------------------------ private

    def _kept(self, reference: str) -> str:
        found = self._place.api.get(kinds.CONFIG_MAP, _name(reference), self._place.namespace)
        said = str((found or {}).get("data", {}).get("digest", ""))
        return said if registry.DIGEST.fullmatch(said) else ""

    def _ask(self, reference: str, parsed: Reference, progress: Progress) -> str:
        """From the registry, and kept: what another process kept meanwhile wins."""
        progress.phase("image", f"asking {parsed.host} for {reference}")
        login = self._login(parsed.host)
        digest = retry(lambda: registry.digest(parsed, login), attempts=3, pause=1.0, on=(Transient,), progress=progress)
        meta = self._place.meta(_name(reference), PART)
        meta["labels"][DIGEST] = digest[7:23]
        try:
            self._place.api.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"reference": reference, "digest": digest}})
        except Conflict:
            return self._kept(reference) or digest
        except Absent:  # no namespace yet: a look at what would be done
            return digest
        return digest

    def _login(self, host: str) -> registry.Login | None:
        name = self._place.block.image_pull_secret
        if not name:
            return None
        found = self._place.api.get(kinds.SECRET, name, self._place.namespace)
        try:
            config: dict[str, Any] = json.loads(base64.b64decode((found or {})["data"][".dockerconfigjson"]))
            return registry.login(config, host)
        except (KeyError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"the Secret {name} of kubernetes.image_pull_secret can not be used", why="it is not there" if found is None else f"it holds no .dockerconfigjson ({type(error).__name__})",
                next=f"kubectl -n {self._place.namespace} create secret docker-registry {name} --docker-server=… --docker-username=… --docker-password=…",
            ) from error  # fmt: skip

    def _versions(self, image: Reference) -> dict[str, str]:
        """What the tag says that led to it, of images of Ray's own."""
        tags = [str(item["data"]["reference"]) for item in self._pins(image)]
        found = [match[1] for tag in tags if (match := re.search(r"(?:^|/)rayproject/ray(?:-llm)?:(\d+\.\d+\.\d+)", tag))]
        return {"ray": found[0]} if found else {}

    def _pins(self, image: Reference) -> tuple[Object, ...]:
        items = self._place.api.list(kinds.CONFIG_MAP, self._place.namespace, f"{self._place.selector(PART)},{DIGEST}={image.digest[7:23]}").items
        return tuple(item for item in items if item.get("data", {}).get("digest") == image.digest)


def _name(reference: str) -> str:
    return f"image-{hashlib.sha256(reference.encode()).hexdigest()[:16]}"


def _by_digest(image: str) -> Reference | None:
    name, at, digest = image.partition("@")
    return Reference.of(image) if name and at and registry.DIGEST.fullmatch(digest) else None
