"""What a cluster can still tell of a release when something is wrong with it: pods, events, last words. Every read is bounded.

Both who waits for a start and who asks for the first broken link read from here, so that they tell the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from infra import engine
from infra.kubernetes import kinds, reading
from infra.kubernetes.api import Object
from infra.kubernetes.place import Place
from infra.kubernetes.pods import PART
from infra.kubernetes.rayservice_manifest import HEAD, WORKER
from infra.kubernetes.server_manifest import ENGINE

SPEAKING = (WORKER, ENGINE, HEAD)
"""Containers whose log is read."""

OBJECTS = 5
"""Objects whose events are read at one look, at most."""

EVENTS, CONTAINERS, LINES = 3, 2, 6
"""How much of it is told: warnings, containers, and lines of each run of one."""

LOOKED_AT = 400
"""Lines of a log in which a cause is looked for."""


def living(place: Place, name: str) -> tuple[Object, ...]:
    """The pods of a release that are not on their way out."""
    found = place.api.list(kinds.POD, place.namespace, labels=place.selector(PART, release=name)).items
    return tuple(pod for pod in found if not pod["metadata"].get("deletionTimestamp"))


def still(pods: Sequence[Object]) -> set[str]:
    """Uids of those that do not run, or not wholly."""
    return {pod["metadata"]["uid"] for pod in pods if not all((row.get("state") or {}).get("running") for row in reading.containers(pod).values()) or not reading.containers(pod)}


def makers(place: Place, name: str) -> set[str]:
    """Uids of what controllers made for a release, to make its pods: where they tell why they can not."""
    selector = place.selector(PART, release=name)
    return {item["metadata"]["uid"] for kind in (kinds.RAY_CLUSTER, kinds.REPLICA_SET) for item in place.api.list(kind, place.namespace, labels=selector).items}


def events(place: Place, uids: Iterable[str]) -> tuple[Object, ...]:
    """Of these objects, as far as they still count."""
    rows = (place.api.list(kinds.EVENT, place.namespace, fields=f"involvedObject.uid={uid}").items for uid in sorted(uids)[:OBJECTS])
    return tuple(event for found in rows for event in reading.latest(found))


def last_words(place: Place, pod: Object, container: str, lines: int) -> list[str]:
    """Of the run before, where there is one; else of the run that ended."""
    where = (place.namespace, pod["metadata"]["name"], container)
    return (place.api.log(*where, previous=True, lines=lines) or place.api.log(*where, lines=lines)).splitlines()


def spoken(place: Place, pods: Sequence[Object]) -> list[tuple[str, list[str]]]:
    """What the containers said last, the most troubled first: who, and the lines. Those of the run before count as somebody else's."""
    found: list[tuple[str, list[str]]] = []
    for pod, name, status in sorted(_began(pods), key=lambda row: -_trouble(row[2]))[:CONTAINERS]:
        where, who = (place.namespace, pod["metadata"]["name"], name), f"pod {pod['metadata']['name']}, container {name}"
        if status.get("restartCount"):
            found.append((f"{who}, before restart {status['restartCount']}", place.api.log(*where, previous=True, lines=LOOKED_AT).splitlines()))
        found.append((who, place.api.log(*where, lines=LOOKED_AT).splitlines()))
    return [(who, lines) for who, lines in found if any(line.strip() for line in lines)]


def told(warnings: Sequence[Object], said: Sequence[tuple[str, list[str]]]) -> list[str]:
    """Both as lines for people, without secrets."""
    shown = [event for event in warnings if event.get("type") == "Warning"][-EVENTS:]
    rows = [f"event {event.get('reason')} of {_about(event)}{_times(event)}: {engine.clean(event.get('message') or '')}" for event in shown]
    for who, lines in said:
        rows.append(f"{who}, last lines:")
        rows += [f"  {engine.clean(line)}" for line in lines if line.strip()][-LINES:]
    return rows


# ------------------------------------------------ private


def _began(pods: Sequence[Object]) -> Iterator[tuple[Object, str, Object]]:
    """Containers that ever ran, those included that prepare a pod."""
    for pod in pods:
        status = pod.get("status") or {}
        for row in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
            if (row.get("state") or {}).keys() & {"running", "terminated"} or row.get("lastState"):
                yield pod, row["name"], row


def _trouble(status: Object) -> int:
    """Restarted comes before not ready, and whoever computes before whoever coordinates. One that ended well is in none."""
    if ((status.get("state") or {}).get("terminated") or {}).get("exitCode") == 0:
        return -1
    return 4 * bool(status.get("restartCount") or (status.get("state") or {}).get("terminated")) + 2 * (not status.get("ready")) + (status["name"] in (WORKER, ENGINE))


def _about(event: Object) -> str:
    about = event.get("involvedObject") or {}
    return f"{about.get('kind', 'object')} {about.get('name', '')}"


def _times(event: Object) -> str:
    count = (event.get("series") or {}).get("count") or event.get("count") or 1
    return f", {count} times" if count > 1 else ""
