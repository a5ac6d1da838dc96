"""Room that somebody got and whose pods are not there yet: a Lease per release, so that two who look at once never both get it.

    Lease room-<release>     annotation: the pods' requests; renewTime: when it was got

It counts until the pods are there (they count themselves from then on, running or not), until the block ends, until its process is
provably gone, or for SECONDS: whoever got room makes the pods at once.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime

from infra import workers
from infra.kubernetes import kinds
from infra.kubernetes.api import Object
from infra.kubernetes.place import OURS, RELEASE, Place, object_name
from infra.kubernetes.requests import PodRequests
from infra.kubernetes.writes import write
from infra.platform import Release

PART = "gpu_nodepool"
SECONDS = 180
ASKS, WORKER = "llm-pipeline/asks", "llm-pipeline/worker"


@contextmanager
def kept(place: Place, release: Release, asks: Sequence[PodRequests]) -> Iterator[None]:
    """What this release needs counts as taken until the end of the block."""
    name = f"room-{object_name(release)}"
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    meta = place.meta(name, PART, release=release.name, annotations={ASKS: json.dumps([asdict(one) for one in asks]), WORKER: workers.myself()})
    spec = {"holderIdentity": workers.myself()[:120], "leaseDurationSeconds": SECONDS, "renewTime": now}
    if left := place.api.get(kinds.LEASE, name, place.namespace):  # of a start that was killed
        place.api.delete(kinds.LEASE, name, place.namespace, uid=left["metadata"]["uid"])
    made = write(place.api, {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec})
    try:
        yield
    finally:
        place.api.delete(kinds.LEASE, name, place.namespace, uid=made["metadata"]["uid"])


def promised(place: Place, pods: Sequence[Object], without: Sequence[str]) -> dict[str, tuple[PodRequests, ...]]:
    """Of each release that got room: the pods that are not there yet."""
    selector = ",".join(f"{key}={value}" for key, value in {**OURS, "llm-pipeline/part": PART}.items())
    there = Counter(str((pod["metadata"].get("labels") or {}).get(RELEASE)) for pod in pods if pod["metadata"]["namespace"] == place.namespace)
    found: dict[str, tuple[PodRequests, ...]] = {}
    for lease in place.api.list(kinds.LEASE, place.namespace, selector).items:
        name = lease["metadata"]["labels"][RELEASE]
        if name not in without and not _over(lease):
            asks = [PodRequests(**row) for row in json.loads(lease["metadata"]["annotations"][ASKS])]
            found[name] = tuple(asks[there[name] :])
    return found


def _over(lease: Object) -> bool:
    since = datetime.fromisoformat(lease["spec"]["renewTime"]).timestamp()
    return workers.gone(lease["metadata"]["annotations"].get(WORKER, "")) or time.time() - since > lease["spec"]["leaseDurationSeconds"]
