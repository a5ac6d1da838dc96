"""One stand per platform: the suites in this folder know nothing but infra/platform.py and this.

A platform joins by a class with the members of `Stand` and a line in `STANDS`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra import local, settings
from infra.local import startup
from infra.local.processes import end, home_id, marked
from infra.platform import Platform, Release, Route
from infra.specs import ClusterSpec
from infra.waiting import Phase, Progress
from tests.doubles import ray_engine
from tests.doubles.engine import engine
from tests.doubles.hub import model_files
from tests.doubles.releases import spec


class LocalStand:
    """The local platform in a home of its own, with a scripted engine as its image. `sources`: where weights come from."""

    def __init__(self, folder: Path, sources: Path, **given: Any) -> None:
        self.folder, self.sources = folder, sources
        self.settings = settings.load(home=folder / "home", cache=folder / "cache", endpoint_port=0, TMPDIR=folder, **given)
        self.platform: Platform = local.platform(self.settings)
        self.cluster = ClusterSpec.model_validate({"name": "local", "platform": "local"})
        self.image = self.platform.image.resolve(spec(), Progress())
        ray_engine.image(self.settings.cache_dir, self.image)

    def again(self, **other: Any) -> Platform:
        """The same platform, as another process would see it; `other`: settings that it has changed."""
        return local.platform(self.settings.model_copy(update=other))

    def source(self, name: str = "weights", seed: int = 0) -> Path:
        """A folder with the files of a small model."""
        folder = self.sources / name
        if not folder.exists():
            folder.mkdir(parents=True)
            for path, content in model_files(seed, rows=10).items():
                if "/" not in path:
                    (folder / path).write_bytes(content)
        return folder

    def unfetched(self, weights: str = "weights", seed: int = 0, **keys: Any) -> Release:
        """A release whose weights were looked at, but are not here."""
        self.source(weights, seed)
        engine_spec = {"kind": "vllm", "max_num_seqs": 2, "max_model_len": 64, **keys.pop("engine", {})}
        declared = spec(**{"weights": f"file://{weights}", "engine": engine_spec, **keys})
        seen = self.platform.model_weights.look(declared, self.sources, Progress(10))
        return Release(declared, seen.revision, seen.manifest, self.image, seen.source, str(self.sources))

    def release(self, scripted: str = "", **keys: Any) -> Release:
        """A release that can be started. `scripted`: what its engine does wrong (tests/doubles/ray_engine.py)."""
        extra = {"scripted": scripted} if scripted else {}
        made = self.unfetched(engine={**keys.pop("engine", {}), "extra": extra}, **keys)
        self.platform.model_weights.apply(made, Progress(20))
        return made

    def processes(self) -> set[int]:
        """Everything of this home that lives."""
        return {pid for pid, _ in marked(home_id(self.settings.home))}

    def close(self) -> None:
        """Ends what the test left, and proves that nothing is left."""
        for mark in {mark for _, mark in marked(home_id(self.settings.home))}:
            end(mark, Progress(), grace=0)
        for state in self.platform.ray_service.running():
            self.platform.ray_service.remove(state.release, Progress())
        assert self.processes() == set()
        temp = local.temp_dir(self.settings)
        assert not temp.exists() or not any(temp.iterdir()), f"{temp} still holds {list(temp.iterdir())}"


STANDS = {"local": LocalStand}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scripted engine is ready in a moment, and a silent one stays silent: nobody has to look as seldom, or wait as long, as for a real one."""
    monkeypatch.setattr(startup, "POLL", 0.05)
    monkeypatch.setattr(startup, "HEALTH_SECONDS", 0.5)


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all: a source that was just written is waited for until it rests."""
    return tmp_path_factory.mktemp("sources")


@pytest.fixture(params=sorted(STANDS))
def stand(request: pytest.FixtureRequest, tmp_path: Path, sources: Path) -> Iterator[LocalStand]:
    """A platform on which nothing is yet."""
    made = STANDS[request.param](tmp_path, sources)
    yield made
    made.close()


@pytest.fixture
def platform(stand: LocalStand) -> Platform:
    return stand.platform


@pytest.fixture
def routes() -> Iterator[Callable[..., Route]]:
    """Routes to an engine that answers; another `letter` is another release."""
    with engine("demo") as running:

        def route(letter: str = "a", name: str = "demo") -> Route:
            return Route(name, name, f"{name}-{letter * 10}", ("127.0.0.1", running.port))

        yield route


def killed(work: Callable[[Progress], object], at: str) -> list[str]:
    """Does the work in a process of its own that is killed when the phase `at` begins. The phases until then."""
    context = multiprocessing.get_context("fork")
    told: Any = context.SimpleQueue()

    def die_in_time(phase: Phase) -> None:
        told.put(phase.name)
        if phase.name == at:
            os.kill(os.getpid(), signal.SIGKILL)

    child = context.Process(target=lambda: work(Progress(30, report=die_in_time)))
    child.start()
    child.join(30)
    assert child.exitcode == -signal.SIGKILL, f"it was to die in {at!r}, and ended with {child.exitcode}"
    return [told.get() for _ in iter(lambda: not told.empty(), False)]


def edited(release: Release, **keys: Any) -> Release:
    """The same release with other keys in its declaration."""
    return replace(release, spec=release.spec.model_copy(update=keys))
