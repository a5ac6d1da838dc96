"""The objects of the router: pure functions from a place, an image and the files that the router reads.

    ConfigMap   haproxy.cfg, router.lua                    the same generator as on a laptop
    Secret      token, admin.sha256, table.txt             pods see the digest and the table, never the token
    Deployment  replicas side by side, one more while they are replaced; its pods keep the table in force in a folder of their own
    Service     the stable address; and one of the name <model>-serve-svc for each model, as users of KubeRay know it
    Budget      one pod at a time may be taken away

A pod that is to end first leaves its Services, then HAProxy takes no new connection and ends what it began (SIGUSR1); only then comes SIGTERM.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra import router
from infra.kubernetes.place import CLUSTER, OURS, PART, Place
from infra.router import LUA

ROUTER = "llm-router"
"""The name of all of them."""

PORT, ADMIN = 8000, 8001

CONFIG, SECRET, WORK = (Path("/etc/llm-router"), Path("/etc/llm-router-secret"), Path("/var/run/llm-router"))
"""Where the configuration, the secret and the router's own folder are in a pod."""

LEAVE = "sleep 5; kill -USR1 1; while kill -0 1; do sleep 1; done"
"""5 s: every node has heard by then that this pod is in no Service any more. Process 1 is HAProxy, since the command is nothing else."""

GRACE = 1260
"""Seconds: a minute more than HAProxy itself gives its last stream (hard-stop-after)."""

USER = 65532

FILES = "llm-pipeline/files"
"""Annotation: hash of what the pods read only when they start. Another one replaces them."""

VIA = "llm-pipeline/via"
"""Label of a model's Service that leads to its release itself (`via: service`). Those that lead to the router have none."""

Object = dict[str, Any]


def files() -> dict[str, str]:
    """What HAProxy is started with."""
    made = router.Settings(WORK, f"0.0.0.0:{PORT}", f"0.0.0.0:{ADMIN}", CONFIG / LUA.name, SECRET / "admin.sha256", SECRET / "table.txt")
    return {"haproxy.cfg": router.render(made), LUA.name: LUA.read_text()}


def manifests(place: Place, image: str, replicas: int, token: str, model: str) -> list[Object]:
    """Everything but the Secret, in the order in which it is sent."""
    return [config_map(place), deployment(place, image, replicas, token), budget(place), service(place), service(place, model_service(model), model)]


def config_map(place: Place) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": place.meta(ROUTER, "endpoint"), "data": files()}


def secret(place: Place, token: str, table: str) -> Object:
    """`table`: with which a router begins; pushed to those that run."""
    data = {"token": token, "admin.sha256": router.token_digest(token), "table.txt": table}
    packed = {name: b64encode(text.encode()).decode() for name, text in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": place.meta(ROUTER, "endpoint"), "data": packed}


def service(place: Place, name: str = ROUTER, model: str = "") -> Object:
    """Leads to every router that is ready. `model`: whose additional name it is."""
    ports = [{"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP"}]
    return {"apiVersion": "v1", "kind": "Service", "metadata": place.meta(name, "endpoint", model), "spec": {"selector": selector(place), "ports": ports}}


def model_service(model: str) -> str:
    """The name under which users of KubeRay look for a model."""
    return f"{model.replace('_', '-')}-serve-svc"


def budget(place: Place) -> Object:
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": selector(place)}}
    return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": place.meta(ROUTER, "endpoint"), "spec": spec}


def deployment(place: Place, image: str, replicas: int, token: str) -> Object:
    """`image`: by digest."""
    stamp = hashlib.sha256("\0".join((*files().values(), token)).encode()).hexdigest()[:16]
    annotations = {**place.block.pod_annotations, FILES: stamp}
    pod = {"metadata": {"labels": place.labels("endpoint"), "annotations": annotations}, "spec": pod_spec(place, image)}
    spec = {
        "replicas": replicas, "selector": {"matchLabels": selector(place)}, "template": pod, "revisionHistoryLimit": 2,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
    }  # fmt: skip
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": place.meta(ROUTER, "endpoint"), "spec": spec}


def selector(place: Place) -> dict[str, str]:
    """The labels of the router's pods, and of no other."""
    return {**OURS, CLUSTER: place.cluster, PART: "endpoint"}


def pod_spec(place: Place, image: str) -> Object:
    spread = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": selector(place)}}
    user = {"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER, "seccompProfile": {"type": "RuntimeDefault"}}
    pull = [{"name": place.block.image_pull_secret}] if place.block.image_pull_secret else []
    seen = [{"key": name, "path": name} for name in ("admin.sha256", "table.txt")]
    return {
        "automountServiceAccountToken": False, "enableServiceLinks": False, "terminationGracePeriodSeconds": GRACE, "topologySpreadConstraints": [spread], "securityContext": user,
        "containers": [container(image)],
        "volumes": [{"name": "config", "configMap": {"name": ROUTER}}, {"name": "secret", "secret": {"secretName": ROUTER, "items": seen}}, {"name": "work", "emptyDir": {}}],
        **({"imagePullSecrets": pull} if pull else {}),
    }  # fmt: skip


def container(image: str) -> Object:
    """HAProxy as process 1. It is ready and alive when it answers `/health`, which needs no key; without a table it is not ready."""
    mounts: Mapping[str, tuple[Path, bool]] = {"config": (CONFIG, True), "secret": (SECRET, True), "work": (WORK, False)}
    health = {"httpGet": {"path": "/health", "port": "http"}, "timeoutSeconds": 3}
    return {
        "name": "router", "image": image, "command": ["haproxy", "-db", "-f", str(CONFIG / "haproxy.cfg")],
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}, {"name": "admin", "containerPort": ADMIN, "protocol": "TCP"}],
        "readinessProbe": {**health, "periodSeconds": 2}, "livenessProbe": {**health, "periodSeconds": 10},
        "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", LEAVE]}}},
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": name, "mountPath": str(path), "readOnly": locked} for name, (path, locked) in mounts.items()],
    }  # fmt: skip
