"""Our namespace: made where there is none, and marked then, so that only what we made is ever removed."""

from __future__ import annotations

from infra.errors import ConfigError, Conflict, Denied, PipelineError
from infra.kubernetes import kinds
from infra.kubernetes.api import Object
from infra.kubernetes.failures import Absent
from infra.kubernetes.place import CLUSTER, OURS, Place
from infra.waiting import Progress

STRICT = {"pod-security.kubernetes.io/warn": "restricted"}
"""What is asked of pods in a namespace of ours is only told, never enforced: ours keep to it, and a mesh's sidecar may not."""


def ensure(place: Place, progress: Progress) -> bool:
    """It exists, and is not going away. True: it was made by this call."""
    found = place.api.get(kinds.NAMESPACE, place.namespace)
    if found and leaving(found):
        progress.phase("namespace", f"{place.namespace} is still going away")
        place.api.until(kinds.NAMESPACE, None, lambda now: True if not now else None, progress, fields=f"metadata.name={place.namespace}")
        found = None
    if found:
        return False
    progress.phase("namespace", place.namespace)
    try:
        place.api.create(manifest(place))
    except Conflict:
        return False
    except Denied as error:
        raise ConfigError(
            f"there is no namespace {place.namespace}, and we may not make one", why=error.problem.why,
            next=f"kubectl --context {place.block.context} create namespace {place.namespace}; then the same command again",
        ) from error  # fmt: skip
    return True


def away(place: Place, error: PipelineError) -> bool:
    """Whether a refusal only says that our namespace is not there, or on its way out (Kubernetes forbids to make anything in it then)."""
    if isinstance(error, Absent):
        return True
    found = place.api.get(kinds.NAMESPACE, place.namespace)
    return found is not None and leaving(found)


def manifest(place: Place) -> Object:
    """A namespace that this cluster's declaration made."""
    labels = {**OURS, CLUSTER: place.cluster, "app.kubernetes.io/part-of": "llm-pipeline", **STRICT}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": place.namespace, "labels": labels}}


def made_by_us(place: Place, found: Object) -> bool:
    """Whether it carries our mark: one that somebody else made is never removed."""
    labels = found["metadata"].get("labels") or {}
    return all(labels.get(key) == value for key, value in {**OURS, CLUSTER: place.cluster}.items())


def leaving(found: Object) -> bool:
    """Whether its removal has begun."""
    return bool(found["metadata"].get("deletionTimestamp"))
