"""What a teardown removes of a model and of a cluster, leaf to root, and how its absence is proved. Works from records and platform alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from assets.drain import drain
from assets.step import Cluster
from infra.decisions import Decisions
from infra.errors import Problem
from infra.platform import Platform, Release, model_of
from infra.specs import ClusterSpec
from infra.states import Leftover, Route
from infra.waiting import Progress

STAGES = ("gpu_nodepool", "ray_service", "smoke_test", "endpoint")
"""Whose locks are held while a model is removed."""

Wipe = Callable[[dg.AssetKey], object]
"""Empties the page of an asset that is no more."""


@dataclass
class Report:
    """What was removed, what is kept (with its size), what is left. `evidence`: why nobody was asked."""

    removed: list[dict[str, Any]] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)
    left: list[dict[str, Any]] = field(default_factory=list)
    evidence: str = ""

    def took(self, part: str, name: str, what: str) -> None:
        self.removed.append({"part": part, "id": name, "what": what})


def clear_model(decisions: Decisions, platform: Platform, report: Report, progress: Progress, wipe: Wipe) -> None:
    """What runs is drained and stopped, its routes and its room go. Under the locks of STAGES."""
    model, served, live = decisions.model, served_releases(decisions), decisions.live
    record = decisions.release(live.release) if live else None
    if record:
        drain(platform, record.release, progress)
    for state in platform.ray_service.running(model):
        platform.ray_service.remove(state.release, progress)
        report.took("ray_service", state.release, f"Ray head, engine and their folders ({state.phase})")
    wipe(dg.AssetKey([model, "ray_service"]))
    remove_routes(platform, model, served, record.release if record else None, report, progress)
    for release in served:
        platform.gpu_nodepool.delete(release, progress)
    for stage in ("endpoint", "gpu_nodepool"):
        wipe(dg.AssetKey([model, stage]))


def clear_cluster(cluster: Cluster, report: Report, progress: Progress, goes: Callable[[Leftover], bool]) -> None:
    """What is left of the whole place, and its identity. Under the lock of the cluster."""
    platform = cluster.platform
    platform.cluster.delete(ClusterSpec.model_construct(name=cluster.name), progress)
    for found in platform.inventory.find():
        if goes(found):
            platform.inventory.remove(found, progress)
            report.took(found.part, found.id, found.why_ours)
    platform.records.delete(cluster.name, "identity")


def close_routes(platform: Platform, decisions: Decisions, progress: Progress) -> None:
    """Nothing new reaches what is about to go."""
    progress.phase("route", decisions.model)
    for name in own_names(platform, decisions.model, served_releases(decisions)):
        platform.endpoint.closed(decisions.model, name, 0, "taken down", progress)


def models_on(platform: Platform, cluster: Cluster) -> list[str]:
    """Declared ones, and everything that records or the platform itself know."""
    known = {*cluster.models, *(name for name in platform.records.owners() if platform.records.get(name, "deployment"))}
    known |= {found.model for found in platform.inventory.find() if found.model}
    return sorted(known - {cluster.name})


def served_releases(decisions: Decisions) -> list[Release]:
    """Every release whose name the router may know."""
    return [record.release for record in decisions.releases().values()]


def remove_routes(platform: Platform, model: str, served: Iterable[Release], live: Release | None, report: Report, progress: Progress) -> None:
    """The endpoint forgets the names; a router ends with the last of them. Only a release that was live had a route to report."""
    for name in own_names(platform, model, served):
        platform.endpoint.delete(Route(model, name, "", ("127.0.0.1", 0)), progress)
        if live and live.served_name == name:
            report.took("endpoint", name, "its route in the router" if platform.endpoint.counts else "its Service")


def own_names(platform: Platform, model: str, served: Iterable[Release]) -> list[str]:
    """The served names of a model's releases, but for those that the router sends to another model meanwhile."""

    def elsewhere(name: str) -> bool:
        seen = platform.endpoint.observe(Route(model, name, "", ("127.0.0.1", 0)))
        return bool(seen and seen.release and model_of(seen.release) != model)

    return [name for name in sorted({release.served_name for release in served}) if not elsewhere(name)]


def end_attempts(decisions: Decisions, why: str) -> None:
    """Tries that a killed run left open, or that wait for a person, are over; that of a living one ends itself in the same words."""
    for name, record in decisions.releases().items():
        if record.last and record.last.result in ("running", "waiting"):
            decisions.finish(name, record.last.run, "cancelled", Problem(why))


def keep(platform: Platform, report: Report) -> None:
    """Lists the data that stays."""
    report.kept = [{"what": f"{found.part} {found.id}", "bytes": found.bytes, "usd_per_month": _monthly(found.usd_per_hour)} for found in platform.inventory.find() if found.data]


def _monthly(usd_per_hour: float | None) -> float | None:
    """A twelfth of a year."""
    return None if usd_per_hour is None else round(usd_per_hour * 730, 2)


def prove_absence(platform: Platform, ours: Callable[[Leftover], bool], report: Report, progress: Progress) -> None:
    """Two looks with a pause between; what the second one sees is left."""
    progress.phase("proof", "looking twice")
    for look in (1, 2):
        report.left = [{"part": found.part, "id": found.id, "what": found.why_ours} for found in platform.inventory.find() if ours(found)]
        if report.left or look == 2:
            return
        progress.sleep(platform.sweep_pause)
