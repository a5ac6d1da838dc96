"""KubeRay in the cluster: whether RayServices are known, by which operator, what that version can do; and ours, where there is none.

    kuberay: existing    what is there serves our namespace, or it is an error
    kuberay: install     the same where somebody's is there; else the definitions, and an operator of our namespace (operator.py)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from infra.errors import ConfigError
from infra.kubernetes import kinds, operator
from infra.kubernetes.api import Api, Object
from infra.kubernetes.place import OURS, Place
from infra.kubernetes.removal import gone
from infra.states import Difference
from infra.waiting import Progress

DEFINITION = "rayservices.ray.io"
OLDEST = (1, 4)
"""The oldest operator whose definitions our manifests fit."""

NEWEST = (1, 7)
"""The newest whose definitions our manifests were compared with; 1.6 was run."""

INSTALLED = (kinds.ROLE_BINDING, kinds.ROLE, kinds.ACCOUNT)
"""What an operator of ours has beside its Deployment."""

OPERATORS = "app.kubernetes.io/name in (kuberay,kuberay-operator)"
"""How its Deployment is labelled, by the chart and by the plain manifests."""


@dataclass(frozen=True)
class Operator:
    """A Deployment that reconciles Ray's objects. `version` None: its image does not say; `namespaces` empty: all of them."""

    namespace: str
    name: str
    version: tuple[int, ...] | None
    ready: bool
    namespaces: tuple[str, ...] = ()

    def serves(self, namespace: str) -> bool:
        return not self.namespaces or namespace in self.namespaces

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.version or ())) or 'an unknown version'} ({self.namespace}/{self.name})"


@dataclass(frozen=True)
class Kuberay:
    """What was found. `knows`: the keys of a RayService's spec, and of its Ray cluster (`rayClusterConfig.…`), in this version."""

    knows: frozenset[str]
    ours: bool
    operators: tuple[Operator, ...]

    def operator(self, namespace: str) -> Operator | None:
        """The one that looks after this namespace, if it can be seen: one that runs outside of the cluster can not."""
        return next((found for found in self.operators if found.serves(namespace)), None)


def ensure(place: Place, found: Kuberay | None, progress: Progress) -> tuple[Kuberay, bool]:
    """What serves our namespace, and whether it was put by this call. `found`: what `look` saw; the namespace has to be there."""
    if not _due(place, found):
        return insist(place, found), False
    _install(place, progress)
    return insist(place, look(place.api)), True


def pending(place: Place) -> tuple[Difference, ...]:
    """What `ensure` would put. Asks nothing where the declaration says that nothing is installed."""
    return _due(place, look(place.api)) if place.block.kuberay == "install" else ()


def _due(place: Place, found: Kuberay | None) -> tuple[Difference, ...]:
    """Our operator, where none is ready that looks after our namespace in our version."""
    mine = found.operator(place.namespace) if found else None
    if not ours_to_install(place, found) or (mine and mine.ready and mine.version == _version(operator.IMAGE, {})):
        return ()
    seen = f"{mine}{'' if mine.ready else ', not ready'}" if mine else None
    return (Difference(kinds.DEPLOYMENT.name, operator.NAME, "kubernetes.kuberay", seen, operator.VERSION),)


def ours_to_install(place: Place, found: Kuberay | None) -> bool:
    """Where the declaration says so, and nobody else's is there: two operators would work against each other."""
    if place.block.kuberay != "install" or (found and not found.ours):
        return False
    return not any(one.serves(place.namespace) and (one.namespace, one.name) != (place.namespace, operator.NAME) for one in (found.operators if found else ()))


def remains(place: Place) -> tuple[Object, ...]:
    """Definitions that this cluster's declaration put."""
    return place.api.list(kinds.DEFINITION, labels=place.selector(operator.PART), light=True).items if place.block.kuberay == "install" else ()


def remove(place: Place, progress: Progress) -> None:
    """Our operator; and the definitions, unless somebody has an object of them."""
    selector = place.selector(operator.PART)
    for kind in (kinds.DEPLOYMENT, kinds.POD, *INSTALLED):
        gone(place, kind, selector, progress)
    if any(place.api.list(kind, light=True).items for kind in (kinds.RAY_SERVICE, kinds.RAY_CLUSTER, kinds.RAY_JOB)):
        progress.phase("stop", "the definitions of KubeRay stay: others have objects of them")
        return
    gone(place, kinds.DEFINITION, selector, progress)


def look(api: Api) -> Kuberay | None:
    """None: this cluster knows no RayService."""
    definition = api.get(kinds.DEFINITION, DEFINITION)
    knows = known(definition) if definition else None
    if definition is None or knows is None:
        return None
    labels = definition["metadata"].get("labels") or {}
    return Kuberay(knows, OURS.items() <= labels.items(), tuple(operator_of(found) for found in api.list(kinds.DEPLOYMENT, labels=OPERATORS).items))


def known(definition: Object) -> frozenset[str] | None:
    """The keys that a definition of RayServices takes; None: not in the version that we write."""
    for version in definition["spec"]["versions"]:
        if version["name"] == kinds.RAY_SERVICE.version and version["served"]:
            keys = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
            inner = keys.get("rayClusterConfig", {}).get("properties", {})
            return frozenset(keys) | {f"rayClusterConfig.{key}" for key in inner}
    return None


def insist(place: Place, found: Kuberay | None) -> Kuberay:
    """What is there can serve our namespace, as far as one can see; else a ConfigError with what to do."""
    if found is None:
        raise ConfigError(
            f"cluster {place.cluster} has no KubeRay", why=f"it does not know {DEFINITION}, and `kuberay: existing` says that nothing is installed",
            next="install it (docs.ray.io, KubeRay, 1.6 was run), or set kuberay: install",
        )  # fmt: skip
    mine = found.operator(place.namespace)
    if mine is None and found.operators:
        raise ConfigError(
            f"no KubeRay operator of cluster {place.cluster} looks after namespace {place.namespace}", why="; ".join(f"{o} looks after {', '.join(o.namespaces)}" for o in found.operators),
            next=f"let one watch {place.namespace} too, or set kubernetes.namespace to one that is watched",
        )  # fmt: skip
    if mine and mine.version and mine.version[:2] < OLDEST:
        raise ConfigError(
            f"KubeRay {mine} is too old", why=f"{'.'.join(map(str, OLDEST))} is the oldest that knows what we use", next="upgrade it to 1.6",
        )  # fmt: skip
    return found


def operator_of(deployment: Object) -> Operator:
    """Reads version and namespaces from what it runs."""
    meta, spec = deployment["metadata"], deployment["spec"]["template"]["spec"]
    container = next((c for c in spec["containers"] if "operator" in c["name"]), spec["containers"][0])
    ready = int(deployment.get("status", {}).get("availableReplicas") or 0) > 0
    return Operator(meta["namespace"], meta["name"], _version(container["image"], meta.get("labels") or {}), ready, tuple(_watched(container)))


def _install(place: Place, progress: Progress) -> None:
    progress.phase("kuberay", f"definitions of {operator.VERSION}")
    there = {item["metadata"]["name"]: item["metadata"].get("labels") or {} for item in place.api.list(kinds.DEFINITION, light=True).items}
    for definition in operator.definitions():
        marked = operator.marked(place, definition)["metadata"]["labels"]
        labels = there.get(definition["metadata"]["name"])
        if labels is None or (place.labels(operator.PART).items() <= labels.items() and not marked.items() <= labels.items()):
            place.api.apply(operator.marked(place, definition))
    progress.until(lambda: True if all(place.api.serves(kind) for kind in (kinds.RAY_SERVICE, kinds.RAY_CLUSTER, kinds.RAY_JOB)) else None, every=1)
    progress.phase("kuberay", f"operator {operator.IMAGE}")
    for manifest in operator.manifests(place):
        place.api.apply(manifest)
    place.api.until(kinds.DEPLOYMENT, place.namespace, lambda now: True if now and operator_of(now[0]).ready else None, progress, labels=place.selector(operator.PART))


def _version(image: str, labels: dict[str, str]) -> tuple[int, ...] | None:
    for text in (image.split("@", maxsplit=1)[0], labels.get("app.kubernetes.io/version", ""), labels.get("helm.sh/chart", "")):
        if found := re.search(r"(?:^|[:-])v?(\d+)\.(\d+)\.(\d+)", text):
            return tuple(map(int, found.groups()))
    return None


def _watched(container: Object) -> Iterator[str]:
    words = [word for given in (*container.get("command", ()), *container.get("args", ())) for word in str(given).split()]
    for number, word in enumerate(words):
        name, _, value = word.lstrip("-").partition("=")
        if name == "watch-namespace":
            yield from filter(None, (value or "".join(words[number + 1 : number + 2])).split(","))
