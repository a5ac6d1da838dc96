"""The interface that every platform implements: a record of parts, each with the verbs observe, apply, delete.

A reader who knows one platform knows all: one folder per platform, one file per part, the same file names, the same verbs in the
same order. What only some platforms can do is a protocol of its own. The stages in `assets/` know nothing but this module and the plain
facts of infra/states.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx

from infra.errors import Problem
from infra.idle import Rung
from infra.idleness import Bucket, Quiet
from infra.schema import fields_of
from infra.specs import ClusterSpec, ModelSpec
from infra.states import (
    Capacity,
    Chain,
    ClusterState,
    Condition,
    Difference,
    EndpointState,
    Fit,
    Held,
    ImageState,
    Leftover,
    Route,
    Sent,
    ServiceState,
    Traffic,
    WeightsState,
    digest_of,
)
from infra.waiting import Progress
from infra.weights import Bad, Glance, Manifest, Outline, Seen

Spec = TypeVar("Spec", contravariant=True)
State = TypeVar("State", covariant=True)


@dataclass(frozen=True)
class Release:
    """What is served: engine spec × weights × image. Its id is the hash of those, so that equal things have equal names.

    source    where the weights come from, as resolved (for people, and for fetching them again)
    base      folder that relative paths in the spec start from
    image     digest of what the engine runs in
    """

    spec: ModelSpec
    revision: str
    manifest: Manifest
    image: str
    source: str
    base: str = ""

    @property
    def model(self) -> str:
        return self.spec.name

    @cached_property
    def id(self) -> str:
        """10 hex digits of the hash of the spec's `release` fields, the manifest and the image (the rule: docs/architecture.md)."""
        what = {"spec": fields_of(self.spec, "release"), "served_name": self.served_name, "manifest": self.manifest.digest, "image": self.image}
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:10]

    @property
    def name(self) -> str:
        """Its name on the platform."""
        return f"{self.model}-{self.id}"

    @property
    def served_name(self) -> str:
        return self.spec.served_name or self.model

    @property
    def in_place(self) -> str:
        """Hash of what changes without a new release: the replica numbers."""
        return digest_of(self.spec.replicas.model_dump())

    @property
    def needs_gpu(self) -> bool:
        return bool(self.spec.resources.gpu)


def model_of(release: str) -> str:
    """The model of a release's name on the platform."""
    return release.rsplit("-", 1)[0]


# ---------------------------------------------------------------- the parts


class Part(Protocol[Spec, State]):
    """One part of the life on one platform. Every call may be killed anywhere and made again."""

    def observe(self, spec: Spec) -> State | None:
        """Reads what exists. Changes nothing. None: absent. Raises Transient when it cannot tell."""

    def apply(self, spec: Spec, progress: Progress) -> State:
        """Makes it so and waits until it is, within the deadline. Adopts what an earlier call left behind."""

    def delete(self, spec: Spec, progress: Progress) -> None:
        """Removes it and waits for its absence. Absent already: done. Touches nothing that is not ours."""


class ClusterPart(Part[ClusterSpec, ClusterState], Protocol):
    """`cluster`."""

    @property
    def conditions(self) -> Mapping[str, str]:
        """What a place must have: the name of each condition and what it is about. Asks nobody."""

    def examine(self, spec: ClusterSpec) -> Iterator[Condition]:
        """Each condition in turn, up to the first that forbids `apply`. Changes nothing. Raises Transient when it cannot tell."""

    def pending(self, spec: ClusterSpec) -> tuple[Difference, ...]:
        """What `apply` would install in a cluster that is there. Changes nothing. Raises Transient when it cannot tell."""


class WeightsPart(Part[Release, WeightsState], Protocol):
    """`model_weights`."""

    def glance(self, spec: ModelSpec, base: Path, last: Glance | None, progress: Progress) -> Glance:
        """Whether the source moved since `last`, for next to nothing; `look` tells what came of it."""

    def look(self, spec: ModelSpec, base: Path, progress: Progress, revision: str | None = None) -> Seen:
        """Asks the source what it holds now; `revision` in place of the declared one."""

    def outline(self, release: Release, progress: Progress) -> Outline:
        """What a planner needs of its weights, read from the store where they lie there, else by small ranges of the source. Fetches no weights."""

    def verify(self, release: Release, progress: Progress) -> tuple[Bad, ...]:
        """Reads every byte again; what differs from the manifest."""


class ImagePart(Part[Release, ImageState], Protocol):
    """`image`."""

    def resolve(self, spec: ModelSpec, progress: Progress) -> str:
        """The digest of the image that this spec asks for. Makes nothing."""


class CapacityPart(Part[Release, Capacity], Protocol):
    """`gpu_nodepool`."""

    def fits(self, release: Release, outline: Outline) -> Fit:
        """The planner's word for this release here, as if nothing else ran. Changes nothing; `room` says what is left beside the others.

        Raises Transient when it can not tell what hardware there is.
        """

    def room(self, release: Release, without: tuple[str, ...] = ()) -> Capacity:
        """Whether the release fits next to everything that runs or is about to, once the releases named in `without` are gone."""

    def reserve(self, release: Release, progress: Progress, without: tuple[str, ...] = ()) -> AbstractContextManager[Capacity]:
        """Looks as `room` does and, where it fits, keeps the room until the end of the block: two that look at once never both get it.

        From then on what the release needs counts as taken for as long as it runs.
        """


class ServicePart(Part[Release, ServiceState], Protocol):
    """`ray_service`."""

    def running(self, model: str | None = None) -> tuple[ServiceState, ...]:
        """Every release of this model (of all models) that has anything on the platform."""

    def remove(self, name: str, progress: Progress) -> None:
        """As `delete`, by the release's name: for what no record describes any more."""

    def rest(self, name: str, progress: Progress) -> None:
        """Nothing of it computes any more, until `apply` brings it back. It stays in the phase `suspended` where the platform can do that; else as `remove`."""

    def shrink(self, release: Release, progress: Progress) -> ServiceState | None:
        """No replica of it is there any more, its Ray stays, until `apply` puts them back: then it is in the phase `shrunk`. What has no Ray to keep
        (a plain server, one that is dead) is as after `rest`. Absent already: None.
        """

    def adjust(self, release: Release, progress: Progress) -> ServiceState:
        """Brings what changes in place (replicas) to what the spec says."""

    def memory(self, name: str) -> int | None:
        """Bytes of main memory that the processes of a release use; None: nobody can tell."""

    def client(self, state: ServiceState, timeout: float) -> httpx.Client:
        """HTTP to this release's own server, from where this process runs: paths begin at its root; seconds for each single wait."""

    def log(self, name: str, part: str) -> Iterator[Path]:
        """The log files of a release, newest last; `part` is engine, ray or route."""


class EndpointPart(Part[Route, EndpointState], Protocol):
    """`endpoint`."""

    @property
    def counts(self) -> bool:
        """Whether a router of ours answers: it counts requests, holds them, and marks answers with their release. False: it is blind to all of that."""

    def in_flight(self, release: str) -> int | None:
        """Requests that this release is answering; None: it cannot be told."""

    def closed(self, model: str, served_name: str, seconds: float, phase: str, progress: Progress) -> None:
        """Nobody answers for this name for about so many seconds: requests are held. 0: not any more, they are refused at once. Where nothing counts, always at once."""

    def rests(self, route: Route, seconds: float, progress: Progress) -> None:
        """The model sleeps, and its start takes about so many seconds: what is asked is held, counted, and told when to come again. Starts the
        endpoint where it does not run. Where nothing counts it is refused.
        """

    def url(self, model: str) -> str:
        """The OpenAI-compatible base address for people and their programs, ending in /v1; of a router the same for every model."""

    def client(self, model: str, timeout: float) -> httpx.Client:
        """HTTP to where this model answers, from where this process runs: paths begin at its /v1; the API key is sent where there is one."""


class UsagePart(Protocol):
    """`usage`: evidence of traffic."""

    def sample(self, model: str) -> Traffic | None:
        """What was counted until now; None when it cannot be told."""

    def note(self, model: str, now: float) -> Traffic | None:
        """Takes a sample and keeps it as evidence, also that there was none."""

    def quiet(self, model: str, now: float) -> Quiet:
        """Since when nobody used it, on the evidence that was kept."""

    def between(self, model: str, since: float, until: float, width: int) -> tuple[Bucket, ...]:
        """What was kept of that time (Unix seconds) in steps of 60, 900 or 3600 seconds, the oldest first. Raises Transient when it can not be read."""

    def forget(self, model: str) -> None:
        """Removes what was kept of a model."""


@dataclass(frozen=True)
class Record:
    """A small document with the version that a `put` must name."""

    value: Mapping[str, Any]
    version: int


class Records(Protocol):
    """What people and policies decided, on the platform itself; and the locks.

    `owner` is a model's or a cluster's name. Names may contain one slash (`release/4f1d…`).
    """

    def get(self, owner: str, name: str) -> Record | None:
        """The document, or None."""

    def put(self, owner: str, name: str, value: Mapping[str, Any], version: int | None) -> Record:
        """Writes if the stored version is `version` (None: there must be none). Else raises Conflict."""

    def list(self, owner: str, prefix: str = "") -> dict[str, Record]:
        """All documents of one owner whose names start with `prefix`."""

    def owners(self) -> tuple[str, ...]:
        """Everybody who has a document."""

    def at_once(self) -> Records:
        """The same, as read now where reading has its price: for one look at many models. What is written through it is compared as ever."""

    def delete(self, owner: str, name: str) -> None:
        """Absent already: done."""

    def purge(self, owner: str) -> None:
        """Removes everything of one owner."""

    def lock(self, name: str, who: str, progress: Progress) -> AbstractContextManager[None]:
        """Waits for the lock, saying who holds it; it dies with its holder."""


@dataclass(frozen=True)
class Sharer:
    """Somebody else who uses the same store. `records` None: they can not be read, so everything counts as used by them.

    running    names of releases that have anything on their platform
    """

    name: str
    records: Records | None
    running: tuple[str, ...] = ()
    problem: str = ""


class Inventory(Protocol):
    """Everything of ours that exists."""

    def find(self) -> tuple[Leftover, ...]:
        """Read from the platform itself, never from records."""

    def remove(self, leftover: Leftover, progress: Progress) -> None:
        """Removes one thing that `find` showed; of data that others share only what they don't need."""

    def held(self) -> tuple[Held, ...]:
        """What lies in the store, one by one."""

    def discard(self, held: Held, progress: Progress) -> int:
        """Removes one thing that `held` showed; bytes freed, 0 where somebody works with it or it is gone."""

    def sharers(self) -> tuple[Sharer, ...]:
        """Who else uses the same store."""


class Pricing(Protocol):
    """What a release costs: USD per hour, of what it takes away from others. None: unknown, never a guess. Raises nothing: who shows a price goes on without it."""

    def per_hour(self, release: Release) -> float | None:
        """As it runs; where it does not, or with other numbers of replicas than it declares, as it would."""

    def why(self, release: Release) -> str:
        """Why `per_hour` or `now` is None. Empty: neither is."""

    def now(self, release: Release) -> float | None:
        """What is there of it at this moment. 0.0: nothing."""

    def freed(self, release: Release, rung: Rung) -> float | None:
        """What is not paid any more once it sleeps on this rung: the price of what goes. 0.0: what it ran on stays."""


class Diagnosis(Protocol):
    """Where a model's life is spread over many machines: which link of it broke."""

    def chain(self, release: Release, *, live: bool) -> Chain:
        """Looks at everything that this release stands on. `live`: the endpoint should lead to it. Raises Transient when it cannot tell."""

    def away(self, spec: ModelSpec, problem: Problem) -> Chain:
        """What is left of it where the cluster itself could not be asked: its link, and nothing known behind it. Asks nobody."""


class Manifests(Protocol):
    """Where a life is made of declared objects: what they are. No secret's value is in any of it."""

    def declared(self, spec: ModelSpec, base: Path, progress: Progress) -> tuple[Release, tuple[Sent, ...]]:
        """Everything that an `up` of what the source holds now would send, in its order. Changes nothing, and asks the platform only for what it must."""

    def differences(self, release: Release, progress: Progress) -> tuple[Difference, ...]:
        """What is otherwise than this release would have it. Changes nothing."""


@dataclass(frozen=True)
class Platform:
    """One platform as a record of its parts, in the order of life."""

    name: str
    cluster: ClusterPart
    gpu_nodepool: CapacityPart
    model_weights: WeightsPart
    image: ImagePart
    ray_service: ServicePart
    endpoint: EndpointPart
    records: Records
    usage: UsagePart
    inventory: Inventory
    sweep_pause: float = 60.0
    """Seconds between the two looks that prove that nothing is left."""
    ask_every: float = 1.0
    """Seconds between two questions to the records whether somebody withdrew what a step waits for."""
    diagnosis: Diagnosis | None = None
    """None: what the parts say of themselves is all that there is to tell."""
    manifests: Manifests | None = None
    """None: nothing is sent anywhere."""
    prices: Pricing | None = None
    """None: nothing is known of money."""
    seen_now: Callable[[], Platform] | None = None
    """Makes what `at_once` answers, where more than the records is read at once."""

    def at_once(self) -> Platform:
        """The same as it is at this moment, for one look at many models. What is there is read at most once; nothing may be applied through it."""
        return self.seen_now() if self.seen_now else replace(self, records=self.records.at_once())
