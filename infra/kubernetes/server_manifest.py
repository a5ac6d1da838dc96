"""`engine.kind: vllm` on Kubernetes: one plain vLLM server per replica, as a Deployment and a Service of the release's own. Pure."""

from __future__ import annotations

from infra import engine
from infra.kubernetes.kinds import DEPLOYMENT
from infra.kubernetes.place import Place
from infra.kubernetes.pods import CACHES, PORT, WEIGHTS, Object, Serving, address, meta, selector, settings, template

ENGINE = "engine"
"""Name of the container."""

START_EVERY, START_TRIES = 3, 600
"""Half an hour until Kubernetes calls a start failed: weights of hundreds of gigabytes. Our own deadline is another matter."""

ALIVE_EVERY, ALIVE_TRIES = 10, 6
"""A minute without an answer of /health, and the container is started anew: one long prompt must not look like a death."""


def manifests(place: Place, serving: Serving) -> tuple[Object, ...]:
    """Everything that is applied, in this order."""
    return (*settings(place, serving), address(place, serving), deployment(place, serving))


def deployment(place: Place, serving: Serving) -> Object:
    """Replicas are as many as there are at least: nothing scales a plain server."""
    words = engine.server_arguments(serving.release, WEIGHTS, "0.0.0.0", PORT, serving.config, serving.template)  # noqa: S104 - inside the pod
    container: Object = {
        "name": ENGINE,
        "command": ["python3", "-m", "vllm.entrypoints.openai.api_server"],
        "args": [*words, "--disable-uvicorn-access-log"],
        "env": {"HOME": CACHES, "USER": "engine", "LOGNAME": "engine"},
        "ports": [{"name": "http", "containerPort": PORT}],
        "startupProbe": _probe(START_EVERY, START_TRIES),
        "readinessProbe": _probe(5, 2),
        "livenessProbe": _probe(ALIVE_EVERY, ALIVE_TRIES),
    }
    made = template(place, serving, serving.requests.worker, container, weights=True)
    return {
        "apiVersion": DEPLOYMENT.api_version, "kind": DEPLOYMENT.name, "metadata": meta(place, serving.release),
        "spec": {
            "replicas": serving.release.spec.replicas.min, "revisionHistoryLimit": 1, "progressDeadlineSeconds": START_EVERY * START_TRIES + 600,
            "selector": {"matchLabels": selector(place, serving)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "template": made,
        },
    }  # fmt: skip


def _probe(period: int, failures: int) -> Object:
    return {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures}
