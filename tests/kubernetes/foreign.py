"""Objects of other people that look like ours: none of them may ever be touched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from infra.kubernetes import kinds
from infra.kubernetes.api import Api, Object, kind_of
from infra.kubernetes.place import CLUSTER, OURS, PART
from infra.waiting import Progress

THEIRS: dict[str, str] = {"kubelab/run": "false"}
"""Their pods are simulated, whatever ours are."""

LEFT_ALONE = "kueue.x-k8s.io/multikueue"
"""Whose Ray objects KubeRay's operator does not touch: whatever changes one of them was somebody else."""


def make(api: Api, namespace: str) -> list[Object]:
    """About fifty: in our namespace without our labels, or with some of them; and with all of them in a namespace whose name begins like ours."""
    beside = f"{namespace}-2"
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": beside, "labels": {**OURS, "team": "other"}}})
    ours = {**OURS, CLUSTER: "lab", PART: "ray_service", "app.kubernetes.io/part-of": "llm-pipeline"}
    kinds_of_labels: list[tuple[str, dict[str, str]]] = [
        (namespace, {}), (namespace, {"app.kubernetes.io/managed-by": "Helm", CLUSTER: "lab"}), (namespace, {**OURS, CLUSTER: "other"}), (beside, ours),
    ]  # fmt: skip
    return [api.create(manifest) for number, (where, labels) in enumerate(kinds_of_labels) for manifest in _all(where, labels, f"demo-{number:010d}")]


def _all(namespace: str, labels: dict[str, str], name: str) -> Iterator[Object]:
    def meta(name: str) -> dict[str, Any]:
        return {"name": name, "namespace": namespace, "labels": labels, "annotations": THEIRS}

    pod = {"containers": [{"name": "c", "image": "theirs"}], "terminationGracePeriodSeconds": 1}
    template = {"metadata": {"labels": {"app": name}, "annotations": THEIRS}, "spec": pod}
    number = name[-1]
    yield {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(f"record-demo-live-{number}"), "data": {"owner": "demo", "name": "live", "document": "{}"}}
    yield {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(f"llm-router-{number}")}
    yield {"apiVersion": "v1", "kind": "Secret", "metadata": meta(f"llm-router-{number}")}
    yield {"apiVersion": "v1", "kind": "Service", "metadata": meta(name), "spec": {"selector": {"app": name}, "ports": [{"port": 8000}]}}
    yield {"apiVersion": "v1", "kind": "Service", "metadata": meta(f"demo-serve-svc-{number}"), "spec": {"selector": {"app": name}, "ports": [{"port": 8000}]}}
    yield {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta(f"weights-{number:0>16}"),
           "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}  # fmt: skip
    yield {"apiVersion": "v1", "kind": "Pod", "metadata": meta(name), "spec": pod}
    yield {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta(name), "spec": {"replicas": 0, "selector": {"matchLabels": {"app": name}}, "template": template}}
    yield {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta(f"weights-{number:0>16}-fill"),
           "spec": {"suspend": True, "template": {"metadata": {}, "spec": {**pod, "restartPolicy": "Never"}}}}  # fmt: skip
    yield {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta(f"llm-router-{number}"), "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": name}}}}
    yield {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta(f"lock-demo-{number}"), "spec": {"holderIdentity": "somebody"}}
    head = {"headGroupSpec": {"rayStartParams": {}, "template": template}}
    yield {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": meta(name), "spec": {"managedBy": LEFT_ALONE, **head}}
    yield {"apiVersion": "ray.io/v1", "kind": "RayService", "metadata": meta(name), "spec": {"managedBy": LEFT_ALONE, "rayClusterConfig": head}}


def settled(api: Api, made: list[Object]) -> dict[str, tuple[str, str]]:
    """`marks`, once the cluster's own controllers have said of each what they say of a new one."""
    Progress(300).until(lambda: True if all(_seen(_now(api, item)) for item in made) else None, every=1)
    return marks(api, made)


def marks(api: Api, made: list[Object]) -> dict[str, tuple[str, str]]:
    """What each is now: uid and version. An object that is gone has none."""
    out = {}
    for item in made:
        found = _now(api, item)
        out[f"{kind_of(item).plural}/{item['metadata']['namespace']}/{item['metadata']['name']}"] = (found["metadata"]["uid"], found["metadata"]["resourceVersion"]) if found else ("gone", "")
    return out


def everything(api: Api, namespace: str) -> dict[str, dict[str, str]]:
    """All that lies in a namespace, with its labels."""
    own = [kind for kind in kinds.KINDS.values() if kind.namespaced and kind not in (kinds.EVENT, kinds.REVIEW)]
    return {f"{kind.plural}/{item['metadata']['name']}": item["metadata"].get("labels") or {} for kind in own for item in api.list(kind, namespace).items}


def _now(api: Api, item: Object) -> Object | None:
    return api.get(kind_of(item), item["metadata"]["name"], item["metadata"]["namespace"])


def _seen(item: Object | None) -> bool:
    """Whether its controller has told how it is, where it has one that does."""
    status = (item or {}).get("status") or {}
    match item and item["kind"]:
        case "Pod":
            return any(row["type"] == "Ready" and row["status"] == "True" for row in status.get("conditions", ()))
        case "Deployment" | "PodDisruptionBudget":
            return bool(status.get("observedGeneration")) and (item["kind"] != "Deployment" or len(status.get("conditions", ())) == 2)
        case "Job":
            return bool(status.get("conditions"))
        case _:
            return True
