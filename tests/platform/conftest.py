"""One stand per platform: the suites in this folder know nothing but infra/platform.py and this.

A platform joins by a class with the members of `Stand` and a line in `STANDS`. What is true on one platform only (a port that is taken, a
process that was killed) is among that platform's own tests: tests/infra/local, tests/kubernetes. Where it must stand here, it has the mark `only`.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from infra import local, settings
from infra.local import machine, startup
from infra.local.gpu_nodepool import MARGIN
from infra.local.processes import end, home_id, marked
from infra.platform import Platform, Release
from infra.settings import Settings
from infra.specs import ClusterSpec, ModelSpec
from infra.states import Route
from infra.waiting import Phase, Progress
from tests.doubles import ray_engine
from tests.doubles.engine import engine
from tests.doubles.model import lay_model
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
    def engines(self) -> contextlib.AbstractContextManager[Callable[[str, str], tuple[str, int]]]:
        """Answers the address of an engine that the endpoint can reach, for a served name and a release."""

    @abstractmethod
    def processes(self) -> set[Any]:
        """Everything of this platform that computes."""

    @abstractmethod
    def written(self) -> list[bytes]:
        """Everything that is written down."""

    @abstractmethod
    def files(self, release: Release) -> Path:
        """The folder with a release's weights, as this machine sees it."""

    @abstractmethod
    def elsewhere(self) -> tuple[Platform, ClusterSpec]:
        """Another place of the same platform, where nothing was ever made."""

    @abstractmethod
    def of(self, memory: float) -> contextlib.AbstractContextManager[Platform]:
        """The same place, where releases have so many bytes of memory in all, and nothing else runs."""

    @abstractmethod
    def damage(self, owner: str, name: str) -> None:
        """Spoils a record: what is left of it can not be read."""

    @abstractmethod
    def foreign(self) -> tuple[str, Callable[[], bool]]:
        """Makes something of somebody else's that looks like weights: its id, and whether it is there."""

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
    def engines(self) -> Iterator[Callable[[str, str], tuple[str, int]]]:
        with engine("demo") as running:
            yield lambda name, release: ("127.0.0.1", running.port)

    def processes(self) -> set[int]:
        return {pid for pid, _ in marked(home_id(self.settings.home))}

    def written(self) -> list[bytes]:
        return [path.read_bytes() for path in self.settings.home.rglob("*") if path.is_file()]

    def files(self, release: Release) -> Path:
        state = self.platform.model_weights.observe(release)
        assert state
        return Path(state.path)

    def elsewhere(self) -> tuple[Platform, ClusterSpec]:
        return self.again(home=self.folder / "elsewhere"), self.cluster

    @contextlib.contextmanager
    def of(self, memory: float) -> Iterator[Platform]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(machine, "memory_free", lambda: int(memory) + MARGIN)
            yield self.platform

    def damage(self, owner: str, name: str) -> None:
        (self.settings.home / "records" / owner / f"{name}.json").write_text('{"version": 1, "val')

    def foreign(self) -> tuple[str, Callable[[], bool]]:
        folder = self.folder / "foreign"
        folder.mkdir()
        return str(folder), folder.is_dir

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

    endpoint: Mapping[str, str] = {}

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
        declared = {"name": "lab", "platform": "kubernetes", "kubernetes": block, "endpoint": {"image": f"registry.invalid/haproxy@{digest}", **self.endpoint}}
        self.cluster = ClusterSpec.model_validate(declared)
        self.image = f"registry.invalid/engine@{digest}"
        self.platform = self.again()

    def again(self, **other: Any) -> Platform:
        return self._made(self.settings.model_copy(update=other), self.cluster)

    def _on(self, **keys: Any) -> tuple[Platform, ClusterSpec]:
        """With other keys in the cluster's block."""
        declared = self.cluster.model_dump(exclude_unset=True)
        spec = ClusterSpec.model_validate({**declared, "kubernetes": {**self.place.block.model_dump(), "kuberay": "existing", **keys}})
        return self._made(self.settings, spec), spec

    def _made(self, given: Settings, spec: ClusterSpec) -> Platform:
        from infra import kubernetes

        made = kubernetes.platform(given, spec)
        made.model_weights._trust = 0.0  # type: ignore[attr-defined]  # every look at the files is a fresh one
        self._open.callback(self._close, made.records._place)  # type: ignore[attr-defined]
        return made

    @contextlib.contextmanager
    def engines(self) -> Iterator[Callable[[str, str], tuple[str, int]]]:
        made = self._engines.start(self.place, "engine", "demo")
        yield lambda name, release: made.address

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

    def elsewhere(self) -> tuple[Platform, ClusterSpec]:
        from infra.kubernetes import kinds

        name = f"{self.namespace}-new"
        self._open.callback(lambda: self.place.api.delete(kinds.NAMESPACE, name))
        return self._on(namespace=name)

    @contextlib.contextmanager
    def of(self, memory: float) -> Iterator[Platform]:
        """A node of the test's own: of that size, and the only one for what this platform starts."""
        from infra.kubernetes import kinds, nodes

        name = f"{self.namespace}-node"
        size = {"cpu": "16", "memory": str(int(memory)), "pods": "50", "ephemeral-storage": "500Gi"}
        meta = {"name": name, "labels": {"t-only": name, "kubernetes.io/hostname": name}, "annotations": {"kwok.x-k8s.io/node": "fake"}}
        taints = [{"key": "t-only", "value": name, "effect": "NoSchedule"}]
        self.place.api.create({"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": {"taints": taints}, "status": {"capacity": size, "allocatable": size}})
        self._open.callback(lambda: self.place.api.delete(kinds.NODE, name))
        Progress(PATIENCE).until(lambda: any(node.name == name and node.ready and list(node.taints) == taints for node in nodes.look(self.place.api, ())) or None, every=0.3)
        yield self._on(node_selector={"t-only": name}, tolerations=[{"key": "t-only", "operator": "Exists"}])[0]

    def damage(self, owner: str, name: str) -> None:
        from infra.kubernetes import kinds

        (found,) = [item for item in self.place.api.list(kinds.CONFIG_MAP, self.namespace, self.place.selector("records")).items if item["data"]["owner"] == owner and item["data"]["name"] == name]
        self.place.api.merge(kinds.CONFIG_MAP, found["metadata"]["name"], self.namespace, {"data": {"document": '{"val'}})

    def foreign(self) -> tuple[str, Callable[[], bool]]:
        """A claim of our name, without our labels."""
        from infra.kubernetes import kinds

        name = "weights-" + "f" * 16
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        self.place.api.create({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": self.namespace}, "spec": spec})

        def there() -> bool:
            found = self.place.api.get(kinds.CLAIM, name, self.namespace)
            return found is not None and "deletionTimestamp" not in found["metadata"]

        return name, there

    def close(self) -> None:
        """With its namespace goes all that is in it; pods that would take their time are ended first."""
        from infra.kubernetes import kinds

        for kind in (kinds.DEPLOYMENT, kinds.JOB, kinds.POD):
            for item in self.place.api.list(kind, self.namespace).items:
                self.place.api.delete(kind, item["metadata"]["name"], self.namespace, grace=0 if kind is kinds.POD else None)
        self._open.close()


class ServiceStand(KubernetesStand):
    """The same without a router (`endpoint.via: service`). An engine is a pod for each release."""

    endpoint: Mapping[str, str] = {"via": "service"}

    @contextlib.contextmanager
    def engines(self) -> Iterator[Callable[[str, str], tuple[str, int]]]:
        yield cache(lambda name, release: self._engines.release(self.place, release).address)


def stand_of(name: str, request: pytest.FixtureRequest, folder: Path, sources: Path) -> Stand:
    """A platform joins here."""
    if name == "local":
        return LocalStand(folder, sources)
    lab = request.getfixturevalue("lab")
    request.getfixturevalue("patient")
    return (ServiceStand if name == "service" else KubernetesStand)(lab, folder, sources)


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
            release = f"{name}-{letter * 10}"
            return Route(name, name, release, address(name, release))

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
