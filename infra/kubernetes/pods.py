"""What every pod of an engine has, whoever makes it: Ray's head and workers, or a plain server. Pure.

An engine is started by nobody's shell and as nobody's root, reads its weights from a claim that it can not write, and keeps what it
compiles in a scratch folder that goes with the pod. A token of the Hub is never in it: the weights are there already.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra import engine
from infra.kubernetes import place as words
from infra.kubernetes.kinds import CONFIG_MAP, SERVICE
from infra.kubernetes.place import Place, object_name
from infra.kubernetes.requests import GPU, PodRequests, Requests
from infra.platform import Release

Object = dict[str, Any]

PART = "ray_service"
REVISION = "llm-pipeline/revision"
"""Label: the revision of the weights, for people; shortened to what a label may be."""

WEIGHTS, CACHES, SETTINGS = "/weights", "/caches", "/settings"
"""Where a container finds the claim, its scratch folder, and the declared chat template."""

TEMPLATE = "chat_template.jinja"
PORT = 8000

GRACE = 60
"""Seconds that a pod has to end when a node is drained: as long as the default of `release.drain_seconds`. What we remove ourselves has no
request any more and is given one second."""

USER = 1000
"""Of Ray's own images and of ours; an image whose user is root is run as this one too."""

CONFINED: Object = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
"""The securityContext of a container."""

STAY = {"karpenter.sh/do-not-disrupt": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
"""Annotations: nobody moves a serving engine to another node to save room."""


@dataclass(frozen=True)
class Serving:
    """What the manifests of a release are made from.

    claim    name of the claim that holds the weights
    config   the weights' config.json
    ray      version of Ray in the image; empty: unknown
    """

    release: Release
    requests: Requests
    claim: str
    config: Mapping[str, Any]
    ray: str = ""

    @property
    def name(self) -> str:
        return object_name(self.release)

    @property
    def template(self) -> str:
        """The file with the declared chat template, inside a container; empty: the weights have their own."""
        return f"{SETTINGS}/{TEMPLATE}" if self.release.spec.engine.chat_template is not None else ""


def labels(place: Place, release: Release) -> dict[str, str]:
    """Of everything that is made for a release."""
    shown = re.sub(r"[^A-Za-z0-9_.-]", "-", release.revision)[:40].strip("-_.")
    return place.labels(PART, release=release.name) | ({REVISION: shown} if shown else {})


def meta(place: Place, release: Release) -> Object:
    """The metadata of an object that is made for a release."""
    made = place.meta(object_name(release), PART, release=release.name)
    return {**made, "labels": labels(place, release)}


def settings(place: Place, serving: Serving) -> tuple[Object, ...]:
    """The ConfigMap with the declared chat template, where there is one."""
    text = serving.release.spec.engine.chat_template
    if text is None:
        return ()
    return ({"apiVersion": CONFIG_MAP.api_version, "kind": CONFIG_MAP.name, "metadata": meta(place, serving.release), "data": {TEMPLATE: text}},)


def selector(place: Place, serving: Serving) -> dict[str, str]:
    """Labels that only pods of this release have."""
    return {key: value for key, value in labels(place, serving.release).items() if key in (words.CLUSTER, words.PART, words.RELEASE)}


def address(place: Place, serving: Serving, beside: Mapping[str, str] | None = None) -> Object:
    """The release's own Service, by whose cluster IP the router reaches it. `beside`: labels that its pods need besides."""
    spec = {"type": "ClusterIP", "selector": selector(place, serving) | dict(beside or {}), "ports": [{"name": "http", "port": PORT, "targetPort": PORT}]}
    return {"apiVersion": SERVICE.api_version, "kind": SERVICE.name, "metadata": meta(place, serving.release), "spec": spec}


def template(place: Place, serving: Serving, asked: PodRequests, container: Object, *, weights: bool) -> Object:
    """A pod's template around one container. `weights`: whether it computes, and so needs what belongs to that."""
    block = place.block
    volumes: list[Object] = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(asked.shared)}},
        {"name": "caches", "emptyDir": {}},
    ]
    if weights:
        volumes.append({"name": "weights", "persistentVolumeClaim": {"claimName": serving.claim, "readOnly": True}})
    if weights and serving.template:
        volumes.append({"name": "settings", "configMap": {"name": serving.name}})
    spec: Object = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": USER, "fsGroup": USER, "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": GRACE,
        "containers": [_container(serving, asked, container, volumes)],
        "volumes": volumes,
    }
    where: Object = {"nodeSelector": dict(block.node_selector), "tolerations": _tolerations(place, asked)}
    where["imagePullSecrets"] = [{"name": block.image_pull_secret}] if block.image_pull_secret else []
    return {
        "metadata": {"labels": labels(place, serving.release), "annotations": {**STAY, **block.pod_annotations}},
        "spec": spec | {key: value for key, value in where.items() if value},
    }


def _container(serving: Serving, asked: PodRequests, container: Object, volumes: list[Object]) -> Object:
    paths = {"shm": "/dev/shm", "caches": CACHES, "weights": WEIGHTS, "settings": SETTINGS}  # noqa: S108 - the shared memory of the container
    quantities = asked.quantities()
    environment = _environment() | container.get("env", {})
    return {
        **container,
        "image": serving.release.image,
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": name, "value": value} for name, value in sorted(environment.items())],
        "resources": {"requests": quantities, "limits": {name: value for name, value in quantities.items() if name != "cpu"}},
        "securityContext": CONFINED,
        "volumeMounts": [
            {"name": volume["name"], "mountPath": paths[volume["name"]], **({"readOnly": True} if volume["name"] in ("weights", "settings") else {})}
            for volume in volumes
        ],
    }  # fmt: skip


def _environment() -> dict[str, str]:
    """Its clock is UTC, so that the times in its log can be told; its caches lie where its user can write."""
    return engine.ENVIRONMENT | {
        "TZ": "UTC", "HF_HOME": f"{CACHES}/hf", "VLLM_CACHE_ROOT": f"{CACHES}/vllm", "XDG_CACHE_HOME": CACHES,
        "TORCHINDUCTOR_CACHE_DIR": f"{CACHES}/inductor", "TRITON_CACHE_DIR": f"{CACHES}/triton",
    }  # fmt: skip


def _tolerations(place: Place, asked: PodRequests) -> list[Object]:
    borne = [dict(row) for row in place.block.tolerations]
    return [*borne, {"key": GPU, "operator": "Exists", "effect": "NoSchedule"}] if asked.gpu else borne
