"""A model's way through the parts of the platform, in the order in which assets/ uses them, without Dagster; its pods are scripted engines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra import kubernetes
from infra.kubernetes.place import CLUSTER, OURS, Place, object_name
from infra.kubernetes.router_manifest import ROUTER
from infra.kubernetes.weights_job import claim_name
from infra.platform import Platform, Release
from infra.specs import ClusterSpec
from infra.states import Route
from infra.waiting import Progress
from tests.doubles.model import lay_model
from tests.doubles.releases import spec
from tests.kubernetes import foreign

IMAGE, HAPROXY = (f"registry.invalid/{name}@sha256:{digit * 64}" for name, digit in (("llm-engine", "a"), ("haproxy", "b")))

PATIENCE = 400
"""Seconds for anything: a start takes some, where nobody else needs the machine."""


@dataclass
class Far:
    """A platform by way of `place`. `sources`: a folder with weights."""

    place: Place
    cluster: ClusterSpec
    platform: Platform
    sources: Path

    def release(self, kind: str = "vllm", weights: str = "file://weights", **keys: Any) -> Release:
        """A release of what the source holds now."""
        engine = {"kind": kind, "max_model_len": 64, "max_num_seqs": 2, **keys.pop("engine", {})}
        wanted = spec(weights=weights, image=IMAGE, engine=engine, **{"resources": {"memory": "64Mi"}, **keys})
        seen = self.platform.model_weights.look(wanted, self.sources, Progress(60))
        return Release(wanted, seen.revision, seen.manifest, self.platform.image.resolve(wanted, Progress(60)), seen.source, str(self.sources))

    def start(self, release: Release, progress: Progress | None = None) -> Route:
        """Up, without a route yet."""
        progress, parts = progress or Progress(PATIENCE), self.platform
        parts.model_weights.apply(release, progress)
        parts.image.apply(release, progress)
        parts.gpu_nodepool.apply(release, progress)
        with parts.gpu_nodepool.reserve(release, progress):
            state = parts.ray_service.apply(release, progress)
        assert state.ready and state.address
        return Route(release.model, release.served_name, release.name, state.address)

    def up(self, release: Release, progress: Progress | None = None) -> Route:
        """From nothing to a route; whatever is there already is adopted."""
        progress = progress or Progress(PATIENCE)
        self.platform.cluster.apply(self.cluster, progress)
        route = self.start(release, progress)
        self.platform.endpoint.apply(route, progress)
        return route

    def ask(self) -> tuple[int, str | None]:
        """One question through the endpoint: its status, and who answered."""
        body = {"model": "demo", "messages": [{"role": "user", "content": "ping"}]}
        with self.platform.endpoint.client("demo", 30) as client:
            answer = client.post("/chat/completions", json=body)
        return answer.status_code, answer.headers.get("x-llm-release")

    def take_down(self, release: Release, progress: Progress | None = None) -> None:
        """What runs of the model."""
        progress, parts = progress or Progress(PATIENCE), self.platform
        parts.endpoint.closed(release.model, release.served_name, 0, "taken down", progress)
        for state in parts.ray_service.running(release.model):
            parts.ray_service.remove(state.release, progress)
        parts.endpoint.delete(Route(release.model, release.served_name, "", ("127.0.0.1", 0)), progress)
        parts.gpu_nodepool.delete(release, progress)

    def down(self, release: Release, progress: Progress | None = None) -> None:
        """Everything, data too."""
        progress, parts = progress or Progress(PATIENCE), self.platform
        self.take_down(release, progress)
        parts.model_weights.delete(release, progress)
        parts.image.delete(release, progress)
        parts.records.purge(release.model)
        parts.cluster.delete(self.cluster, progress)
        for row in parts.inventory.find():
            parts.inventory.remove(row, progress)

    def ours(self) -> list[str]:
        """What of the namespace has our labels."""
        mine = {**OURS, CLUSTER: self.place.cluster}
        return sorted(name for name, labels in foreign.everything(self.place.api, self.place.namespace).items() if mine.items() <= labels.items())


def far(place: Place, folder: Path, **block: Any) -> Far:
    """With one router and KubeRay as it is there, unless `block` says otherwise; and the weights of a small model in `folder`."""
    declared = {**place.block.model_dump(), "kuberay": "existing", **block}
    cluster = ClusterSpec.model_validate({"name": place.cluster, "platform": "kubernetes", "kubernetes": declared, "endpoint": {"image": HAPROXY, "replicas": 1}})
    assert cluster.kubernetes
    there = Place(place.settings, place.cluster, cluster.kubernetes)
    return Far(there, cluster, kubernetes.platform(place.settings, cluster), sources(folder))


def sources(folder: Path) -> Path:
    """Where `file://weights` is."""
    weights = folder / "sources" / "weights"
    if not weights.exists():
        lay_model(weights)
    return weights.parent


def whole(release: Release) -> list[str]:
    """All that is ours while one release with a plain server serves, but for records and what controllers make of it."""
    name, weights = object_name(release), claim_name(release.manifest)
    services = ("services/demo-serve-svc", f"services/{name}", f"services/{ROUTER}")
    router = (f"configmaps/{ROUTER}", f"deployments/{ROUTER}", f"poddisruptionbudgets/{ROUTER}", f"secrets/{ROUTER}")
    return sorted((*services, *router, f"deployments/{name}", f"persistentvolumeclaims/{weights}"))


def objects(story: Far) -> list[str]:
    """All that is ours, but for what controllers make of it."""
    return [name for name in story.ours() if not name.startswith(("pods/", "replicasets/", "endpoints/", "endpointslices/"))]
