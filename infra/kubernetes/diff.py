"""Live against declared: each manifest is sent as a dry run, and what the API server would make of it is compared with what is there.

Only what we apply can differ so: fields that others set are the same on both sides. Nothing is changed, and no Secret is looked into.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from infra.errors import ConfigError
from infra.kubernetes import kinds
from infra.kubernetes.api import Object, kind_of
from infra.kubernetes.endpoint import KubernetesEndpoint
from infra.kubernetes.namespace import made_by_us
from infra.kubernetes.place import Place, object_name
from infra.kubernetes.ray_service import KubernetesService
from infra.kubernetes.router_manifest import ROUTER, VIA
from infra.kubernetes.service_endpoint import ServiceEndpoint
from infra.platform import Release
from infra.states import Difference

BOOKKEEPING = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink")
"""Of the metadata: what the API server keeps for itself."""

ONLY_THERE = (kinds.SECRET, kinds.CLAIM)
"""Kinds of which it counts only that they are there: secrets are nobody's to see, and a claim stays as the cluster made it, for whichever model."""

HERE, ABSENT = "is there", None


def differences(place: Place, release: Release, wanted: Sequence[Object], service: KubernetesService, endpoint: KubernetesEndpoint | ServiceEndpoint) -> Iterator[Difference]:
    """In the order of life. Raises Transient when the cluster does not answer."""
    for manifest in wanted:
        yield from compared(place, manifest)
    for state in service.running(release.model):
        if state.release != release.name:
            yield Difference("Release", object_name(state.release), "", HERE, ABSENT)
    if (routed := endpoint.routed(release.model, release.served_name)) != release.name:
        yield Difference("Route", release.served_name, "release", routed, release.name)


def compared(place: Place, manifest: Object) -> Iterator[Difference]:
    """One object. What is not ours stays as it is, and is told."""
    kind, meta = kind_of(manifest), manifest["metadata"]
    live = place.api.get(kind, meta["name"], meta.get("namespace"))
    if live is None:
        yield Difference(kind.name, meta["name"], "", ABSENT, HERE)
        return
    if not made_by_us(place, live):
        if kind is not kinds.SERVICE or meta["name"] == ROUTER or VIA in meta["labels"]:  # a model's name beside the router may be somebody else's
            yield Difference(kind.name, meta["name"], "", "is somebody else's", "ours")
        return
    if kind in ONLY_THERE:
        return
    try:
        made = place.api.apply(manifest, dry=True)
    except ConfigError as error:
        yield Difference(kind.name, meta["name"], "", "can not be changed in place", error.problem.why or error.problem.what)
        return
    for field, now, then in fields(shown(live), shown(made)):
        yield Difference(kind.name, meta["name"], field, now, then)


def fields(live: Any, declared: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Paths of what differs, with both values. Entries of lists that have names are told by them."""
    if isinstance(live, dict) and isinstance(declared, dict):
        for key in (*live, *(key for key in declared if key not in live)):
            yield from fields(live.get(key), declared.get(key), f"{path}.{key}" if path else key)
    elif _is_named(live) and _is_named(declared):
        both = {row["name"]: [None, None] for row in (*live, *declared)}
        for side, rows in enumerate((live, declared)):
            for row in rows:
                both[row["name"]][side] = row
        for name, (now, then) in both.items():
            yield from fields(now, then, f"{path}[{name}]")
    elif isinstance(live, list) and isinstance(declared, list) and len(live) == len(declared):
        for number, (now, then) in enumerate(zip(live, declared, strict=True)):
            yield from fields(now, then, f"{path}[{number}]")
    elif live != declared:
        yield path, live, declared


def shown(item: Object) -> Object:
    """Of an object what somebody wrote: without its state, and what the API server keeps for itself."""
    meta = {key: value for key, value in item["metadata"].items() if key not in BOOKKEEPING}
    return {**{key: value for key, value in item.items() if key not in ("status", "apiVersion", "kind")}, "metadata": meta}


# ------------------------------------------------ private


def _is_named(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) and "name" in row for row in value) and len({row["name"] for row in value}) == len(value)

