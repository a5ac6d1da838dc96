"""The manifests of weights, pure: the claim, and the Job that fills or verifies it with what it mounts.

    PersistentVolumeClaim  weights-<manifest>            the files; annotated once they were verified
    Job                    weights-<manifest>-<mode>     one at a time, by its name
    ConfigMap, Secret      the same name                 code and order; the Hub's token. They go with the Job
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from infra.errors import ConfigError
from infra.kubernetes.api import Object
from infra.kubernetes.inside.order import HOPELESS, PORT, Order
from infra.kubernetes.place import Place
from infra.kubernetes.requests import GPU
from infra.kubernetes.weights_code import archive
from infra.weights import Manifest

PART = "model_weights"
MOUNT = "/weights"
"""Where pods find the files: engines read-only."""

MANIFEST = "llm-pipeline/manifest"
"""Label: first 16 hex digits of the manifest."""

GIB = 1 << 30
LIMIT = 900_000
"""Bytes of an order: a ConfigMap takes 1 MiB, and the code needs some."""

SLOWEST = 4_000_000
"""Bytes per second below which a Job is not waited for any more."""

USER = 1000


@dataclass(frozen=True)
class Task:
    """One Job. `nodes`: the only ones that it may run on, by name; empty: any. `token`: name of a Secret and key with the Hub's."""

    order: Order
    model: str
    image: str
    nodes: Sequence[str] = ()
    token: tuple[str, str] | None = None

    @property
    def name(self) -> str:
        return f"{claim_name(self.order.manifest)}-{self.order.mode}"


def claim_name(manifest: Manifest) -> str:
    """Of the claim that holds this revision: whoever serves it, of any model, reads the same."""
    return f"weights-{manifest.digest[:16]}"


def claim(place: Place, manifest: Manifest, model: str, mode: str) -> Object:
    """A tenth more than the files: file systems keep some for themselves. `mode`: ReadWriteOnce or ReadWriteMany."""
    size = max(1, math.ceil(manifest.size * 1.1 / GIB))
    spec: Object = {"accessModes": [mode], "resources": {"requests": {"storage": f"{size}Gi"}}}
    if place.block.storage_class:
        spec["storageClassName"] = place.block.storage_class
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": _meta(place, claim_name(manifest), manifest, model), "spec": spec}


def code(place: Place, task: Task, owner: Object | None = None) -> Object:
    """The ConfigMap with the code and the order."""
    order = task.order.to_json()
    if len(order) > LIMIT:
        raise ConfigError(f"{task.order.source} has too many files for this platform", why=f"their list has {len(order):,} bytes; a ConfigMap takes 1 MiB")
    data = {"data": {"order.json": order}, "binaryData": {"weights.pyz": base64.b64encode(archive()).decode()}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _owned(_meta(place, task.name, task.order.manifest, task.model), owner), **data}


def secret(place: Place, task: Task, token: str, owner: Object | None = None) -> Object:
    """The Secret with the Hub's token, where the cluster has none of its own."""
    meta = _owned(_meta(place, task.name, task.order.manifest, task.model), owner)
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", "data": {"token": base64.b64encode(token.encode()).decode()}}


def job(place: Place, task: Task) -> Object:
    """Tries again by itself after what may pass; what can not heal ends it at once. It is gone an hour after its end."""
    manifest = task.order.manifest
    meta = _meta(place, task.name, manifest, task.model)
    spec = {
        "backoffLimit": 3,
        "activeDeadlineSeconds": 3600 + manifest.size // SLOWEST,
        "ttlSecondsAfterFinished": 3600,
        "podFailurePolicy": {"rules": [
            {"action": "FailJob", "onExitCodes": {"containerName": "weights", "operator": "In", "values": [HOPELESS]}},
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        ]},
        "template": {"metadata": {"labels": meta["labels"], **_annotations(place)}, "spec": _pod(place, task)},
    }  # fmt: skip
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {**meta, "annotations": {"llm-pipeline/how": task.order.how}}, "spec": spec}


def with_own_token(task: Task) -> Task:
    """The same task, with the token of the Secret that goes with it."""
    return replace(task, token=(task.name, "token"))


# ------------------------------------------------ private


def _meta(place: Place, name: str, manifest: Manifest, model: str) -> dict[str, Any]:
    meta = place.meta(name, PART, model)
    meta["labels"][MANIFEST] = manifest.digest[:16]
    return meta


def _owned(meta: dict[str, Any], owner: Object | None) -> dict[str, Any]:
    if owner is None:
        return meta
    job = {"apiVersion": "batch/v1", "kind": "Job", "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]}
    return {**meta, "ownerReferences": [job]}


def _annotations(place: Place) -> dict[str, Any]:
    return {"annotations": dict(place.block.pod_annotations)} if place.block.pod_annotations else {}


def _pod(place: Place, task: Task) -> Object:
    reads_only = task.order.mode == "verify"
    volumes = [
        {"name": "weights", "persistentVolumeClaim": {"claimName": claim_name(task.order.manifest), "readOnly": reads_only}},
        {"name": "code", "configMap": {"name": task.name}},
    ]
    spec: Object = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 5,
        "securityContext": {"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER, "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"}},
        "affinity": _affinity(task.nodes),
        "tolerations": [*place.block.tolerations, {"key": GPU, "operator": "Exists", "effect": "NoSchedule"}],
        "containers": [_container(task, reads_only)],
        "volumes": volumes,
    }  # fmt: skip
    if place.block.image_pull_secret:
        spec["imagePullSecrets"] = [{"name": place.block.image_pull_secret}]
    return spec


def _container(task: Task, reads_only: bool) -> Object:
    made: Object = {
        "name": "weights",
        "image": task.image,
        "command": ["python3", "/code/weights.pyz", "/code/order.json", MOUNT],
        "env": [{"name": "PYTHONDONTWRITEBYTECODE", "value": "1"}, *_token(task.token)],
        "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True},
        "volumeMounts": [{"name": "weights", "mountPath": MOUNT, "readOnly": reads_only}, {"name": "code", "mountPath": "/code", "readOnly": True}],
    }
    if task.order.mode == "fill" and task.order.how == "receive":
        made["ports"] = [{"name": "files", "containerPort": PORT}]
        made["readinessProbe"] = {"httpGet": {"path": "/state", "port": PORT}, "periodSeconds": 2, "timeoutSeconds": 5}
    return made


def _token(token: tuple[str, str] | None) -> list[Object]:
    return [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": token[0], "key": token[1]}}}] if token else []


def _affinity(nodes: Sequence[str]) -> Mapping[str, Any]:
    """Nodes without a GPU are preferred: nobody should pay for one that waits for a download."""
    cheap = {"matchExpressions": [{"key": "nvidia.com/gpu.present", "operator": "DoesNotExist"}]}
    made: dict[str, Any] = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": cheap}]}
    if nodes:
        terms = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]} for name in nodes]
        made["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": terms}
    return {"nodeAffinity": made}
