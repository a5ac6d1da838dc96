"""Scripted engines as pods: real processes with addresses of their own, where routers that are pods too can reach them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from infra.kubernetes import kinds
from infra.kubernetes.place import Place
from infra.states import Route
from infra.waiting import Progress
from tests.doubles import engine
from tests.kubernetes.lab import REAL


def start(place: Place, name: str, model: str, *options: str) -> Route:
    """The route to one that answers for this model: its pod is of nobody's making, as far as the product knows."""
    command = ["python3", engine.__file__, "--host", "0.0.0.0", "--port", "8000", "--model", model, *options]
    probe = {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 1}
    spec = {"terminationGracePeriodSeconds": 0, "containers": [{"name": "engine", "image": "any", "command": command, "readinessProbe": probe}]}
    place.api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": place.namespace, "annotations": REAL}, "spec": spec})
    ready = place.api.until(kinds.POD, place.namespace, is_ready, Progress(250), fields=f"metadata.name={name}")
    return Route(model, model, name, (ready["status"]["podIP"], 8000))


def is_ready(pods: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The first that is."""
    return next((pod for pod in pods for row in pod["status"].get("conditions") or () if row["type"] == "Ready" and row["status"] == "True"), None)
