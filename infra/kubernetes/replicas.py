"""The number of replicas of what serves, changed in place, down to none: no pod that stays is touched.

KubeRay acts on a changed Serve configuration at once, and leaves the numbers of workers in a RayService to its autoscaler: so they are
written into the RayCluster too. Without an autoscaler (the release came up with one number) all workers that may be needed are made, and they
stay while nothing is in them; with it they go, and come again.
"""

from __future__ import annotations

import yaml  # type: ignore[import-untyped, unused-ignore]

from infra import engine
from infra.kubernetes import kinds, rayservice_manifest
from infra.kubernetes.api import Object
from infra.kubernetes.place import Place
from infra.kubernetes.pods import PART, Serving
from infra.platform import Release


def workers(release: Release, now: int, *, scaled: bool) -> int:
    """How many there are after `adjust`: with Ray's autoscaler as many as now, within the bounds; without it all that may be needed; of a plain server the least."""
    least, most = max(1, release.spec.replicas.min), release.spec.replicas.max
    if release.spec.engine.kind != "ray":
        return least
    return min(max(now, least), most) if scaled else most


def adjust(place: Place, serving: Serving, main: Object) -> None:
    """Brings them to what the spec says. `main`: the RayService or Deployment as it is."""
    if main["kind"] == kinds.DEPLOYMENT.name:
        patch: Object = {"spec": {"replicas": serving.release.spec.replicas.min}}
        place.api.merge(kinds.DEPLOYMENT, serving.name, place.namespace, patch)
        return
    _put(place, serving, main, rests=False)


def shrink(place: Place, serving: Serving, main: Object) -> None:
    """Takes all of them away. `main`: the RayService as it is."""
    _put(place, serving, main, rests=True)


def none(main: Object) -> bool:
    """Whether there is to be none."""
    text = str(main["spec"].get("serveConfigV2", ""))
    return "min_replicas: 0" in text and engine.rests(yaml.safe_load(text))


def _put(place: Place, serving: Serving, main: Object, *, rests: bool) -> None:
    cluster = main["spec"]["rayClusterConfig"]
    scaled = bool(cluster.get("enableInTreeAutoscaling"))
    for item in place.api.list(kinds.RAY_CLUSTER, place.namespace, labels=place.selector(PART, release=serving.release.name)).items:
        patch: Object = {"spec": {"workerGroupSpecs": _groups(item["spec"], serving, scaled=scaled, rests=rests)}}
        place.api.merge(kinds.RAY_CLUSTER, item["metadata"]["name"], place.namespace, patch)
    config = rayservice_manifest.serve_config(serving, rests=rests)
    patch = {"spec": {"serveConfigV2": config, "rayClusterConfig": {"workerGroupSpecs": _groups(cluster, serving, scaled=scaled, rests=rests)}}}
    place.api.merge(kinds.RAY_SERVICE, serving.name, place.namespace, patch)


def _groups(cluster: Object, serving: Serving, *, scaled: bool, rests: bool) -> list[Object]:
    """Its groups of workers with other numbers. What the autoscaler chose stays, within the new bounds."""
    wanted = rayservice_manifest.workers(serving, scaled=scaled, rests=rests)
    groups = [dict(group) for group in cluster["workerGroupSpecs"]]
    for group in groups:
        if group["groupName"] == rayservice_manifest.GROUP:
            chosen = min(max(group.get("replicas", 0), wanted["minReplicas"]), wanted["maxReplicas"])
            group |= wanted | ({"replicas": chosen} if scaled else {})
    return groups
