"""What a part of a platform looks like now: what `observe` and `apply` answer, and what else a platform tells of itself.

Plain facts, frozen and the same on every platform. `data_version` is what Dagster shows as the version of an asset.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from infra.errors import PipelineError, Problem
from infra.idle import Hold
from infra.weights import Facts


@dataclass(frozen=True)
class ClusterState:
    """A place where models can run. `identity` proves that it is the same place as before."""

    identity: Mapping[str, str]
    facts: Mapping[str, Any]
    changed: bool = False

    @property
    def data_version(self) -> str:
        return digest_of(self.identity)


@dataclass(frozen=True)
class Condition:
    """Something that a place must have before anything is made there, and what was found.

    error      it has it not, so nothing is made; None: it has it
    warning    it goes on, but somebody should look; None: nothing to tell
    """

    name: str
    told: str
    error: PipelineError | None = None
    warning: Problem | None = None

    @property
    def problem(self) -> Problem | None:
        return self.error.problem if self.error else self.warning


@dataclass(frozen=True)
class Fit:
    """What the memory planner says of a release, alone, before anything is made.

    why        what decided it, with the numbers; of `unknown` what was not computed
    next       the nearest thing that would fit; empty: it fits, or nobody knows
    hardware   what it was computed for: "1 x L4", "main memory"; empty: nobody knows
    numbers    by the planner's words: bytes of one replica (on GPUs: of each of them), tokens, sequences, shares. None: not computed
    """

    verdict: Literal["fits", "refused", "unknown"]
    why: str
    next: str = ""
    hardware: str = ""
    numbers: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """One field that is otherwise than declared. `field` empty: the whole object. None: it is not there, or not to be there."""

    kind: str
    name: str
    field: str
    live: Any
    declared: Any


@dataclass(frozen=True)
class Capacity:
    """Whether a release fits, next to what serves already. Bytes and CPUs.

    fit        what the planner said of it alone; None: it was not asked
    changes    of what `observe` found: machines of our own (a pool) that `apply` makes, or their fields, named as declared, that it changes
    """

    fits: bool
    why: str
    needs: Mapping[str, float]
    free: Mapping[str, float]
    changed: bool = False
    fit: Fit | None = None
    changes: tuple[Difference, ...] = ()

    @property
    def data_version(self) -> str:
        return digest_of({k: round(v, 3) for k, v in self.needs.items()})


@dataclass(frozen=True)
class WeightsState:
    """The files of one revision, where the engine can read them."""

    manifest: str
    path: str
    size: int
    fetched_bytes: int = 0
    seconds: float = 0.0
    facts: Facts | None = None
    changed: bool = False

    @property
    def data_version(self) -> str:
        return self.manifest


@dataclass(frozen=True)
class ImageState:
    """What the engine runs in, ready to start."""

    digest: str
    where: str
    size: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    changed: bool = False

    @property
    def data_version(self) -> str:
        return self.digest


@dataclass(frozen=True)
class ServiceState:
    """One release on the platform.

    phase      starting · ready · dead (its processes are gone, or it does not answer any more) · suspended (it is kept, and nothing of it computes)
               shrunk (its Ray is there, without a replica of anything, until `apply` puts them back)
    address    host and port of its own OpenAI-compatible server; None before it has one
    arguments  what the engine itself says it runs with (from its log or its API), empty before it said so
    """

    release: str
    model: str
    phase: str
    address: tuple[str, int] | None = None
    since: float = 0.0
    arguments: Mapping[str, str] = field(default_factory=dict)
    in_place: str = ""
    problem: Problem | None = None
    phases: Mapping[str, float] = field(default_factory=dict)
    changed: bool = False

    @property
    def data_version(self) -> str:
        return self.release

    @property
    def computes(self) -> bool:
        """Whether its engine is there or comes, and takes room."""
        return self.phase not in ("dead", "suspended", "shrunk")

    @property
    def ready(self) -> bool:
        return self.phase == "ready"


@dataclass(frozen=True)
class Route:
    """Which release a served name goes to, and how many of its requests wait, and how long, while it goes nowhere."""

    model: str
    served_name: str
    release: str
    address: tuple[str, int]
    hold: Hold = field(default_factory=Hold)


@dataclass(frozen=True)
class EndpointState:
    """The stable address, and the release that answers there for one model. `release` None: it answers nothing for it; then `rest` says
    what it does with what comes (asleep · waking · draining · failed); empty: it does not know the name, or can not tell. `hold`: how much of it
    waits; None: it does not know the name, or nothing ever waits there.
    """

    url: str
    healthy: bool
    release: str | None = None
    rest: str = ""
    generation: int = 0
    changed: bool = False
    hold: Hold | None = None

    @property
    def data_version(self) -> str:
        return self.release or "none"


@dataclass(frozen=True)
class Traffic:
    """What the router and the engine counted for one model, since the router's `boot` and the engine's start.

    in_flight            requests that are being answered now, and `holding` those that wait for the model to come back
    arrivals             requests that named it, refused ones too; `refused`: those that were told to come again
    asked                of the arrivals those that found it not up, since it was up last
    total, failed        of its live release: answers, and those of them with a 5xx status
    serving              whether the router sends requests to its live release now
    prompt, generated    tokens that its engine read and wrote; None: it did not tell
    missing              what could not be asked, so that nothing is proved by the rest; empty: nothing
    """

    in_flight: int
    arrivals: int
    total: int
    failed: int
    refused: int = 0
    holding: int = 0
    boot: str = ""
    serving: bool = False
    prompt: int | None = None
    generated: int | None = None
    missing: str = ""
    asked: int = 0


@dataclass(frozen=True)
class Leftover:
    """Something that this product made. `why_ours` is the proof."""

    part: str
    id: str
    cluster: str
    model: str | None
    release: str | None
    why_ours: str
    usd_per_hour: float | None = 0.0
    bytes: int = 0
    data: bool = False


@dataclass(frozen=True)
class Held:
    """Something of the store that could go by itself, and come again.

    part     model_weights · image · partial (bytes of a download) · log
    id       first 16 hex digits of the manifest · digest of the image · key of the content · path
    bytes    on disk; `blobs`: of which contents these are, since revisions share them
    since    Unix seconds since when it is here
    model    whose log it is
    spent    why nobody can need it, where the platform itself can tell (a build that was interrupted); else retention decides
    """

    part: str
    id: str
    what: str
    bytes: int
    blobs: Mapping[str, int] = field(default_factory=dict)
    since: float = 0.0
    model: str | None = None
    spent: str = ""


@dataclass(frozen=True)
class Link:
    """One condition that a model stands on. `holds` None: it can not be told, mostly since one before it does not hold."""

    name: str
    holds: bool | None
    why: str = ""


@dataclass(frozen=True)
class Chain:
    """All of them in their order, and what is wrong with the first that does not hold; None: nothing of the release is there that could be wrong."""

    links: tuple[Link, ...]
    problem: Problem | None = None

    @property
    def broken(self) -> Link | None:
        """The first that does not hold."""
        return next((link for link in self.links if link.holds is False), None)


@dataclass(frozen=True)
class Sent:
    """One document that an `up` would send. `notes`: what of it only the cluster knows, and when it is left out."""

    document: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def digest_of(value: Any) -> str:
    """16 hex digits of the hash of anything that is JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
