"""Scripted engines as pods: real processes with addresses of their own, where routers that are pods too can reach them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from infra.kubernetes import kinds
from infra.kubernetes.place import CLUSTER, PART, RELEASE, Place, object_name
from infra.platform import model_of
from infra.states import Route
from infra.waiting import Progress
from tests.doubles import engine
from tests.kubernetes.lab import REAL


def release(place: Place, name: str, *options: str) -> Route:
    """The route to one that is a whole release, as far as a Service can tell: its pod has the labels of one, and a Service of its own. It answers with its name."""
    labels = place.labels("ray_service", release=name)
    meta = place.meta(object_name(name), "ray_service", release=name)
    own = {key: labels[key] for key in (CLUSTER, PART, RELEASE)}
    spec = {"selector": own, "ports": [{"name": "http", "port": 8000, "targetPort": 8000}]}
    place.api.apply({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
    return start(place, name, model_of(name), "--default", name, *options, labels=labels)


def start(place: Place, name: str, model: str, *options: str, labels: Mapping[str, str] | None = None) -> Route:
    """The route to one that answers for this model: its pod is of nobody's making, as far as the product knows, unless `labels` say otherwise."""
    command = ["python3", engine.__file__, "--host", "0.0.0.0", "--port", "8000", "--model", model, *options]
    probe = {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 1}
    spec = {"terminationGracePeriodSeconds": 0, "containers": [{"name": "engine", "image": "any", "command": command, "readinessProbe": probe}]}
    meta = {"name": name, "namespace": place.namespace, "annotations": REAL, "labels": dict(labels or {})}
    place.api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
    ready = place.api.until(kinds.POD, place.namespace, is_ready, Progress(250), fields=f"metadata.name={name}")
    return Route(model, model, name, (ready["status"]["podIP"], 8000))


def is_ready(pods: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The first that is."""
    return next((pod for pod in pods for row in pod["status"].get("conditions") or () if row["type"] == "Ready" and row["status"] == "True"), None)
