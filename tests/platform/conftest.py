"""One stand per platform: the suites in this folder know nothing but infra/platform.py and this.

A platform joins by a class with the members of `Stand` and a line in `STANDS`. What is true on one platform only (a port that is taken, a
process that was killed) says so with the mark `only`; what is like it on another is among that platform's own tests.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra import local, settings
from infra.local import startup
from infra.local.processes import end, home_id, marked
from infra.platform import Platform, Release
from infra.settings import Settings
from infra.specs import ClusterSpec, ModelSpec
from infra.states import Route
from infra.waiting import Phase, Progress
from tests.doubles import ray_engine
from tests.doubles.engine import engine
from tests.doubles.hub import lay_model
from tests.doubles.releases import spec

PATIENCE = 250.0
"""Seconds that these tests give to what takes a few, where nobody else needs the machine."""


class Stand(ABC):
    """A platform on which nothing is yet, with a scripted engine as its image. `sources`: where weights come from."""

    folder: Path
    sources: Path
    settings: Settings
    platform: Platform
    cluster: ClusterSpec
    image: str
    each: int
    """How many `processes` one scripted engine is."""

    @abstractmethod
    def again(self, **other: Any) -> Platform:
        """The same platform, as another process would see it; `other`: settings that it has changed."""

    @abstractmethod
    def engines(self) -> contextlib.AbstractContextManager[Callable[[str], tuple[str, int]]]:
        """Answers the address of an engine that the endpoint can reach, for a served name."""

    @abstractmethod
    def processes(self) -> set[Any]:
        """Everything of this platform that computes."""

    @abstractmethod
    def written(self) -> list[bytes]:
        """Everything that is written down."""

    @abstractmethod
    def files(self, release: Release) -> Path:
        """The folder with a release's weights, as this machine sees it."""

    def declared(self, **keys: Any) -> ModelSpec:
        """A model with this platform's own image."""
        return spec(**keys)

    @abstractmethod
    def close(self) -> None:
        """Ends what the test left."""

    def source(self, name: str = "weights", seed: int = 0) -> Path:
        """A folder with the files of a small model."""
        folder = self.sources / name
        return folder if folder.exists() else lay_model(folder, seed)

    def unfetched(self, weights: str = "weights", seed: int = 0, **keys: Any) -> Release:
        """A release whose weights were looked at, but are not here."""
        self.source(weights, seed)
        engine_spec = {"kind": "vllm", "max_num_seqs": 2, "max_model_len": 64, **keys.pop("engine", {})}
        declared = spec(**{"weights": f"file://{weights}", "engine": engine_spec, **keys})
        seen = self.platform.model_weights.look(declared, self.sources, Progress(PATIENCE))
        return Release(declared, seen.revision, seen.manifest, self.image, seen.source, str(self.sources))

    def release(self, scripted: str = "", **keys: Any) -> Release:
        """A release that can be started. `scripted`: what its engine does wrong (tests/doubles/ray_engine.py)."""
        extra = {"scripted": scripted} if scripted else {}
        made = self.unfetched(engine={**keys.pop("engine", {}), "extra": extra}, **keys)
        self.platform.model_weights.apply(made, Progress(PATIENCE))
        return made


class LocalStand(Stand):
    """The local platform in a home of its own. An engine is its leader and a worker."""

    each = 2

    def __init__(self, folder: Path, sources: Path, **given: Any) -> None:
        self.folder, self.sources = folder, sources
        self.settings = settings.load(home=folder / "home", cache=folder / "cache", endpoint_port=0, TMPDIR=folder, **given)
        self.platform = local.platform(self.settings)
        self.cluster = ClusterSpec.model_validate({"name": "local", "platform": "local"})
        self.image = self.platform.image.resolve(spec(), Progress())
        ray_engine.image(self.settings.cache_dir, self.image)

    def again(self, **other: Any) -> Platform:
        return local.platform(self.settings.model_copy(update=other))

    @contextlib.contextmanager
    def engines(self) -> Iterator[Callable[[str], tuple[str, int]]]:
        with engine("demo") as running:
            yield lambda name: ("127.0.0.1", running.port)

    def processes(self) -> set[int]:
        return {pid for pid, _ in marked(home_id(self.settings.home))}

    def written(self) -> list[bytes]:
        return [path.read_bytes() for path in self.settings.home.rglob("*") if path.is_file()]

    def files(self, release: Release) -> Path:
        state = self.platform.model_weights.observe(release)
        assert state
        return Path(state.path)

    def close(self) -> None:
        """… and proves that nothing is left."""
        for mark in {mark for _, mark in marked(home_id(self.settings.home))}:
            end(mark, Progress(), grace=0)
        for state in self.platform.ray_service.running():
            self.platform.ray_service.remove(state.release, Progress())
        assert self.processes() == set()
        temp = local.temp_dir(self.settings)
        assert not temp.exists() or not any(temp.iterdir()), f"{temp} still holds {list(temp.iterdir())}"


class KubernetesStand(Stand):
    """The platform kubernetes in a namespace of its own; its pods are real processes, and the engine in them is scripted. An engine is a pod."""

    each = 1

    def __init__(self, lab: Any, folder: Path, sources: Path) -> None:
        from tests.kubernetes import engines
        from tests.kubernetes.lab import close, insist_on_processes

        insist_on_processes()
        self._lab, self._engines, self._close = lab, engines, close
        self._open = contextlib.ExitStack()
        self.namespace = self._open.enter_context(lab.namespace())
        self.folder, self.sources, self.place = folder, sources, lab.place(folder, self.namespace, real=True)
        self._open.callback(close, self.place)
        self.settings, digest = self.place.settings, "sha256:" + "1" * 64
        block = self.place.block.model_dump() | {"kuberay": "existing"}
        declared = {"name": "lab", "platform": "kubernetes", "kubernetes": block, "endpoint": {"image": f"registry.invalid/haproxy@{digest}"}}
        self.cluster = ClusterSpec.model_validate(declared)
        self.image = f"registry.invalid/engine@{digest}"
        self.platform = self.again()

    def again(self, **other: Any) -> Platform:
        from infra import kubernetes

        made = kubernetes.platform(self.settings.model_copy(update=other), self.cluster)
        made.model_weights._trust = 0.0  # type: ignore[attr-defined]  # every look at the files is a fresh one
        self._open.callback(self._close, made.records._place)  # type: ignore[attr-defined]
        return made

    @contextlib.contextmanager
    def engines(self) -> Iterator[Callable[[str], tuple[str, int]]]:
        made = self._engines.start(self.place, "engine", "demo")
        yield lambda name: made.address

    def processes(self) -> set[str]:
        from infra.kubernetes import kinds

        return {item["metadata"]["name"] for item in self.place.api.list(kinds.POD, self.namespace, self.place.selector()).items}

    def written(self) -> list[bytes]:
        from infra.kubernetes import kinds

        own = [kind for kind in kinds.KINDS.values() if kind.namespaced and kind is not kinds.REVIEW]
        return [json.dumps(item).encode() for kind in own for item in self.place.api.list(kind, self.namespace).items]

    def files(self, release: Release) -> Path:
        """The lab's volumes are folders."""
        from infra.kubernetes import kinds
        from infra.kubernetes.weights_job import claim_name

        claim = self.place.api.get(kinds.CLAIM, claim_name(release.manifest), self.namespace)
        volume = claim and self.place.api.get(kinds.VOLUME, claim["spec"]["volumeName"])
        assert volume
        return Path(volume["spec"]["hostPath"]["path"])

    def declared(self, **keys: Any) -> ModelSpec:
        return spec(image=self.image, **keys)

    def close(self) -> None:
        """With its namespace goes all that is in it; pods that would take their time are ended first."""
        from infra.kubernetes import kinds

        for kind in (kinds.DEPLOYMENT, kinds.JOB, kinds.POD):
            for item in self.place.api.list(kind, self.namespace).items:
                self.place.api.delete(kind, item["metadata"]["name"], self.namespace, grace=0 if kind is kinds.POD else None)
        self._open.close()


def stand_of(name: str, request: pytest.FixtureRequest, folder: Path, sources: Path) -> Stand:
    """A platform joins here."""
    if name == "local":
        return LocalStand(folder, sources)
    lab = request.getfixturevalue("lab")
    request.getfixturevalue("patient")
    return KubernetesStand(lab, folder, sources)


STANDS = ("local", "kubernetes")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "only(*platforms): this is so on these platforms alone")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test with a stand runs on every platform, or on those that it names."""
    if "stand" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("only")
        metafunc.parametrize("stand", mark.args if mark else STANDS, indirect=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scripted engine is ready in a moment: nobody has to look as seldom as for a real one. One that does not answer for some seconds is slow, not silent."""
    monkeypatch.setattr(startup, "POLL", 0.05)
    monkeypatch.setattr(startup, "HEALTH_SECONDS", 60.0)
    monkeypatch.setattr("infra.kubernetes.weights_run.EVERY", 0.3)


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all: a source that was just written is waited for until it rests."""
    return tmp_path_factory.mktemp("sources")


@pytest.fixture
def stand(request: pytest.FixtureRequest, tmp_path: Path, sources: Path) -> Iterator[Stand]:
    """A platform on which nothing is yet."""
    made = stand_of(request.param, request, tmp_path, sources)
    yield made
    made.close()


@pytest.fixture
def platform(stand: Stand) -> Platform:
    return stand.platform


@pytest.fixture
def routes(stand: Stand) -> Iterator[Callable[..., Route]]:
    """Routes to an engine that answers; another `letter` is another release."""
    with stand.engines() as address:

        def route(letter: str = "a", name: str = "demo") -> Route:
            return Route(name, name, f"{name}-{letter * 10}", address(name))

        yield route


def killed(work: Callable[[Progress], object], at: str) -> list[str]:
    """Does the work in a process of its own that is killed when the phase `at` begins. The phases until then."""
    context = multiprocessing.get_context("fork")
    told: Any = context.SimpleQueue()

    def die_in_time(phase: Phase) -> None:
        told.put(phase.name)
        if phase.name == at:
            os.kill(os.getpid(), signal.SIGKILL)

    child = context.Process(target=lambda: work(Progress(PATIENCE, report=die_in_time)))
    child.start()
    child.join(PATIENCE)
    assert child.exitcode == -signal.SIGKILL, f"it was to die in {at!r}, and ended with {child.exitcode}"
    return [told.get() for _ in iter(lambda: not told.empty(), False)]


def expiring(at: str) -> Progress:
    """Its deadline passes when the phase `at` begins, however quick or slow that comes."""

    def expire(phase: Phase) -> None:
        if phase.name == at:
            made._deadline = 0.0

    made = Progress(PATIENCE, report=expire)
    return made


def edited(release: Release, **keys: Any) -> Release:
    """The same release with other keys in its declaration."""
    return replace(release, spec=release.spec.model_copy(update=keys))
