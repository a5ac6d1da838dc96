"""Objects of other people that look like ours: none of them may ever be touched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from infra.kubernetes import kinds
from infra.kubernetes.api import Api, Object, kind_of
from infra.kubernetes.place import CLUSTER, OURS, PART

THEIRS: dict[str, str] = {"kubelab/run": "false"}
"""Their pods are simulated, whatever ours are."""


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
    yield {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(name)}
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
    yield {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": meta(name),
           "spec": {"suspend": True, "headGroupSpec": {"rayStartParams": {}, "template": template}}}  # fmt: skip


def marks(api: Api, made: list[Object]) -> dict[str, tuple[str, str]]:
    """What each is now: uid and version. An object that is gone has none."""
    out = {}
    for item in made:
        meta, kind = item["metadata"], kind_of(item)
        found = api.get(kind, meta["name"], meta["namespace"])
        out[f"{kind.plural}/{meta['namespace']}/{meta['name']}"] = (found["metadata"]["uid"], found["metadata"]["resourceVersion"]) if found else ("gone", "")
    return out


def everything(api: Api, namespace: str) -> dict[str, dict[str, str]]:
    """All that lies in a namespace, with its labels."""
    own = [kind for kind in kinds.KINDS.values() if kind.namespaced and kind not in (kinds.EVENT, kinds.REVIEW)]
    return {f"{kind.plural}/{item['metadata']['name']}": item["metadata"].get("labels") or {} for kind in own for item in api.list(kind, namespace).items}
