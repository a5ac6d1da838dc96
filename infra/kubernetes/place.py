"""Where everything of ours lies on one Kubernetes cluster, and by which labels it is found again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from infra.kubernetes import identity
from infra.kubernetes.api import Api
from infra.kubernetes.looks import Looks
from infra.platform import Release, model_of
from infra.settings import Settings
from infra.specs import KubernetesBlock, kubernetes_name

OURS = {"app.kubernetes.io/managed-by": "llm-pipeline"}
"""On every object that we make; whatever lacks it is somebody else's."""

PART, MODEL, RELEASE, CLUSTER = "llm-pipeline/part", "llm-pipeline/model", "llm-pipeline/release", "llm-pipeline/cluster"


@dataclass(frozen=True)
class Place:
    """One namespace of one cluster. `cluster`: its declared name; `via`: what its endpoint is. The connection is made when it is first needed."""

    settings: Settings
    cluster: str
    block: KubernetesBlock
    via: Literal["router", "service"] = "router"

    @cached_property
    def api(self) -> Api:
        """Raises Blocked when it leads to another cluster than before."""
        made = Api.open(self.kubeconfig, self.block.context)
        identity.insist(self.cache, self.cluster, {"server": made.server, "ca": made.ca_hash})
        return made

    @cached_property
    def looks(self) -> Looks:
        """What is there, asked anew at every question."""
        return Looks(self)

    def at_once(self) -> Place:
        """The same place as it is at this moment: whoever looks at all of it in turn lists each kind once."""
        made = replace(self)
        made.__dict__.update(api=self.api, looks=Looks(made, kept=True))
        return made

    @property
    def kubeconfig(self) -> str:
        """One file, or several as kubectl takes them, apart by a colon."""
        return self.block.kubeconfig or self.settings.kubeconfig or "~/.kube/config"

    @property
    def namespace(self) -> str:
        return self.block.namespace

    @property
    def cache(self) -> Path:
        """A folder of this machine for what is only a copy (logs that were fetched)."""
        return self.settings.home / "clusters" / self.cluster

    def labels(self, part: str, model: str = "", release: str = "") -> dict[str, str]:
        """Of an object that we make. `release`: its whole name, `<model>-<id>`."""
        more = {PART: part, MODEL: model or (model_of(release) if release else ""), RELEASE: release, "app.kubernetes.io/component": part.replace("_", "-")}
        names = {"app.kubernetes.io/name": more[MODEL] or "llm-pipeline", "app.kubernetes.io/part-of": "llm-pipeline", CLUSTER: self.cluster}
        return {**OURS, **names, **{key: value for key, value in more.items() if value}}

    def selector(self, part: str = "", model: str = "", release: str = "") -> str:
        """Finds them: never empty, and never by a name alone."""
        return ",".join(f"{key}={value}" for key, value in self.marks(part, release, model).items())

    def marks(self, part: str = "", release: str = "", model: str = "") -> dict[str, str]:
        """The labels that such an object has at least."""
        wanted = {**OURS, CLUSTER: self.cluster, PART: part, MODEL: model, RELEASE: release}
        return {key: value for key, value in wanted.items() if value}

    def meta(self, name: str, part: str, model: str = "", release: str = "", annotations: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The `metadata` of a manifest in our namespace."""
        made: dict[str, Any] = {"name": name, "namespace": self.namespace, "labels": self.labels(part, model, release)}
        return {**made, "annotations": dict(annotations)} if annotations else made


def object_name(release: Release | str) -> str:
    """The name of a release's objects: Kubernetes knows no underscore."""
    name = release.name if isinstance(release, Release) else release
    model, _, digest = name.rpartition("-")
    return kubernetes_name(model, digest)


