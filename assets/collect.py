"""collect: what nobody needs any more goes, and why the rest stays is written down.

    1  the locks of every stage that fetches weights or makes images, in every home that shares the store: nobody is about to need something
    2  what each release is needed for, read from records and platform; a pure function says what goes (infra/retention.py)
    3  weights, images, unfinished downloads and builds, logs that are too long; plans of old runs; old runs in Dagster

A job and a daily schedule, never a materialisation. Killed anywhere, the next one goes on: each thing is removed by itself, its
proof of being whole first.
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from assets.step import TAG_MODEL, Cluster, Model, failure
from assets.workers import noted
from infra import retention
from infra.decisions import Decisions
from infra.errors import PipelineError, Timeout
from infra.platform import Platform, Records
from infra.retention import Facts, Kept, RunRow, Verdict
from infra.situation import desired
from infra.waiting import Progress

TIMEOUT, LOCK_SECONDS = 1800.0, 20.0
"""Seconds for one collection; and how long it waits for a stage that fetches or builds before it leaves weights and images for the next time."""

SCHEDULE = "0 4 * * *"
"""Every day at four, in UTC."""

RUNS_AT_ONCE = 500
"""Old runs forgotten in one collection."""

Over = Callable[[str], bool]
Declared = Mapping[str, Model]


@dataclass
class Report:
    """What went, what stays and why, bytes freed; `postponed`: why weights and images were left for the next time."""

    removed: list[dict[str, Any]] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)
    freed: int = 0
    plans: int = 0
    postponed: str = ""


def build(clusters: Mapping[str, Cluster], models: Declared) -> dg.Definitions:
    """The job `collect`, its schedule, and the assets where its reports lie."""

    @dg.op(name="collect_garbage")
    def collect_garbage(context: dg.OpExecutionContext) -> None:
        progress = Progress(TIMEOUT, report=lambda phase: context.log.info(f"{phase.name}: {phase.detail}"))
        over = ended_in(context.instance)
        try:
            for cluster in clusters.values():
                mine = {name: model for name, model in models.items() if model.spec.cluster == cluster.name}
                report = collect(cluster.platform, mine, over, progress)
                runs = forget_runs(context.instance, time.time())
                tell(context, cluster, report, runs)
        except PipelineError as error:
            raise failure(error) from error

    @dg.job(
        name="collect", tags={"llm/lifecycle": "collect"}, executor_def=noted(dg.in_process_executor),
        description="Removes weights and images that no release needs (release.keep_previous earlier ones stay), what was left half done, and old runs.",
    )  # fmt: skip
    def collect_job() -> None:
        collect_garbage()

    schedule = dg.ScheduleDefinition(
        name="collect", job=collect_job, cron_schedule=SCHEDULE, default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Every night: removes revisions, images and runs that nothing needs any more. What it did is in each cluster's `collection`.",
    )  # fmt: skip
    return dg.Definitions(jobs=[collect_job], schedules=[schedule])


def shelf(cluster: Cluster) -> dg.Definitions:
    """Where the reports of one cluster lie in the graph."""
    report = dg.AssetSpec(
        cluster.key("collection"), deps=[cluster.key("cluster")], group_name=cluster.name,
        description="What the last collection removed, what stays and why. Written by the job collect; never materialised by hand.",
    )  # fmt: skip
    return dg.Definitions([report])


def collect(platform: Platform, models: Declared, over: Over, progress: Progress) -> Report:
    """Removes what may go. Weights and images only while no stage fetches or builds."""
    report = Report()
    with contextlib.ExitStack() as locks:
        try:
            for records, name in stages(platform):
                locks.enter_context(records.lock(name, "collect", Progress(min(LOCK_SECONDS, progress.left))))
        except Timeout as error:
            report.postponed = error.problem.why or error.problem.what
        verdict = survey(platform, models, over, progress)
        sweep(platform, verdict, report, progress)
    forget_plans(platform, over, report)
    return report


def stages(platform: Platform) -> Iterator[tuple[Records, str]]:
    """The locks of all stages that may need something of the store, always in the same order, so that two collections never hold each other up."""
    homes = [("", platform.records), *((sharer.name, sharer.records) for sharer in platform.inventory.sharers() if sharer.records)]
    for _, records in sorted(homes, key=lambda home: home[0]):
        for owner in records.owners():
            for part in ("model_weights", "image"):
                yield records, f"{owner}.{part}"


def survey(platform: Platform, models: Declared, over: Over, progress: Progress) -> Verdict:
    """What would go and what stays. Changes nothing."""
    now = time.time()
    unreadable = [sharer.problem for sharer in platform.inventory.sharers() if sharer.records is None]
    kept: list[Kept] = []
    try:
        running = [state.release for state in platform.ray_service.running()]
        for owner in platform.records.owners():
            kept += retention.needed(facts_of(platform, owner, models.get(owner), running, over, progress), now)
        for sharer in platform.inventory.sharers():
            for owner in sharer.records.owners() if sharer.records else ():
                assert sharer.records is not None
                kept += retention.needed(retention.read(sharer.records, owner, now, running=sharer.running), now, home=sharer.name)
    except (PipelineError, ValueError) as error:
        unreadable.append(error.problem.what if isinstance(error, PipelineError) else str(error).splitlines()[0])
    known = {*platform.records.owners(), *models}
    return retention.judge(platform.inventory.held(), kept, known, "; ".join(unreadable))


def facts_of(platform: Platform, name: str, model: Model | None, running: list[str], over: Over, progress: Progress) -> Facts:
    """The facts of one model of this home; what is declared counts before what was recorded."""
    wanted = None
    if model:
        with contextlib.suppress(PipelineError):
            wanted = desired(Decisions(platform.records, name), platform, model.spec, model.base, progress).id
    return retention.read(
        platform.records, name, time.time(), running=running, keep=model.spec.release.keep_previous if model else None, desired=wanted, over=over,
    )  # fmt: skip


def sweep(platform: Platform, verdict: Verdict, report: Report, progress: Progress) -> None:
    """Removes one thing after the other; one that somebody works with stays for the next time."""
    for one in verdict.goes:
        held = one.held
        if report.postponed and held.part != "log":
            report.kept.append(row(held.part, held.id, held.what, held.bytes, f"postponed: {report.postponed}"))
            continue
        progress.phase("remove", f"{held.part} {held.id} ({held.what})")
        freed = platform.inventory.discard(held, progress)
        report.freed += freed
        report.removed.append(row(held.part, held.id, held.what, freed, one.why))
    report.kept += [row(one.held.part, one.held.id, one.held.what, one.held.bytes, one.why) for one in verdict.stays if one.held.part != "log"]


def row(part: str, name: str, what: str, size: int, why: str) -> dict[str, Any]:
    """One line of the report."""
    return {"part": part, "id": name, "what": what, "bytes": size, "why": why}


def forget_plans(platform: Platform, over: Over, report: Report) -> None:
    """Which release a run of long ago worked on is in that release's attempts."""
    now = time.time()
    for owner in platform.records.owners():
        with contextlib.suppress(PipelineError, ValueError):  # what can not be read stays; `survey` told of it
            for run in retention.old_plans(retention.read(platform.records, owner, now, over=over), now):
                platform.records.delete(owner, f"attempt/{run}")
                report.plans += 1


# ---------------------------------------------------------------- Dagster's own


def ended_in(instance: dg.DagsterInstance) -> Over:
    """Whether a run is known to have ended; one that Dagster does not know may go on."""

    def over(run: str) -> bool:
        found = instance.get_run_by_id(run)
        return bool(found and found.is_finished)

    return over


def forget_runs(instance: dg.DagsterInstance, now: float) -> int:
    """Old runs with their events, step logs and files. History, percentiles and reasons are in our records."""
    entries = [record.asset_entry for record in instance.get_asset_records()]
    shown = frozenset(entry.last_materialization_record.run_id for entry in entries if entry.last_materialization_record)
    old = retention.old_runs([run_row(record) for record in instance.get_run_records()], now, shown)
    for run in old[:RUNS_AT_ONCE]:
        forget_run(instance, run)
    return len(old[:RUNS_AT_ONCE])


def run_row(record: dg.RunRecord) -> RunRow:
    """Whose run it was: the model of its tag, else of its job."""
    run = record.dagster_run
    created = record.create_timestamp.timestamp()
    ended = (record.end_time or created) if run.is_finished else None
    return RunRow(run.run_id, run.tags.get(TAG_MODEL, run.job_name), created, ended)


def forget_run(instance: dg.DagsterInstance, run: str) -> None:
    """Its row goes last, so that a kill in between is made good by the next collection."""
    instance.compute_log_manager.delete_logs(prefix=[run])
    shutil.rmtree(Path(instance.storage_directory()) / run, ignore_errors=True)
    instance.event_log_storage.delete_events(run)
    shard = getattr(instance.event_log_storage, "path_for_shard", None)
    if shard:
        for end in ("", "-wal", "-shm"):
            Path(shard(run) + end).unlink(missing_ok=True)
    instance.run_storage.delete_run(run)


def tell(context: Any, cluster: Cluster, report: Report, runs: int) -> None:
    """The report as an asset."""
    metadata: dict[str, Any] = {
        "freed_bytes": report.freed, "n_removed": len(report.removed), "runs_forgotten": runs, "plans_forgotten": report.plans,
        "removed": dg.MetadataValue.json(report.removed), "kept": dg.MetadataValue.json(report.kept), "postponed": report.postponed or "nothing",
    }  # fmt: skip
    context.log_event(dg.AssetMaterialization(cluster.key("collection"), metadata=metadata))
