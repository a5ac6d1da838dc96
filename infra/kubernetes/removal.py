"""Everything of one release goes: by its labels, each by its uid, and the end is waited for.

    1 RayService, Deployment       what would make the rest again
    2 RayCluster, ReplicaSet       theirs; a RayCluster is asked too, since the garbage collector learns of KubeRay's kinds half a minute late
    3 pods                         they have no request any more, so they get one second instead of their whole grace
    4 Service, ConfigMap           ours; and the services that KubeRay made for it
    5 pods once more               an operator that hears late of the end (the API server was away) makes them again for what is gone

Nothing is taken out of the way by force: an object that somebody's finalizer holds is waited for, until the deadline.
"""

from __future__ import annotations

from collections.abc import Sequence

from infra.errors import Conflict
from infra.kubernetes import kinds
from infra.kubernetes.api import Object
from infra.kubernetes.kinds import Kind
from infra.kubernetes.place import Place
from infra.waiting import Progress

MAKERS = (kinds.RAY_SERVICE, kinds.DEPLOYMENT)
MADE = (kinds.RAY_CLUSTER, kinds.REPLICA_SET)

LISTED = (kinds.CONFIG_MAP, kinds.SECRET, kinds.BUDGET, kinds.REPLICA_SET, kinds.ACCOUNT, kinds.ROLE, kinds.ROLE_BINDING)
"""Kinds that go at once and that we ask for no right to watch: looked for second by second."""

QUICK = 1
"""Seconds of grace for a pod without requests. Ray's head would else drain for half a minute."""


def remove(place: Place, selector: str, progress: Progress) -> None:
    """Whatever has these labels. Absent already: done."""
    owners = {item["metadata"]["uid"] for kind in (*MAKERS, *MADE) for item in _now(place, kind, selector)}
    for kind in (*MAKERS, kinds.RAY_CLUSTER):
        gone(place, kind, selector, progress)
    progress.until(lambda: True if not _now(place, kinds.REPLICA_SET, selector) else None, every=1)
    gone(place, kinds.POD, selector, progress, grace=QUICK)
    for kind in (kinds.SERVICE, kinds.CONFIG_MAP):
        gone(place, kind, selector, progress)
    if owners:
        progress.until(lambda: True if not _orphans(place, owners) else None, every=1)
    gone(place, kinds.POD, selector, progress, grace=QUICK)


def gone(place: Place, kind: Kind, selector: str, progress: Progress, grace: int | None = None) -> None:
    """Asks each of this kind for its end once, and waits for it. ValueError for an empty selector: it would mean everything of everybody."""
    if not selector:
        raise ValueError("a selector is needed")
    asked: set[str] = set()

    def look(now: Sequence[Object]) -> bool | None:
        for item in now:
            if item["metadata"]["uid"] not in asked:
                asked.add(item["metadata"]["uid"])
                _delete(place, kind, item, grace)
        names = sorted(item["metadata"]["name"] for item in now)
        if names:
            progress.phase("stop", f"{kind.plural} {', '.join(names)}")
        return True if not now else None

    if kind in LISTED:
        progress.until(lambda: look(_now(place, kind, selector)), every=1)
    else:
        place.api.until(kind, place.namespace, look, progress, labels=selector)


def _delete(place: Place, kind: Kind, item: Object, grace: int | None = None) -> None:
    meta = item["metadata"]
    try:
        place.api.delete(kind, meta["name"], place.namespace, uid=meta["uid"], grace=grace)
    except Conflict:
        return  # another one of that name by now: the next look shows it


def _orphans(place: Place, owners: set[str]) -> list[Object]:
    """Services of an owner that is gone: KubeRay made them."""
    return [item for item in _now(place, kinds.SERVICE) if any(owner["uid"] in owners for owner in item["metadata"].get("ownerReferences") or ())]


def _now(place: Place, kind: Kind, selector: str = "") -> tuple[Object, ...]:
    return place.api.list(kind, place.namespace, selector).items
