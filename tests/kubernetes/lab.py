"""A real control plane for tests, found through the environment, never by a path.

    LLM_PIPELINE_TEST_KUBELAB               folder of kubelab: the tests start clusters of their own, whose pods can be real processes
    LLM_PIPELINE_TEST_KUBECONFIG, …CONTEXT  or a cluster that is there, made for tests: everything in its namespaces t-… is theirs
    LLM_PIPELINE_TEST_REQUIRE_KUBERNETES=1  without either the tests fail instead of being skipped

In kubelab the machine's file system stands in for every image, so what a pod's command names must be on its PATH: `tools` makes that folder.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import local, router, settings
from infra.kubernetes import kinds
from infra.kubernetes.api import Api
from infra.kubernetes.place import Place
from infra.specs import KubernetesBlock
from infra.waiting import Progress
from tests.doubles import ray_cluster, ray_engine
from tests.doubles.releases import release, spec

KUBELAB, KUBECONFIG, CONTEXT, REQUIRED = (f"LLM_PIPELINE_TEST_{word}" for word in ("KUBELAB", "KUBECONFIG", "CONTEXT", "REQUIRE_KUBERNETES"))

HOW = (
    f"no Kubernetes for tests: `kind create cluster --kubeconfig FILE` or the control plane of setup-envtest, then set {KUBECONFIG}=FILE"
    f" and {CONTEXT}=NAME (or {KUBELAB} to a folder of kubelab)"
)

START_SECONDS = 280
"""Ten, where nobody else needs the machine."""

GRACE = 60
"""Seconds that a pod may take to end at most: enough for what it is answering, also on a machine that stands still for a while."""

REAL = {"kubelab/run": "true"}
"""The annotation that makes a pod a real process; on any other cluster it means nothing."""


@dataclass
class Lab:
    """One control plane. `cluster`: kubelab's own handle (kubectl, faults, audit_events, kubeconfig_for); None on a cluster that was there before."""

    kubeconfig: Path
    context: str
    cluster: Any = None

    @cached_property
    def api(self) -> Api:
        """As its administrator."""
        return Api.open(str(self.kubeconfig), self.context)

    def place(self, folder: Path, namespace: str, *, real: bool = False, given: dict[str, Any] | None = None, **block: Any) -> Place:
        """Where a platform of a test lives. `real`: its pods are processes, where the cluster can do that; `given`: settings."""
        where = {"kubeconfig": str(self.kubeconfig), "context": self.context, "namespace": namespace, "pod_annotations": REAL if real else {}}
        made = settings.load(**{"home": folder / "home", "cache": folder / "cache", "TMPDIR": folder, **(given or {})})
        return Place(made, "lab", KubernetesBlock.model_validate({**where, **block}))

    @contextlib.contextmanager
    def namespace(self) -> Iterator[str]:
        """One of its own; with all that is in it, it goes at the end."""
        name = f"t-{secrets.token_hex(4)}"
        self.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        try:
            yield name
        finally:
            self.api.delete(kinds.NAMESPACE, name)
            if self.cluster is None:  # a cluster of ours ends soon, and what is in it with it
                Progress(180).until(lambda: self.api.get(kinds.NAMESPACE, name) is None or None, every=1)

    def back(self, program: str, seconds: float) -> None:
        """Starts a program of the control plane again that was stopped. One that ends at once is started anew: another one may have its port for a moment."""
        until = time.monotonic() + seconds
        while True:
            try:
                return self.cluster.start_process(program, seconds)  # type: ignore[no-any-return]
            except RuntimeError:
                if time.monotonic() > until:
                    raise
                time.sleep(1)

    def close(self) -> None:
        """Its connection, where there was one."""
        close(self)

    def audit(self) -> list[dict[str, Any]]:
        """Every request that the API server answered."""
        return list(self.cluster.audit_events())


def close(owner: Lab | Place) -> None:
    """The connection of a lab or a place, where one was needed."""
    if made := owner.__dict__.get("api"):
        made.close()


def refused() -> str:
    """Why there is no control plane for tests; empty when there is one."""
    if folder := os.environ.get(KUBELAB):
        return "" if (Path(folder) / "kubelab.py").is_file() else f"{KUBELAB}={folder} is not a folder of kubelab"
    return "" if os.environ.get(KUBECONFIG) and os.environ.get(CONTEXT) else HOW


def insist(reason: str) -> None:
    """Skips for this reason, where there is one; fails where nothing may be skipped (tests/kubernetes/fixtures.py)."""
    if reason:
        pytest.skip(reason if nothing_may_be_skipped() else reason.partition(":")[0])


def nothing_may_be_skipped() -> bool:
    """As in CI."""
    return os.environ.get(REQUIRED) == "1"


@contextlib.contextmanager
def started(folder: Path, **options: Any) -> Iterator[Lab]:
    """A cluster with these options of kubelab (nodes, kuberay, ray_venv, audit, …) until the end of the block; or the one that is there."""
    insist(refused())
    if not os.environ.get(KUBELAB):
        with contextlib.closing(Lab(Path(os.environ[KUBECONFIG]), os.environ[CONTEXT])) as there:
            yield there
        return
    processes = {"ray_venv": tools(folder / "tools"), "ray_types": ()} if os.geteuid() == 0 else {}
    cluster = kubelab().Cluster(folder, **{**processes, "audit": True, "max_grace": GRACE, **options})
    _start(cluster)
    try:
        with contextlib.closing(Lab(cluster.kubeconfig, yaml.safe_load(cluster.kubeconfig.read_text())["current-context"], cluster)) as made:
            yield made
    finally:
        cluster.stop()


def _start(cluster: Any) -> None:
    """A machine that stands still for half a minute lets a start fail; the next one begins from nothing."""
    for last in (False, True):
        try:
            cluster.start(START_SECONDS)
            return
        except (OSError, RuntimeError, kubelab().ApiError):
            if last:
                raise


def insist_on_processes() -> None:
    """For tests whose pods must really run, and those whose faults only a cluster of our own has."""
    if not refused() and not os.environ.get(KUBELAB):
        insist(f"needs pods that are processes of this machine: {KUBELAB}")
    insist(refused() or ("" if os.geteuid() == 0 else "needs root, for the pods' network namespaces"))


def kubelab() -> Any:
    """The module, from where the environment says."""
    folder = os.environ[KUBELAB]
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module("kubelab")


def tools(folder: Path, venv: Path | None = None) -> Path:
    """What stands in for images: `bin` has haproxy, and all that a virtual environment has; or this Python, whose vLLM and Ray are scripted (tests/doubles/ray_engine.py, ray_cluster.py)."""
    (folder / "bin").mkdir(parents=True)
    for path in venv.iterdir() if venv else ():
        if path.name != "bin":
            (folder / path.name).symlink_to(path)
    for path in (venv / "bin").iterdir() if venv else ():
        (folder / "bin" / path.name).symlink_to(path)
    ours = {"haproxy": str(router.binary())} | ({} if venv else {"python3": sys.executable, "python": sys.executable, "ray": f"{sys.executable} {ray_cluster.__file__}"})
    for name, path in ours.items():
        (folder / "bin" / name).unlink(missing_ok=True)
        scripted = "" if venv or not name.startswith("python") else f'[ "$2" != vllm.entrypoints.openai.api_server ] || exec {path} {ray_engine.__file__} "$@"\n'
        (folder / "bin" / name).write_text(f'#!/bin/sh\n{scripted}exec {path} "$@"\n')
        (folder / "bin" / name).chmod(0o755)
    return folder


def first_process(pod: str) -> int:
    """Process 1 of a pod that is a process, as this machine sees it: all that is in its container dies with it."""
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and f"HOSTNAME={pod}".encode() in (folder / "environ").read_bytes().split(b"\0") and re.search(r"(?m)^NSpid:.*\s1$", (folder / "status").read_text()):
                return int(folder.name)
    raise AssertionError(f"nothing runs in {pod}")


def crds() -> Path:
    """KubeRay's definitions, of all versions that we know, beside the lab."""
    insist(refused())
    path = Path(os.environ.get(KUBELAB, "/nowhere")).parent / "data" / "kuberay_crds.tar.xz"
    insist("" if path.is_file() else f"there is no archive of KubeRay's definitions: {path}")
    return path


def product_image() -> Path:
    """The engine's virtual environment, as the local platform builds it: from the shared cache, built by the first who needs it."""
    cache = Path(os.environ.get("LLM_PIPELINE_CACHE") or settings.ROOT / ".llm-pipeline" / "cache")
    image = local.platform(settings.load(home=cache.parent, cache=cache)).image
    return Path(image.apply(release(image=image.resolve(spec(), Progress(60))), Progress(900)).where)


def real_tools(folder: Path) -> Path:
    """As `tools`, with the real engine; gone again with `shutil.rmtree`."""
    shutil.rmtree(folder, ignore_errors=True)
    return tools(folder, product_image())
