"""The parts of the platform in memory (tests/doubles/platform.py): each looks at the world and changes it, in the words of the interface."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from infra import engine as arguments_of
from infra import loopback
from infra.errors import Problem
from infra.fitting import insisted
from infra.idle import Rung
from infra.idleness import Bucket, Quiet
from infra.platform import Release, Sharer
from infra.specs import ClusterSpec, ModelSpec
from infra.states import Capacity, ClusterState, Condition, Difference, EndpointState, Fit, Held, ImageState, Leftover, Route, ServiceState, Traffic, WeightsState
from infra.waiting import Progress
from infra.weights import Bad, Facts, File, Glance, Manifest, Outline, Seen
from tests.doubles.candidates import Candidate, Router, port_of
from tests.doubles.engine import Engine, Script

if TYPE_CHECKING:
    from tests.doubles.platform import World


@dataclass(frozen=True)
class Behaviour:
    """How the candidate of one revision behaves. `wrong`: a word of WRONG, "unwell" (500) or "other arguments"."""

    answers: dict[str, str] = field(default_factory=lambda: {"ping": "pong"})
    wrong: str = ""
    first_ms: float = 0


@dataclass
class Running:
    """One release on the double platform."""

    release: Release
    state: ServiceState
    engine: Engine
    server: asyncio.Server


def manifest_of(revision: str) -> Manifest:
    """The files of a revision: another word is another manifest. What follows a `+` changes the commit, and no file."""
    letter = revision.split("+")[0].encode().hex()[:64]
    return Manifest((File("config.json", 12, "sha256:" + "1" * 64), File("model.safetensors", 4_000_000, "sha256:" + letter.rjust(64, "0"))))


OUTLINE = Outline(
    {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 100, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 200, "vocab_size": 1000, "max_position_embeddings": 2048},
    ({"model.embed_tokens.weight": {"dtype": "BF16", "shape": [1000, 100]}},),
)  # fmt: skip
"""Of every revision."""


class Place:
    """`cluster`."""

    def __init__(self, world: World) -> None:
        self.world = world

    def observe(self, spec: ClusterSpec) -> ClusterState | None:
        found = self.world.identity
        return ClusterState(found, {"cpus": 8, "gpus": ()}) if found else None

    @property
    def conditions(self) -> Mapping[str, str]:
        return {"home": "It is there."}

    def examine(self, spec: ClusterSpec) -> Iterator[Condition]:
        yield Condition("home", "it is there", self.world.unfit)

    def pending(self, spec: ClusterSpec) -> tuple[Difference, ...]:
        return self.world.lacks

    def apply(self, spec: ClusterSpec, progress: Progress) -> ClusterState:
        changed, self.world.lacks = self.world.identity is None or bool(self.world.lacks), ()
        self.world.identity = self.world.identity or {"machine": "m1"}
        return ClusterState(self.world.identity, {"cpus": 8, "gpus": ()}, changed)

    def delete(self, spec: ClusterSpec, progress: Progress) -> None:
        self.world.did("cluster deleted", spec.name)
        self.world.identity = None
        self.world.stop_front()


class Room:
    """`gpu_nodepool`."""

    def __init__(self, world: World) -> None:
        self.world = world

    def observe(self, spec: Release) -> Capacity | None:
        return replace(self.room(spec), changes=self.world.machines)

    def apply(self, spec: Release, progress: Progress) -> Capacity:
        if self.world.room_error:
            raise self.world.room_error
        fit = insisted(self.fits(spec, OUTLINE), spec)
        changed, self.world.machines = bool(self.world.machines), ()
        return Capacity(fits=True, why="it fits", needs={"memory": 4.0}, free={"memory": 8.0}, changed=changed, fit=fit)

    def delete(self, spec: Release, progress: Progress) -> None:
        self.world.did("room deleted", spec.name)

    def room(self, release: Release, without: tuple[str, ...] = ()) -> Capacity:
        world = self.world
        beside = {name for name in (*world.running, *world.reserved) if name not in (*without, release.name)}
        if world.memory is not None:
            free = world.memory - 4 * len([name for name in beside if not world.shrunk(name)])
            return Capacity(fits=free >= 4, why=f"needs 4 GiB, {free:g} are free", needs={"memory": 4.0}, free={"memory": free})
        found = world.fits
        if not any(name.rsplit("-", 1)[0] == release.model for name in beside - set(world.dead) if not world.shrunk(name)):
            fits = True
        else:
            fits = found if isinstance(found, bool) else found.pop(0) if len(found) > 1 else found[0]
        return Capacity(fits=fits, why="needs 4 GiB, 8 are free" if fits else "needs 4 GiB, 1 is free", needs={"memory": 4.0}, free={})

    def fits(self, release: Release, outline: Outline) -> Fit:
        return self.world.fit

    @contextmanager
    def reserve(self, release: Release, progress: Progress, without: tuple[str, ...] = ()) -> Iterator[Capacity]:
        with self.world.alone:
            found = self.room(release, without)
            if found.fits:
                self.world.reserved.add(release.name)
        try:
            yield found
        finally:
            self.world.reserved.discard(release.name)


class Weights:
    """`model_weights`: sources hold one revision each, named by a word."""

    def __init__(self, world: World) -> None:
        self.world = world

    def glance(self, spec: ModelSpec, base: Path, last: Glance | None, progress: Progress) -> Glance:
        self.world.looks.append(("glance", spec.name))
        self.world.on_look(spec.name)
        if self.world.source_error:
            raise self.world.source_error
        return Glance(spec.weights, self.world.source.get(spec.name, "v1"))

    def look(self, spec: ModelSpec, base: Path, progress: Progress, revision: str | None = None) -> Seen:
        self.world.looks.append(("look", spec.name))
        if self.world.source_error:
            raise self.world.source_error
        word = revision or self.world.source.get(spec.name, "v1")
        return Seen(spec.weights, word, manifest_of(word))

    def observe(self, spec: Release) -> WeightsState | None:
        digest = spec.manifest.digest
        return WeightsState(digest, f"/weights/{digest[:8]}", spec.manifest.size) if digest in self.world.stored else None

    def apply(self, spec: Release, progress: Progress) -> WeightsState:
        if self.world.weights_errors:
            raise self.world.weights_errors.pop(0)
        digest = spec.manifest.digest
        self.world.did("fetched", digest)
        self.world.stored.add(digest)
        self.world.damaged.clear()
        facts = Facts("LlamaForCausalLM", "BF16", 1000, 1, spec.manifest.size)
        return WeightsState(digest, f"/weights/{digest[:8]}", spec.manifest.size, spec.manifest.size, 0.5, facts, changed=True)

    def delete(self, spec: Release, progress: Progress) -> None:
        self.world.did("weights deleted", spec.manifest.digest)
        self.world.stored.discard(spec.manifest.digest)

    def outline(self, release: Release, progress: Progress) -> Outline:
        if release.manifest.digest not in self.world.stored and self.world.source_error:
            raise self.world.source_error
        return OUTLINE

    def verify(self, release: Release, progress: Progress) -> tuple[Bad, ...]:
        return tuple(Bad(path, "its sha256 differs") for path in self.world.damaged)


class Image:
    """`image`."""

    def __init__(self, world: World) -> None:
        self.world = world

    def observe(self, spec: Release) -> ImageState | None:
        return ImageState(spec.image, "/images/0") if spec.image in self.world.images else None

    def apply(self, spec: Release, progress: Progress) -> ImageState:
        changed = spec.image not in self.world.images
        self.world.images.add(spec.image)
        return ImageState(spec.image, "/images/0", 1_000, {"vllm": "0.32.0"}, 0.1 if changed else 0.0, changed)

    def delete(self, spec: Release, progress: Progress) -> None:
        self.world.did("image deleted", spec.image)
        self.world.images.discard(spec.image)

    def resolve(self, spec: ModelSpec, progress: Progress) -> str:
        return self.world.image


class Service:
    """`ray_service`."""

    def __init__(self, world: World) -> None:
        self.world = world

    def observe(self, spec: Release) -> ServiceState | None:
        self.world.on_observe(spec.name)
        if self.world.silent:
            raise self.world.silent
        found = self.world.running.get(spec.name)
        return self._seen(found) if found else None

    def apply(self, spec: Release, progress: Progress) -> ServiceState:
        state = self.observe(spec)
        if state and state.ready:
            return state
        progress.phase("engine: weights", spec.name)
        self.world.on_start(spec)
        if self.world.start_errors:
            raise self.world.start_errors.pop(0)
        while self.world.never_ready:
            progress.sleep(0.05)
            self.world.on_start(spec)
        self.world.did("started", spec.name)
        return replace(self._start(spec), phases={"ray head": 1.0, "engine: weights": 2.0, "unexplained": 0.1}, changed=True)

    def delete(self, spec: Release, progress: Progress) -> None:
        self.remove(spec.name, progress)

    def running(self, model: str | None = None) -> tuple[ServiceState, ...]:
        found = (self._seen(one) for name, one in sorted(self.world.running.items()))
        return tuple(state for state in found if model in (None, state.model))

    def remove(self, name: str, progress: Progress) -> None:
        if any(kept.id == name for kept in self.world.sticky):
            return
        if name in self.world.running:
            self.world.did("removed", name)
            self.world.servers.end(self.world.running.pop(name).server)
        self.world.dead.pop(name, None)

    def rest(self, name: str, progress: Progress) -> None:
        self.remove(name, progress)

    def shrink(self, release: Release, progress: Progress) -> ServiceState | None:
        state = self.observe(release)
        if state is None or state.phase == "shrunk":
            return state
        if state.phase == "dead" or release.spec.engine.kind != "ray":
            self.remove(release.name, progress)
            return None
        self.world.did("shrunk", release.name)
        found = self.world.running[release.name]
        self.world.servers.end(found.server)
        found.state = replace(state, phase="shrunk")
        return found.state

    def adjust(self, release: Release, progress: Progress) -> ServiceState:
        found = self.world.running[release.name]
        changed = found.state.in_place != release.in_place
        if changed:
            self.world.did("adjusted", release.name)
            found.state = replace(found.state, in_place=release.in_place)
        return replace(found.state, changed=changed)

    def memory(self, name: str) -> int | None:
        """Nobody can tell."""
        return None

    def client(self, state: ServiceState, timeout: float) -> httpx.Client:
        assert state.address is not None, f"{state.release} has no address"
        return loopback.client(timeout, f"http://{state.address[0]}:{state.address[1]}")

    def log(self, name: str, part: str) -> Iterator[Path]:
        path = self.world.home / "logs" / f"{name}.{part}.log"
        yield from [path] if path.exists() else []

    def _start(self, release: Release) -> ServiceState:
        behaviour = self.world.behave.get(release.revision, Behaviour())
        script = Script(release.served_name, behaviour.answers, first_ms=behaviour.first_ms)
        made = Candidate(script, behaviour.wrong)
        server = self.world.serve(made)
        declared = {arguments_of.REPORTED.get(name, name): str(value) for name, value in arguments_of.arguments(release).items()}
        if behaviour.wrong == "other arguments":
            declared["dtype"] = "float32"
        state = ServiceState(
            release.name, release.model, "ready", ("127.0.0.1", port_of(server)), since=1.0, in_place=release.in_place,
            arguments={**declared, "served_model_name": release.served_name, **self.world.reports},
        )  # fmt: skip
        self.world.running[release.name] = Running(release, state, made, server)
        self.world.dead.pop(release.name, None)
        return state

    def _seen(self, found: Running) -> ServiceState:
        why = self.world.dead.get(found.state.release)
        if why is None:
            return found.state
        return replace(found.state, phase="dead", problem=Problem(f"{found.state.release}: {why}"))


class Front:
    """`endpoint`: a table, and a server that obeys it."""

    def __init__(self, world: World) -> None:
        self.world = world

    def observe(self, spec: Route) -> EndpointState | None:
        if not self.world.routes:
            return None
        if self.world.front is None:
            return EndpointState(self.url(spec.model), healthy=False)
        route = self.world.routes.get(spec.served_name)
        release = "demo-elsewhere" if self.world.leads_elsewhere else route.release if route else None
        rest = self.world.resting.get(spec.served_name, "failed" if spec.served_name in self.world.routes else "") if release is None else ""
        hold = route.hold if route and not self.world.blind else None
        return EndpointState(self.url(spec.model), healthy=True, release=release, rest=rest, generation=self.world.generation, hold=hold)

    def apply(self, spec: Route, progress: Progress) -> EndpointState:
        changed = self.world.front is None or self.world.routes.get(spec.served_name) != spec
        if self.world.front is None:
            self.world.front = self.world.serve(Router(self.world.behind))
        if changed:
            self.world.did("flipped", spec.release)
            self.world.generation += 1
            self.world.routes[spec.served_name] = spec
        return EndpointState(self.url(spec.model), healthy=True, release=spec.release, generation=self.world.generation, changed=changed)

    def delete(self, spec: Route, progress: Progress) -> None:
        if spec.served_name in self.world.routes:
            self.world.did("unrouted", spec.served_name)
            del self.world.routes[spec.served_name]
        if not self.world.routes:
            self.world.stop_front()

    def in_flight(self, release: str) -> int | None:
        if self.world.blind:
            return None
        rows = self.world.readings.get(release)
        return rows.pop(0) if rows else self.world.idle

    def closed(self, model: str, served_name: str, seconds: float, phase: str, progress: Progress) -> None:
        if served_name in self.world.routes:
            self.world.did("closed", served_name, f"{seconds:.0f}")
            self.world.routes[served_name] = None
            self.world.resting[served_name] = "waking" if seconds else "failed"

    def rests(self, route: Route, seconds: float, progress: Progress) -> None:
        self.world.did("rests", route.served_name)
        if self.world.front is None:
            self.world.front = self.world.serve(Router(self.world.behind))
        self.world.routes[route.served_name] = None
        self.world.resting[route.served_name] = "asleep"

    @property
    def counts(self) -> bool:
        return not self.world.blind

    def url(self, model: str) -> str:
        return f"http://127.0.0.1:{port_of(self.world.front) if self.world.front else 1}/v1"

    def client(self, model: str, timeout: float) -> httpx.Client:
        return loopback.client(timeout, self.url(model))


class Usage:
    """`usage`: what the world says was counted; nothing where it says nothing."""

    def __init__(self, world: World) -> None:
        self.world = world

    def sample(self, model: str) -> Traffic | None:
        return self.world.traffic.get(model)

    def note(self, model: str, now: float) -> Traffic | None:
        self.world.noted.append(model)
        self.world.on_note(model)
        return self.sample(model)

    def quiet(self, model: str, now: float) -> Quiet:
        return Quiet(self.world.quiet.get(model), "nobody asked, as was counted" if model in self.world.quiet else "nothing was counted")

    def between(self, model: str, since: float, until: float, width: int) -> tuple[Bucket, ...]:
        return tuple(one for one in self.world.used.get(model, ()) if one.width == width and since - width < one.start <= until)

    def forget(self, model: str) -> None:
        self.world.used.pop(model, None)


class Prices:
    """`prices`: every release costs the same."""

    def __init__(self, world: World) -> None:
        self.world = world

    def per_hour(self, release: Release) -> float | None:
        return self.world.usd

    def why(self, release: Release) -> str:
        return "the price list is silent" if self.world.usd is None else ""

    def now(self, release: Release) -> float | None:
        return self.world.usd if release.name in self.world.running else 0.0

    def freed(self, release: Release, rung: Rung) -> float | None:
        return (self.world.usd if release.name in self.world.running else None) if self.world.nodes_go else 0.0


class Inventory:
    """`inventory`."""

    def __init__(self, world: World) -> None:
        self.world = world

    def find(self) -> tuple[Leftover, ...]:
        world = self.world
        out = [Leftover("ray_service", name, "local", one.release.model, name, "it carries our mark") for name, one in sorted(world.running.items())]
        if world.front:
            out.append(Leftover("endpoint", "router", "local", None, None, "it carries our mark"))
        out += [Leftover("model_weights", digest[:8], "", None, None, "it lies in our cache", bytes=4_000_012, data=True) for digest in sorted(world.stored)]
        out += [Leftover("image", found, "", None, None, "it lies in our cache", bytes=1_000, data=True) for found in sorted(world.images)]
        return (*out, *(kept for kept in world.sticky if kept.id not in world.running))

    def remove(self, leftover: Leftover, progress: Progress) -> None:
        self.world.did("cleared", leftover.id)
        if leftover.part == "ray_service":
            Service(self.world).remove(leftover.id, progress)
        elif leftover.part == "endpoint":
            self.world.stop_front()

    def held(self) -> tuple[Held, ...]:
        world = self.world
        weights = (Held("model_weights", digest[:16], "file://weights", 4_000_012, since=1.0) for digest in sorted(world.stored))
        return (*weights, *(Held("image", found, "vllm 0.32.0", 1_000) for found in sorted(world.images)), *world.spent)

    def discard(self, held: Held, progress: Progress) -> int:
        self.world.did("discarded", held.part, held.id)
        self.world.stored = {digest for digest in self.world.stored if held.part != "model_weights" or not digest.startswith(held.id)}
        self.world.images -= {held.id}
        self.world.spent = [one for one in self.world.spent if one != held]
        return held.bytes

    def sharers(self) -> tuple[Sharer, ...]:
        return self.world.sharers
