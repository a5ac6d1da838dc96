"""What bringing a release up would change, part by part, from what was observed. Pure.

The actions are those of the stages themselves, in their words:

    none          the stage finds it as it should be
    in_place      what is there is changed, and goes on
    new_release   another one is made beside what is there; what serves stays until the switch
    recreate      what serves goes first: an outage, with its expected length
    create        nothing of it is there, or it has to be started again
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from infra.edits import Edit, edits
from infra.idle import Hold
from infra.platform import Release
from infra.starts import Expected
from infra.states import Difference, EndpointState, ServiceState, digest_of

Action = Literal["none", "in_place", "new_release", "recreate", "create"]
Strategy = Literal["none", "first", "blue_green", "recreate", "wait", "fail"]

PARTS = ("cluster", "deployment", "model_weights", "image", "gpu_nodepool", "ray_service", "smoke_test", "endpoint")
"""In the order of life."""

BESIDE, AFTER = ("model_weights", "image", "gpu_nodepool"), ("ray_service", "smoke_test", "endpoint")
"""What is done side by side, and what then one after the other: the time of a rollout is theirs."""

MEASURED = (*BESIDE, *AFTER)

STARTS = ("create", "new_release", "recreate")
"""Actions after which another process answers than before."""


@dataclass(frozen=True)
class Headroom:
    """Whether it fits beside what runs, and what follows. None: that could not be told.

    strategy   none: nothing is started; first: nothing of the model serves; fail: the rollout would end without anything begun; else as declared
    changes    what of machines of our own is made, or changed, first
    """

    fits: bool | None
    why: str
    strategy: Strategy | None
    changes: tuple[Difference, ...] = ()


@dataclass(frozen=True)
class Facts:
    """What was observed. None, and a text in `unknown`: it could not be told.

    place      the cluster is recorded, and is there; `installs`: what it lacks and gets
    wanted     somebody wants the model already
    accepted   hash of the rules that the live release was accepted by
    weights    they lie where the engine reads them; `image`: it is ready
    service    what of `release` is there; `serving`: whether the live release computes
    hold       as declared now
    person     a candidate that passes has to wait for a person
    expected   what each stage takes that changes something, as far as it was measured
    """

    place: bool | None
    wanted: bool
    release: Release
    live: Release | None
    accepted: str | None
    weights: bool | None
    image: bool | None
    service: ServiceState | None
    endpoint: EndpointState | None
    hold: Hold
    room: Headroom
    unknown: str = ""
    unrouted: str = ""
    person: bool = False
    expected: Mapping[str, Expected] = field(default_factory=dict)
    installs: tuple[Difference, ...] = ()

    @property
    def same(self) -> bool:
        """Whether the release that would come is the one that is live."""
        return self.live is not None and self.live.id == self.release.id


@dataclass(frozen=True)
class Part:
    """What happens to one part. `action` None: it can not be told; `expected` None: it was never measured."""

    action: Action | None
    edits: tuple[Edit, ...] = ()
    expected: Expected | None = None
    why: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "action": self.action, "fields": [one.field for one in self.edits], "changes": [one.as_dict() for one in self.edits],
            "seconds": self.expected.median if self.expected else None, "p95": self.expected.p95 if self.expected else None, "why": self.why or None,
        }  # fmt: skip


NOTHING = Part("none", expected=Expected(0.0, 0.0))
"""A stage that finds everything as it should be."""


@dataclass(frozen=True)
class Plan:
    """The whole of one model. `counted`: fields that were edited and need no run, or act in the next rollout. `outage` in seconds; None: never measured, or not to be told."""

    release: Release
    live: Release | None
    parts: Mapping[str, Part]
    room: Headroom
    outage: float | None = 0.0
    counted: tuple[Edit, ...] = ()

    @property
    def expected(self) -> Expected | None:
        """From the launch to the last stage: what is fetched comes side by side, the rest one after the other. None: a part of it was never measured."""
        beside, after = ([self.parts[name].expected for name in names] for names in (BESIDE, AFTER))
        known = [one for one in (*beside, *after) if one is not None]
        if len(known) < len(beside) + len(after):
            return None
        first, rest = known[: len(beside)], known[len(beside) :]
        return Expected(*(round(max(map(seconds, first)) + sum(map(seconds, rest)), 1) for seconds in (_median, _p95)))


def compare(found: Facts) -> Plan:
    """Every part, the outage, and what counts without a run."""
    changed = edits(found.live.spec, found.release.spec) if found.live else ()
    made = _parts(found, (*_moved(found.live, found.release, changed), *changed)) if found.live else _parts(found, ())
    told = {one.field for part in made.values() for one in part.edits}
    parts = {name: _timed(name, part, found.expected) for name, part in made.items()}
    service = parts["ray_service"]
    measured = service.expected.median if service.expected else None
    outage = measured if service.action in ("recreate", None) else 0.0
    return Plan(found.release, found.live, parts, found.room, outage, tuple(one for one in changed if one.field not in told))


def unchanged(release: Release, live: Release | None) -> Plan:
    """Of a model on which nothing would be done."""
    counted = edits(live.spec, release.spec) if live else ()
    return Plan(release, live, dict.fromkeys(PARTS, NOTHING), Headroom(True, "it runs already", "none"), 0.0, counted)


# ---------------------------------------------------------------- private


def _parts(found: Facts, changed: tuple[Edit, ...]) -> dict[str, Part]:
    service = _service(found, changed)
    return {
        "cluster": _cluster(found), "deployment": Part("none" if found.wanted else "create"),
        "model_weights": _stored(found.weights, found, _of(changed, "revision", "weights", "allow_pickle"), of="manifest"),
        "image": _stored(found.image, found, _of(changed, "image"), of="image"),
        "gpu_nodepool": _machines(found.room), "ray_service": service,
        "smoke_test": _ladder(found, service, changed), "endpoint": _switch(found, service, changed),
    }  # fmt: skip


def _cluster(found: Facts) -> Part:
    """What is installed in one that is there changes it in place."""
    return Part("in_place", _fields(found.installs)) if found.place and found.installs else Part(_there(found.place))


def _there(there: bool | None) -> Action | None:
    return None if there is None else "none" if there else "create"


def _stored(there: bool | None, found: Facts, changed: tuple[Edit, ...], *, of: str) -> Part:
    """Something that is fetched or built when it is not here."""
    if there is None or there:
        return Part(_there(there))
    other = found.live is not None and getattr(found.live, of) != getattr(found.release, of)
    return Part("new_release", changed) if other else Part("create")


def _machines(room: Headroom) -> Part:
    """A pool of our own, where one is declared; else nothing is ever made."""
    if room.fits is None or not room.changes:
        return Part("none" if room.fits is not None else None, why=room.why)
    if made := [one for one in room.changes if not one.field]:
        return Part("create", why=f"{made[0].kind} {made[0].name}")
    return Part("in_place", _fields(room.changes))


def _fields(changes: Iterable[Difference]) -> tuple[Edit, ...]:
    return tuple(Edit(one.field, one.live, one.declared, "in_place") for one in changes)


def _service(found: Facts, changed: tuple[Edit, ...]) -> Part:
    if found.unknown:
        return Part(None, why=found.unknown)
    if found.service and found.service.ready:
        same = found.service.in_place in ("", found.release.in_place)
        return Part("none") if same else Part("in_place", tuple(one for one in changed if one.field.startswith("replicas.")))
    if found.live is None or found.same:
        return Part("create", why="what served is not up" if found.same else "nothing of it was ever live")
    another = tuple(one for one in changed if one.group == "release" or (one.group == "source" and _leads_elsewhere(found.live, found.release, one.field)))
    if found.room.strategy is None:
        return Part(None, another, why=found.room.why)
    return Part("recreate" if found.room.strategy == "recreate" else "new_release", another, why=found.room.why)


def _ladder(found: Facts, service: Part, changed: tuple[Edit, ...]) -> Part:
    if service.action is None:
        return Part(None, why=service.why)
    if not found.same:
        return Part("new_release" if found.live else "create", why="every check is made")
    if service.action in STARTS:
        return Part("create", why="what starts again is asked again")
    rules = digest_of(found.release.spec.acceptance.model_dump(mode="json"))
    return Part("none") if found.accepted == rules else Part("in_place", tuple(one for one in changed if one.group == "acceptance"), why="the rules changed: the ladder is climbed on what serves")


def _switch(found: Facts, service: Part, changed: tuple[Edit, ...]) -> Part:
    if found.person:
        return Part("none", why="updates.policy is approve: what passes waits for a person")
    if service.action is None or found.unrouted:
        return Part(None, why=found.unrouted or service.why)
    seen = found.endpoint
    if seen is None or not seen.healthy or found.live is None:
        return Part("create")
    if not found.same or service.action in STARTS or seen.release != found.release.name:
        return Part("in_place", why="the switch" if not found.same else "it leads to the release again")
    if seen.hold not in (None, found.hold):
        return Part("in_place", tuple(one for one in changed if one.field.startswith("idle.hold.")))
    return Part("none")


def _moved(live: Release, release: Release, changed: Iterable[Edit]) -> tuple[Edit, ...]:
    """What the declaration leads to, where it leads elsewhere now and no field of that name says so already."""
    named = {one.field for one in changed}
    pairs = (("revision", live.revision, release.revision), ("image", live.image, release.image))
    return tuple(Edit(name, was, now, "source") for name, was, now in pairs if name not in named and _leads_elsewhere(live, release, name))


def _leads_elsewhere(live: Release, release: Release, name: str) -> bool:
    """Whether a field that acts only through what it leads to leads to another image, or to other weights."""
    return live.image != release.image if name == "image" else live.manifest.digest != release.manifest.digest


def _of(changed: Iterable[Edit], *names: str) -> tuple[Edit, ...]:
    return tuple(one for one in changed if one.field in names)


def _timed(name: str, part: Part, expected: Mapping[str, Expected]) -> Part:
    """Its seconds: none where nothing is done, as measured where it is begun anew, not known for the rest."""
    if part.action == "none":
        return Part("none", part.edits, NOTHING.expected, part.why)
    known = None if part.action is None or (name == "ray_service" and part.action == "in_place") else expected.get(name)
    return Part(part.action, part.edits, known, part.why)


def _median(one: Expected) -> float:
    return one.median


def _p95(one: Expected) -> float:
    return one.p95
