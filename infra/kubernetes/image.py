"""image on a cluster: an OCI image by its digest. Nothing is built or pulled here: nodes do that, by the digest.

A tag is resolved once, and the answer is kept in the namespace: what is served does not depend on the day, and the loop asks no registry.
Another tag, or a digest, is how another image is taken.

    ConfigMap image-<hash of the reference>     data: reference, digest, and the version of Ray where the image says it

Upstream     deployment            Downstream     ray_service
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from typing import Any

from infra.errors import ConfigError, Conflict, PipelineError, Transient
from infra.kubernetes import kinds, registry
from infra.kubernetes.api import Object
from infra.kubernetes.failures import Absent
from infra.kubernetes.place import Place
from infra.kubernetes.registry import Reference
from infra.platform import Release
from infra.specs import ModelSpec
from infra.states import ImageState
from infra.waiting import Progress, retry

PART = "image"
DIGEST = "llm-pipeline/digest"
"""Label: first 16 hex digits of the digest."""

FOR_GPU = "rayproject/ray-llm:2.58.0-py312-cu130"
"""Ray's own image with vLLM, for releases with a GPU that name none. It needs a driver of at least 580."""

RAY_VERSION, VERSION = "llm-pipeline.ray-version", r"\d+\.\d+\.\d+"
"""Label of an engine's image (infra/serving/Dockerfile sets it), and what its value looks like."""

REMEMBER = 60.0
"""Seconds for which an answer is not asked for again, not even in the cluster."""


class KubernetesImage:
    """`ImagePart` by reference."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._known: dict[str, tuple[float, str]] = {}

    def resolve(self, spec: ModelSpec, progress: Progress) -> str:
        return self.pinned(self.reference(spec), progress)

    @staticmethod
    def reference(spec: ModelSpec) -> str:
        """What the declaration names, or the one that everybody may take."""
        reference = spec.image or (FOR_GPU if spec.resources.gpu else "")
        if not reference:
            raise ConfigError(
                f"{spec.name} names no image", why="for releases without a GPU there is none that everybody may take",
                next="docker build --build-arg FLAVOUR=cpu --tag REGISTRY/llm-engine:cpu infra/serving && docker push REGISTRY/llm-engine:cpu; then set image: REGISTRY/llm-engine:cpu",
            )  # fmt: skip
        return reference

    def named(self, reference: str, progress: Progress) -> str:
        """As `pinned`, and nothing is kept: for whoever only looks. One by its digest asks nobody."""
        parsed = Reference.of(reference)
        if parsed.digest:
            return parsed.at(parsed.digest)
        kept = _digest(self._place.api.glance(kinds.CONFIG_MAP, _name(reference), self._place.namespace))
        return parsed.at(kept or registry.digest(parsed, self._login(parsed.host)))

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
        return _digest(self._place.api.get(kinds.CONFIG_MAP, _name(reference), self._place.namespace))

    def _ask(self, reference: str, parsed: Reference, progress: Progress) -> str:
        """From the registry, and kept: what another process kept meanwhile wins."""
        progress.phase("image", f"asking {parsed.host} for {reference}")
        login = self._login(parsed.host)
        digest = retry(lambda: registry.digest(parsed, login), attempts=3, pause=1.0, on=(Transient,), progress=progress)
        meta = self._place.meta(_name(reference), PART)
        meta["labels"][DIGEST] = digest[7:23]
        version = self._told(parsed, digest, login)
        data = {"reference": reference, "digest": digest, **({"ray": version} if version else {})}
        try:
            self._place.api.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data})
        except Conflict:
            return self._kept(reference) or digest
        except Absent:  # no namespace yet: a look at what would be done
            return digest
        return digest

    def _told(self, parsed: Reference, digest: str, login: registry.Login | None) -> str:
        """The version of Ray by the image's own label. Empty where it has none, or does not tell: Ray then asks for no token, and all else is the same."""
        try:
            version = registry.labels(parsed, digest, login).get(RAY_VERSION, "")
        except (PipelineError, KeyError, TypeError, AttributeError):  # the last three: documents of another shape
            return ""
        return version if re.fullmatch(VERSION, version) else ""

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
        """What its label said when it was resolved; else, of images of Ray's own, what the tag says that led to it."""
        rows = [item["data"] for item in self._pins(image)]
        found = [version for row in rows if (version := str(row.get("ray", "")) or ray_of(str(row["reference"])))]
        return {"ray": found[0]} if found else {}

    def _pins(self, image: Reference) -> tuple[Object, ...]:
        items = self._place.api.list(kinds.CONFIG_MAP, self._place.namespace, f"{self._place.selector(PART)},{DIGEST}={image.digest[7:23]}").items
        return tuple(item for item in items if item.get("data", {}).get("digest") == image.digest)


def ray_of(reference: str) -> str:
    """The version of Ray as the tag of an image of Ray's own says it; empty: it does not."""
    found = re.search(rf"(?:^|/)rayproject/ray(?:-llm)?:({VERSION})", reference)
    return found[1] if found else ""


def _digest(found: Object | None) -> str:
    said = str(((found or {}).get("data") or {}).get("digest", ""))
    return said if registry.DIGEST.fullmatch(said) else ""


def _name(reference: str) -> str:
    return f"image-{hashlib.sha256(reference.encode()).hexdigest()[:16]}"


def _by_digest(image: str) -> Reference | None:
    name, at, digest = image.partition("@")
    return Reference.of(image) if name and at and registry.DIGEST.fullmatch(digest) else None
