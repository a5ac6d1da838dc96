"""Every manifest that an `up` would send, in its order, from the declaration alone: no cluster is asked where the image has a digest.

What only a cluster knows is a note beside the document; a Secret is shown without what is in it. Records, locks and room that is kept are no
manifests: they are written while it works.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from infra import weights
from infra.errors import PipelineError, Transient
from infra.kubernetes import diff, karpenter, namespace, operator, rayservice_manifest, router_manifest, server_manifest
from infra.kubernetes.api import Object
from infra.kubernetes.endpoint import EMPTY, KubernetesEndpoint
from infra.kubernetes.image import KubernetesImage, ray_of
from infra.kubernetes.model_weights import KubernetesWeights
from infra.kubernetes.place import Place
from infra.kubernetes.pods import Serving
from infra.kubernetes.ray_service import KubernetesService
from infra.kubernetes.registry import Reference
from infra.kubernetes.requests import requests
from infra.kubernetes.router_manifest import FILES
from infra.kubernetes.service_endpoint import ServiceEndpoint
from infra.platform import Release
from infra.specs import ModelSpec
from infra.states import Difference, Sent
from infra.waiting import Progress

RECORDS = "records (ConfigMaps), locks and kept room (Leases) are written while it works and are not shown"
ONCE = "only while the claim is not filled; it is gone again when that is done"
MODE = "accessModes: ReadWriteOnce where the storage class is mounted by one node at a time and one node alone can run the engine"
NODES = "with one such node, the Job is bound to it by a nodeAffinity"
CONFIG = "memory and kv_cache_memory_bytes are reckoned from the size of the files; once the claim is filled, from its config.json too"
VERSION = "rayVersion and authOptions are set where the image's tag was resolved on the cluster and its label says a version of Ray"
STAMP = "an annotation llm-pipeline/files is added: a hash with the router's token in it, which is made on the cluster"
TAG = "the digest that this tag leads to is asked for once on the cluster; only that is deployed"
HIDDEN = "its data are not shown"


class KubernetesManifests:
    """`Manifests` of one place."""

    def __init__(
        self, place: Place, install: bool, image: KubernetesImage, weights: KubernetesWeights, service: KubernetesService, endpoint: KubernetesEndpoint | ServiceEndpoint
    ) -> None:
        self._place, self._install, self._image, self._weights, self._service, self._endpoint = place, install, image, weights, service, endpoint

    def declared(self, spec: ModelSpec, base: Path, progress: Progress) -> tuple[Release, tuple[Sent, ...]]:
        image = self._resolved(spec, progress)
        seen = self._weights.look(spec, base, progress)
        release = Release(spec, seen.revision, seen.manifest, image, seen.source, str(base))
        serving = tuple(self._release(release))
        front = self._router(self._endpoint, release) if isinstance(self._endpoint, KubernetesEndpoint) else [Sent(_direct(self._endpoint, release, [row.document for row in serving]))]
        return release, (*self._around(), *self._filling(release), *serving, *front)

    def differences(self, release: Release, progress: Progress) -> tuple[Difference, ...]:
        return tuple(diff.differences(self._place, release, self._standing(release, progress), self._service, self._endpoint))

    # ------------------------------------------------ what stands

    def _standing(self, release: Release, progress: Progress) -> list[Object]:
        """Everything that is there as long as the release serves, as it would be sent now."""
        pool = [karpenter.manifest(self._place)] if self._place.block.nodepool is not None else []
        serving = self._service.manifests(release)
        if isinstance(self._endpoint, ServiceEndpoint):
            front = [_direct(self._endpoint, release, serving)]
        else:
            image = self._image.named(self._endpoint.reference, progress)
            front = [router_manifest.secret(self._place, "", EMPTY.render()), *self._endpoint.wanted(release.model, image)]
        return [*pool, self._weights.manifests(release)[0], *serving, *front]

    # ------------------------------------------------ what is declared

    def _resolved(self, spec: ModelSpec, progress: Progress) -> str:
        reference = self._image.reference(spec)
        try:
            return self._image.named(reference, progress)
        except PipelineError as error:
            raise Transient(
                f"which image {reference} is can not be told", why=error.problem.what,
                next="a digest in `image` (…@sha256:…) needs neither cluster nor registry; else mend the reason above",
            ) from error  # fmt: skip

    def _around(self) -> Iterator[Sent]:
        """What all models of the cluster share."""
        yield Sent(namespace.manifest(self._place), ("only where the namespace is not there", RECORDS))
        if self._install:
            names = ", ".join(sorted(item["metadata"]["name"] for item in operator.definitions()))
            first = f"KubeRay's operator: only where the cluster has none. Before it the definitions of KubeRay {operator.VERSION}, as published, with our labels: {names}"
            yield from (Sent(item, () if number else (first,)) for number, item in enumerate(operator.manifests(self._place)))
        if self._place.block.nodepool is not None:
            yield Sent(karpenter.manifest(self._place))

    def _filling(self, release: Release) -> Iterator[Sent]:
        claim, *rest = self._weights.manifests(release)
        yield Sent(claim, (MODE,))
        for item in rest:
            yield _sent(item, ONCE, *((NODES,) if item["kind"] == "Job" else ()))

    def _release(self, release: Release) -> Iterator[Sent]:
        config = _config(release)
        ray = ray_of(self._image.reference(release.spec))
        serving = Serving(release, requests(release, config), self._weights.claim(release), config, ray)
        kind = server_manifest if release.spec.engine.kind == "vllm" else rayservice_manifest
        *rest, main = kind.manifests(self._place, serving)
        yield from map(Sent, rest)
        rows = [CONFIG] if not (config or release.needs_gpu) else []
        yield Sent(main, (*rows, *((VERSION,) if kind is rayservice_manifest and not ray else ())))

    def _router(self, endpoint: KubernetesEndpoint, release: Release) -> Iterator[Sent]:
        reference = Reference.of(endpoint.reference)
        yield _sent(router_manifest.secret(self._place, "", EMPTY.render()))
        for item in endpoint.rendered(release.model, reference.at(reference.digest) if reference.digest else endpoint.reference):
            if item["kind"] != "Deployment":
                yield Sent(item)
                continue
            del item["spec"]["template"]["metadata"]["annotations"][FILES]
            yield Sent(item, (STAMP, *(() if reference.digest else (TAG,))))


def _direct(endpoint: ServiceEndpoint, release: Release, serving: Iterable[Mapping[str, Any]]) -> Object:
    """The model's Service without a router: its selector is that of the release's own."""
    own = next(item for item in serving if item["kind"] == "Service")
    return endpoint.rendered(release.model, release.served_name, own["spec"]["selector"])


def _sent(item: Object, *notes: str) -> Sent:
    """A Secret without its values."""
    if item["kind"] != "Secret":
        return Sent(item, notes)
    return Sent({key: value for key, value in item.items() if key != "data"}, (*notes, f"{HIDDEN}: {', '.join(sorted(item['data']))}"))


def _config(release: Release) -> dict[str, Any]:
    """The model's config.json, where it lies on this machine; empty: it is not known yet."""
    declared = weights.parse(release.source, Path(release.base or "/"))
    if declared.scheme != "file" or declared.path is None:
        return {}
    try:
        found = json.loads((declared.path / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
