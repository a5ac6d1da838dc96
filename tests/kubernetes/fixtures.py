"""Fixtures of a real control plane, known to all tests: one cluster for all that need one, started by the first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from infra.kubernetes.place import Place
    from tests.kubernetes.lab import Lab

Places = Callable[..., "Place"]


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
def namespace(lab: Lab) -> Iterator[str]:
    """A namespace of this test's own."""
    with lab.namespace() as name:
        yield name


@pytest.fixture
def places(lab: Lab, namespace: str, tmp_path: Path) -> Places:
    """Makes places in that namespace; keywords as of `Lab.place`, other keys of the block too."""
    return lambda **more: lab.place(tmp_path, namespace, **more)


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
    return labs().crds()
