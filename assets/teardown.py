"""teardown: a model or a cluster goes away, leaf to root, and that nothing is left is proved by looking, not by remembering.

    1  `deployment` is withdrawn first: it disarms the loop, and every wait of a rollout ends within two seconds
    2  the route is closed, what runs is drained
    3  services, route, nodepool: each under its own lock, each wiped in Dagster once its absence is confirmed
    4  data (weights, images, records) is kept and listed, or removed with `purge`
    5  two looks at the whole inventory; anything that is left fails the run

A job, never a materialisation: "Materialize all" must not destroy. Works from records and platform alone: no YAML is needed.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import dagster as dg

from assets.step import Cluster, Run, drain, failure, run_of
from assets.workers import noted
from infra.decisions import Decisions
from infra.errors import Blocked, ConfigError, PipelineError, Problem, Transient
from infra.platform import Platform, Release, model_of
from infra.retention import Kept, remembered
from infra.specs import ClusterSpec
from infra.states import Leftover, Route
from infra.waiting import Progress

CEASE = ("endpoint", "ray_service", "gpu_nodepool", "deployment")
"""Assets that cease to exist with the model, leaf to root. Weights, image and smoke_test keep their evidence."""

TIMEOUT = 900.0


class TeardownConfig(dg.Config):
    """`name`: a model or a cluster, a plain string, since it may be one that no YAML declares any more."""

    name: str
    include_models: bool = False
    purge: bool = False


@dataclass
class Report:
    """What was removed, what is kept (with its size), what is left."""

    removed: list[dict[str, Any]] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)
    left: list[dict[str, Any]] = field(default_factory=list)

    def took(self, part: str, name: str, what: str) -> None:
        self.removed.append({"part": part, "id": name, "what": what})


def build(clusters: Mapping[str, Cluster]) -> dg.Definitions:
    """The job `teardown`. One op: it takes each part's lock in turn and can be run again at any point."""

    @dg.op(name="tear_down", tags={"dagster/max_retries": "2"})
    def tear_down(context: dg.OpExecutionContext, config: TeardownConfig) -> None:
        run = run_of(context)
        wipe = lambda key: context.instance.wipe_assets([key])  # noqa: E731
        progress = Progress(TIMEOUT, report=lambda phase: context.log.info(f"{phase.name}: {phase.detail}"))
        try:
            cluster, is_cluster = find(config.name, clusters)
            if is_cluster:
                report = take_cluster_down(cluster, config, run, progress, wipe)
            else:
                report = take_model_down(cluster.platform, config.name, run, progress, wipe, purge=config.purge)
        except PipelineError as error:
            raise failure(error) from error
        tell(context, config.name, report)

    @dg.job(
        name="teardown", tags={"llm/lifecycle": "teardown", "dagster/max_retries": "2"}, executor_def=noted(dg.in_process_executor),
        description="Takes a model or a cluster down and proves that nothing is left. Weights, images and history are kept unless `purge` is said.",
    )  # fmt: skip
    def teardown() -> None:
        tear_down()

    return dg.Definitions(jobs=[teardown])


def find(name: str, clusters: Mapping[str, Cluster]) -> tuple[Cluster, bool]:
    """The cluster of this name, or the one whose records or processes know the model of this name."""
    if name in clusters:
        return clusters[name], True
    if declared := next((cluster for cluster in clusters.values() if name in cluster.models), None):
        return declared, False
    for cluster in clusters.values():
        platform = cluster.platform
        if name in platform.records.owners() or any(found.model == name for found in platform.inventory.find()):
            return cluster, False
    raise ConfigError(f"nothing is called {name}", why=f"no cluster, no declared model and no record has this name (clusters: {', '.join(sorted(clusters)) or 'none'})", next="llm-pipeline status")


def take_model_down(
    platform: Platform, model: str, run: Run, progress: Progress, wipe: Callable[[dg.AssetKey], object], *, purge: bool = False
) -> Report:
    """One model, leaf to root. Absent already: an empty report."""
    decisions, report, by = Decisions(platform.records, model), Report(), run.by
    insist_on_the_last_word(decisions, run)
    decisions.want(False, by, run.id)
    wipe(dg.AssetKey([model, "deployment"]))
    progress.phase("route", model)
    for name in own_names(platform, model, served_releases(decisions)):
        platform.endpoint.closed(model, name, 0, "taken down", progress)
    with contextlib.ExitStack() as locks:
        for stage in ("gpu_nodepool", "ray_service", "smoke_test", "endpoint"):
            locks.enter_context(platform.records.lock(f"{model}.{stage}", by, progress))
        insist_on_the_last_word(decisions, run)
        end_attempts(decisions, by)
        served, live = served_releases(decisions), decisions.live
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
        decisions.write("live", None)
        decisions.write("claim", None)
        decisions.write("outage", None)
        decisions.write("approval", None)
    data(platform, decisions, by, report, progress, purge=purge)
    prove_absence(platform, lambda found: found.model == model and not found.data and not decisions.wanted, report, progress)
    return report


def insist_on_the_last_word(decisions: Decisions, run: Run) -> None:
    """Raises Blocked when somebody said `up` after this `down` was launched: the later word counts, and that rollout is under way."""
    found = decisions.deployment
    if found and found.wanted and found.run and run.before(found):
        raise Blocked(f"{decisions.model} was asked for again by {found.by} after this down", next=f"llm-pipeline down {decisions.model}, if it shall go all the same")


def end_attempts(decisions: Decisions, by: str) -> None:
    """Tries that a killed run left open, or that wait for a person, are over; that of a living one ends itself in the same words."""
    for name, record in decisions.releases().items():
        if record.last and record.last.result in ("running", "waiting"):
            decisions.finish(name, record.last.run, "cancelled", Problem(f"{decisions.model} was taken down by {by}"))


def take_cluster_down(cluster: Cluster, config: TeardownConfig, run: Run, progress: Progress, wipe: Callable[[dg.AssetKey], object]) -> Report:
    """Its models first; refuses while one is wanted, unless told to include them."""
    platform, report = cluster.platform, Report()
    models = models_on(platform, cluster)
    wanted = [name for name in models if Decisions(platform.records, name).wanted]
    if wanted and not config.include_models:
        raise Blocked(f"cluster {cluster.name} carries wanted models: {', '.join(wanted)}", next=f"llm-pipeline down --cluster {cluster.name} --include-models")
    for name in models:
        one = take_model_down(platform, name, run, progress, wipe, purge=config.purge)
        report.removed += one.removed
    with platform.records.lock(f"{cluster.name}.cluster", run.by, progress):
        platform.cluster.delete(ClusterSpec.model_construct(name=cluster.name), progress)
        for found in platform.inventory.find():
            if not found.data or (config.purge and not shared(platform, found)):
                platform.inventory.remove(found, progress)
                report.took(found.part, found.id, found.why_ours)
        platform.records.delete(cluster.name, "identity")
        if config.purge:
            platform.records.purge(cluster.name)
    wipe(dg.AssetKey([cluster.name, "cluster"]))
    keep(platform, report)
    prove_absence(platform, lambda found: not found.data, report, progress)
    return report


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


def data(platform: Platform, decisions: Decisions, by: str, report: Report, progress: Progress, *, purge: bool) -> None:
    """Weights, image and records: kept and listed, or removed unless another model (or another home) uses them."""
    if purge:
        with contextlib.ExitStack() as locks:
            for stage in ("model_weights", "image"):
                locks.enter_context(platform.records.lock(f"{decisions.model}.{stage}", by, progress))
            remove_data(platform, decisions, report, progress)
    keep(platform, report)


def remove_data(platform: Platform, decisions: Decisions, report: Report, progress: Progress) -> None:
    """What nobody else remembers."""
    others = other_kept(platform, decisions.model)
    weights, images = {other.manifest.digest for other in others}, {other.image for other in others}
    for record in decisions.releases().values():
        release = record.release
        if release.manifest.digest not in weights and not shared_blindly(platform):
            platform.model_weights.delete(release, progress)
            report.took("model_weights", release.manifest.digest[:16], f"weights of revision {release.revision[:12]}")
        if release.image not in images and not shared_blindly(platform):
            platform.image.delete(release, progress)
            report.took("image", release.image, "the engine's environment")
    platform.records.purge(decisions.model)
    report.took("records", decisions.model, "decisions and history")


def other_kept(platform: Platform, model: str) -> list[Kept]:
    """What all other models remember, wanted or not, here and in every other home that shares the store."""
    own = [(platform.records, name) for name in platform.records.owners() if name != model]
    theirs = [(sharer.records, name) for sharer in platform.inventory.sharers() if sharer.records for name in sharer.records.owners()]
    return [kept for records, name in (*own, *theirs) for kept in remembered(records, name)]


def shared_blindly(platform: Platform) -> bool:
    """Whether a home shares the store whose needs can not be read: then everything is in use."""
    return any(sharer.records is None for sharer in platform.inventory.sharers())


def shared(platform: Platform, found: Leftover) -> bool:
    """Whether this folder of the store is somebody else's too; then only what no one needs goes, model by model."""
    return found.part in ("model_weights", "image") and bool(platform.inventory.sharers())


def keep(platform: Platform, report: Report) -> None:
    """Lists the data that stays."""
    report.kept = [{"what": f"{found.part} {found.id}", "bytes": found.bytes, "usd_per_month": 0.0} for found in platform.inventory.find() if found.data]


def prove_absence(platform: Platform, ours: Callable[[Leftover], bool], report: Report, progress: Progress) -> None:
    """Two looks with a pause between; what the second one sees is left."""
    progress.phase("proof", "looking twice")
    for look in (1, 2):
        report.left = [{"part": found.part, "id": found.id, "what": found.why_ours} for found in platform.inventory.find() if ours(found)]
        if report.left or look == 2:
            return
        progress.sleep(platform.sweep_pause)


def tell(context: Any, name: str, report: Report) -> None:
    """The report as an asset; a run that left something fails."""
    metadata = {
        "removed": dg.MetadataValue.json(report.removed), "kept": dg.MetadataValue.json(report.kept), "left": dg.MetadataValue.json(report.left),
        "n_removed": len(report.removed), "n_left": len(report.left), "kept_bytes": sum(row["bytes"] for row in report.kept),
    }  # fmt: skip
    context.log_event(dg.AssetMaterialization(dg.AssetKey([name, "teardown_report"]), metadata=metadata))
    if report.left:
        raise failure(Transient(
            f"{len(report.left)} things of {name} are left", why="; ".join(f"{row['part']} {row['id']}" for row in report.left[:5]),
            next=f"llm-pipeline down {name} (it goes on where it stopped), or: llm-pipeline leftovers --delete",
        ))  # fmt: skip


def leftovers(platform: Platform, cluster: str, declared: Iterable[str] | None = None) -> tuple[Leftover, ...]:
    """What exists and should not: things of models that nobody wants, and candidates that no rollout claims and that wait for nobody.

    `declared`: what serves and is wanted, yet missing here, is shown too. Leave it out before removing anything: a YAML may be
    away for a moment only, and `down` is the word that takes a model down.
    """
    names = None if declared is None else set(declared)
    wanted = {name for name in platform.records.owners() if Decisions(platform.records, name).wanted}
    out = []
    for found in platform.inventory.find():
        if found.data:
            continue
        if found.model in wanted and found.release:
            decisions = Decisions(platform.records, found.model)
            known = (decisions.live, decisions.claim(time.time()), decisions.approval)
            if found.release.rsplit("-", 1)[-1] in {one.release for one in known if one}:
                if names is not None and found.model not in names:
                    out.append(replace(found, why_ours=f"no YAML declares {found.model}, and it is still wanted: llm-pipeline down {found.model}"))
                continue
        elif found.part == "endpoint" and (found.model in wanted if found.model and not platform.endpoint.counts else wanted):
            continue
        out.append(found)
    return tuple(out)


def watch(cluster: Cluster) -> dg.Definitions:
    """`leftovers` of one cluster: the observed inventory, on the page and never materialised."""

    @dg.observable_source_asset(
        key=cluster.key("leftovers"), group_name=cluster.name, description="Anything of ours that exists although nobody wants it. `llm-pipeline leftovers --delete` removes it.",
    )  # fmt: skip
    def observed(context: dg.OpExecutionContext) -> dg.ObserveResult:
        found = leftovers(cluster.platform, cluster.name)
        rows = [dg.TableRecord({"part": f.part, "id": f.id, "model": f.model or "", "why ours": f.why_ours}) for f in found]
        return dg.ObserveResult(data_version=dg.DataVersion(str(len(found))), metadata={"count": len(found), "things": dg.MetadataValue.table(rows) if rows else "none"})

    return dg.Definitions([observed])


