"""KubeRay's operator, ours: a pinned version in our own namespace, which looks after that namespace alone.

So it needs no right outside of it, and two clusters' declarations, or another team, are not in each other's way. Only the definitions
belong to the whole cluster: they are put where there are none, and go when nobody has an object of them.
"""

from __future__ import annotations

import json
import lzma
from functools import cache
from pathlib import Path
from typing import Any

from infra.kubernetes import kinds
from infra.kubernetes.api import Object
from infra.kubernetes.place import Place

VERSION = "1.6.1"
IMAGE = f"quay.io/kuberay/operator:v{VERSION}"
NAME, PART = "kuberay-operator", "kuberay"
RELEASED = "app.kubernetes.io/version"
MEMORY = "512Mi"
"""What KubeRay's own manifests give it: enough for some hundred Ray pods."""

ALL = ("create", "delete", "get", "list", "patch", "update", "watch")
SEEN = ("get", "list", "watch")

NEEDS: tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = (
    (("",), ("events", "pods", "pods/status", "services", "serviceaccounts"), ALL),
    (("",), ("pods",), ("deletecollection",)),
    (("",), ("secrets",), ("create", *SEEN)),
    (("",), ("pods/proxy", "services/proxy", "services/status"), ("create", "get", "patch", "update")),
    (("",), ("pods/resize",), ("patch",)),
    (("batch",), ("jobs",), ALL),
    (("coordination.k8s.io",), ("leases",), ("create", "get", "list", "update")),
    (("discovery.k8s.io",), ("endpointslices",), SEEN),
    (("networking.k8s.io",), ("ingresses", "networkpolicies"), ALL),
    (("ray.io",), ("rayclusters", "raycronjobs", "rayjobs", "rayservices"), ALL),
    (("ray.io",), tuple(f"{plural}/{sub}" for plural in ("rayclusters", "raycronjobs", "rayjobs", "rayservices") for sub in ("finalizers", "status")), ("get", "patch", "update")),
    (("rbac.authorization.k8s.io",), ("roles", "rolebindings"), ALL),
)
"""API groups, resources and verbs that the operator uses in the namespaces that it watches."""


@cache
def definitions() -> tuple[Object, ...]:
    """The custom resource definitions of this version, as KubeRay publishes them."""
    packed = (Path(__file__).parent / "data" / f"kuberay-{VERSION}.json.xz").read_bytes()
    return tuple(json.loads(lzma.decompress(packed)))


def marked(place: Place, definition: Object) -> Object:
    """A definition with our labels, by which we know those that we put and may remove; and its version, by which we know what we need not put again."""
    meta = definition["metadata"]
    return {**definition, "metadata": {**meta, "labels": {**(meta.get("labels") or {}), **place.labels(PART), RELEASED: VERSION}}}


def manifests(place: Place) -> tuple[Object, ...]:
    """Everything in the namespace, what computes last."""
    meta, group = place.meta(NAME, PART), kinds.ROLE.group
    rules = [{"apiGroups": list(groups), "resources": list(resources), "verbs": list(verbs)} for groups, resources, verbs in NEEDS]
    return (
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {"apiVersion": kinds.ROLE.api_version, "kind": "Role", "metadata": meta, "rules": rules},
        {
            "apiVersion": kinds.ROLE.api_version, "kind": "RoleBinding", "metadata": meta, "roleRef": {"apiGroup": group, "kind": "Role", "name": NAME},
            "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": place.namespace}],
        },
        _deployment(place),
    )  # fmt: skip


def _deployment(place: Place) -> Object:
    meta = place.meta(NAME, PART)
    labels = {**meta["labels"], "app.kubernetes.io/name": NAME, RELEASED: VERSION}
    wanted = {"app.kubernetes.io/name": NAME, **{key: labels[key] for key in labels if key.startswith("llm-pipeline/")}}
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {**meta, "labels": labels},
        "spec": {
            "replicas": 1, "strategy": {"type": "Recreate"}, "selector": {"matchLabels": wanted},
            "template": {"metadata": {"labels": labels, **({"annotations": dict(place.block.pod_annotations)} if place.block.pod_annotations else {})}, "spec": _pod(place)},
        },
    }  # fmt: skip


def _pod(place: Place) -> dict[str, Any]:
    probe = {"httpGet": {"path": "/metrics", "port": "http"}, "initialDelaySeconds": 10, "periodSeconds": 5, "failureThreshold": 5}
    container = {
        "name": NAME, "image": IMAGE, "command": ["/manager"], "args": [f"--watch-namespace={place.namespace}", "--enable-leader-election=true"],
        "ports": [{"name": "http", "containerPort": 8080}], "livenessProbe": probe, "readinessProbe": probe,
        "resources": {"requests": {"cpu": "100m", "memory": MEMORY}, "limits": {"memory": MEMORY}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True},
    }  # fmt: skip
    return {
        "serviceAccountName": NAME, "terminationGracePeriodSeconds": 10,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container], **({"imagePullSecrets": [{"name": place.block.image_pull_secret}]} if place.block.image_pull_secret else {}),
    }  # fmt: skip
