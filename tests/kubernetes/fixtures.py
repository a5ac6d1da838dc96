"""Fixtures of a real control plane, known to all tests: one cluster for all that need one, started by the first.

Nothing that needs a cluster depends on how quick this machine is. Where there is no cluster those tests are skipped, and counted at the end;
where none may be skipped (tests/kubernetes/lab.py says how that is asked for) one that is, is a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from infra.kubernetes.place import Place
    from tests.kubernetes.lab import Lab

Places = Callable[..., "Place"]

SECONDS = 600
"""For a test that says nothing else: whoever asks for the cluster first also waits for its start."""


def labs() -> Any:
    """The module, once somebody asks: every session loads this plugin, and few need a cluster."""
    from tests.kubernetes import lab

    return lab


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """API server, controllers, scheduler, KubeRay's operator and two nodes; pods are simulated but for those with the annotation `lab.REAL`."""
    with labs().started(tmp_path_factory.mktemp("lab"), nodes=2) as made:
        yield made


@pytest.fixture(scope="module")
def real_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One node, and Ray's pods are processes of the real engine."""
    labs().insist_on_processes()
    folder = tmp_path_factory.mktemp("real-lab")
    with labs().started(folder, nodes=1, ray_venv=labs().real_tools(folder / "image"), ray_types=("head", "worker")) as made:
        yield made


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server, a router or an engine that does not answer for some seconds is slow here, not silent: nobody gives it up for that."""
    monkeypatch.setattr("infra.kubernetes.api.CONNECT_SECONDS", 60.0)
    monkeypatch.setattr("infra.kubernetes.router_pods.ANSWER_SECONDS", 60.0)
    monkeypatch.setattr("infra.kubernetes.ray_service.HEALTH_SECONDS", 60.0)


@pytest.fixture
def namespace(lab: Lab) -> Iterator[str]:
    """A namespace of this test's own."""
    with lab.namespace() as name:
        yield name


@pytest.fixture
def places(lab: Lab, namespace: str, tmp_path: Path) -> Iterator[Places]:
    """Makes places in that namespace; keywords as of `Lab.place`, other keys of the block too."""
    made: list[Place] = []

    def make(**more: Any) -> Place:
        made.append(lab.place(tmp_path, namespace, **more))
        return made[-1]

    yield make
    for place in made:
        labs().close(place)


@pytest.fixture
def place(places: Places) -> Place:
    """Where nothing is yet, and pods are only simulated."""
    return places()


@pytest.fixture
def real_place(places: Places) -> Place:
    """Where nothing is yet, and pods are processes."""
    labs().insist_on_processes()
    return places(real=True)


@pytest.fixture(scope="session")
def crd_archive() -> Path:
    """KubeRay's definitions of all versions that we know."""
    path: Path = labs().crds()
    return path


# ---------------------------------------------------------------- of all tests those that need a cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They come last, so that no other test shares the machine with a cluster; a life with real engines before those that share one."""
    items.sort(key=lambda item: 0 if not of_a_cluster(item) else 1 if item.get_closest_marker("real") else 2)
    for item in items:
        if of_a_cluster(item) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and of_a_cluster(item) and labs().nothing_may_be_skipped():
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"nothing of Kubernetes may be skipped here: {why}"
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    skipped = [report for report in terminalreporter.stats.get("skipped", ()) if "kubernetes" in report.nodeid]
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} tests of Kubernetes were skipped: {labs().refused() or 'each says why'}")


def of_a_cluster(item: pytest.Item) -> bool:
    """Whether a test is one of this folder, or of a suite for all platforms and about this one."""
    call = getattr(item, "callspec", None)
    return item.path.is_relative_to(Path(__file__).parent) or (call is not None and call.params.get("stand") in ("kubernetes", "service"))
