"""The frame of every stage: guard, identity, lock, observe, change, report. Exists once; a stage only says what its change is.

    guard      is the model wanted? A run that waited in the queue while somebody said `down` does nothing, and says so
    plan       which release this run works on: asked once per run, stored in `attempt/<run>`
    lock       one per (model, part), in the target itself: it dies with its holder
    report     a phase as an observation when it begins, its details as log lines; an explicit data version at the end
    fail well  the four parts on the page; the attempt ends, and the release is marked when trying again can't help
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import DagsterExecutionInterruptedError

from assets.workers import TAG_WORKER
from infra.decisions import Decisions
from infra.documents import Deployment, Lap, ReleaseRecord, RunPlan
from infra.errors import Blocked, ConfigError, Conflict, Denied, Permanent, PipelineError, Problem, Refused, Transient, Withdrawn
from infra.platform import Platform, Release
from infra.situation import desired
from infra.specs import ClusterSpec, ModelSpec
from infra.states import ClusterState
from infra.waiting import Phase, Progress

STEP_TIMEOUT = 3600.0
"""Seconds that one step may take: weights over a slow line take longest. `up --timeout` sets it per run."""

DETAIL_EVERY = 5.0
"""Seconds between two log lines about the same phase."""

TAG_BY, TAG_WHY, TAG_MODEL, TAG_ACTION, TAG_RELEASE, TAG_TIMEOUT = "llm/by", "llm/why", "llm/model", "llm/lifecycle", "llm/release", "llm/timeout"
TAG_RUNG, TAG_QUIET = "llm/rung", "llm/quiet"
"""Of a run that puts a model to sleep: how deep, and since when nobody used it (Unix seconds; without it nobody asks for evidence)."""
TAG_SAW, TAG_ACT = "llm/saw", "llm/act"
"""Which release was live when the loop decided on this run (empty: none), and the number of its verdict."""


@dataclass(frozen=True)
class Model:
    """A declared model on its platform. `base`: the folder of its YAML."""

    spec: ModelSpec
    base: Path
    platform: Platform
    cluster: ClusterSpec
    file: str = ""

    @property
    def name(self) -> str:
        return self.spec.name

    def key(self, stage: str) -> dg.AssetKey:
        return dg.AssetKey([self.name, stage])

    @property
    def cluster_key(self) -> dg.AssetKey:
        return dg.AssetKey([self.spec.cluster, "cluster"])


@dataclass(frozen=True)
class Cluster:
    """A declared cluster on its platform."""

    spec: ClusterSpec
    platform: Platform
    models: tuple[str, ...] = ()
    file: str = ""

    @property
    def name(self) -> str:
        return self.spec.name

    def key(self, stage: str) -> dg.AssetKey:
        return dg.AssetKey([self.name, stage])


@dataclass(frozen=True)
class Run:
    """Who launched this run, why, and when."""

    id: str
    launched: float
    by: str
    why: str
    action: str
    release: str | None
    worker: str = ""
    """The process that works on it (infra/workers.py); empty when it did not say."""
    saw: str | None = None
    """Which release was live when the loop decided on it (empty: none). None: a person did."""
    act: int | None = None
    """The number of the verdict that asked for it. None: a person did."""
    number_of: Callable[[str], int | None] = lambda _: None
    """Dagster's number of a run, in the order in which they were launched; None when it doesn't know it."""

    def before(self, decision: Deployment) -> bool:
        """Whether it was launched before this decision: by Dagster's numbers, which no clock turns back; by time where it can't tell."""
        mine, other = self.number_of(self.id), self.number_of(decision.run) if decision.run else None
        return mine < other if mine is not None and other is not None else self.launched < decision.since

    @property
    def by_loop(self) -> bool:
        return self.by == "reconcile"


@dataclass(frozen=True)
class Done:
    """What a stage reports: the data version, whether anything was changed, what a person wants to know, and how many bytes it moved."""

    data_version: str
    changed: bool
    page: Mapping[str, Any] = field(default_factory=dict)
    bytes: int = 0


@dataclass
class Work:
    """One stage of one run at work."""

    context: Any
    model: Model
    stage: str
    run: Run
    decisions: Decisions
    progress: Progress
    _plan: Release | None = None

    @property
    def platform(self) -> Platform:
        return self.model.platform

    def say(self, text: str) -> None:
        """One line in the run's log."""
        self.context.log.info(text)

    @property
    def release(self) -> Release:
        """What this run works on; decided by the first step that asks, the same for all later ones."""
        if self._plan is None:
            self._plan = planned(self.decisions, self.model, self.run, self.progress)
        return self._plan

    @property
    def record(self) -> ReleaseRecord | None:
        return self.decisions.release(self.release.id)

    @property
    def live(self) -> Release | None:
        """The release that the router serves, by record."""
        found = self.decisions.live
        record = self.decisions.release(found.release) if found else None
        return record.release if record else None

    def begin(self) -> None:
        """Something has to change for this release: its attempt begins (the same within one run)."""
        self.decisions.remember(self.release)
        self.decisions.begin(self.release.id, self.run.id, self.run.by, self.run.why)

    @property
    def begun(self) -> bool:
        """Whether this run changed something for its release already."""
        record = self.record
        return bool(record and record.last and record.last.run == self.run.id)


def step(context: Any, model: Model, stage: str, act: Callable[[Work], Done]) -> Iterator[Any]:
    """One stage, whole. Yields one MaterializeResult, or nothing when the model is not wanted any more."""
    work = start(context, model, stage)
    if work is None:
        return
    with told(work):
        began = time.time()
        with model.platform.records.lock(f"{model.name}.{stage}", f"run {work.run.id[:8]}", work.progress):
            prove_identity(work)
            done = act(work)
            lap(work, done, time.time() - began)
        work.progress.end()
        yield dg.MaterializeResult(
            asset_key=model.key(stage),
            data_version=dg.DataVersion(done.data_version),
            metadata=page(done, time.time() - began, work.progress.seconds()),
        )


def lap(work: Work, done: Done, seconds: float) -> None:
    """How long it took is what the next plan expects. Of a start the phases are recorded, which tell more."""
    if done.changed and work.stage != "ray_service":
        work.decisions.lap(work.stage, Lap(seconds=round(seconds, 2), bytes=done.bytes))


def start(context: Any, model: Model, stage: str) -> Work | None:
    """The guard, and what the rest of the step needs. None: nothing is to be done."""
    run = run_of(context)
    decisions = Decisions(model.platform.records, model.name)
    if run.act:
        decisions.acted(run.act, run=run.id)
    if stage != "deployment" and not guard(context, decisions, run):
        decisions.over(run.id, "nothing to do")
        return None
    timeout = float(context.run.tags.get(TAG_TIMEOUT, STEP_TIMEOUT))
    progress = Progress(timeout, report=reporter(context, model.key(stage)), stop=lambda: withdrawn(decisions, run), ask_every=model.platform.ask_every)
    return Work(context, model, stage, run, decisions, progress)


def run_of(context: Any) -> Run:
    """Facts of the run from its tags and its record; a click in the UI leaves no tags."""
    tags = context.run.tags

    def number_of(run: str) -> int | None:
        found = context.instance.get_run_record_by_id(run)
        return found.storage_id if found else None

    record = context.instance.get_run_record_by_id(context.run.run_id)
    launched = record.create_timestamp.timestamp() if record else time.time()
    return Run(
        context.run.run_id, launched, tags.get(TAG_BY, "dagster ui"), tags.get(TAG_WHY, "materialised by hand"), tags.get(TAG_ACTION, "deploy"), tags.get(TAG_RELEASE),
        (record.dagster_run.tags if record else tags).get(TAG_WORKER, ""),  # the step's own copy may be older than the tag
        tags.get(TAG_SAW), int(tags[TAG_ACT]) if TAG_ACT in tags else None, number_of,
    )  # fmt: skip


def guard(context: Any, decisions: Decisions, run: Run) -> bool:
    """Whether the model is wanted. False: this run is older than the last `down`, or was overtaken. Raises when nobody ever wanted it."""
    found = decisions.deployment
    if found and found.wanted:
        return not overtaken(context, decisions, run)
    if found and run.before(found):
        context.log.warning(f"{decisions.model} was taken down by {found.by} while this run waited: nothing to do")
        return False
    problem = ConfigError(
        f"nobody wants {decisions.model}", why="its asset `deployment` was not materialised, or the model was taken down",
        next=f"materialise deployment too, or: llm-pipeline up {decisions.model}",
    )  # fmt: skip
    raise failure(problem)


def overtaken(context: Any, decisions: Decisions, run: Run) -> bool:
    """Whether another run moved the traffic between the loop's decision and this step: the loop looks again, and what it sees then counts."""
    if run.saw is None:
        return False
    found = decisions.live
    live = found.release if found else ""
    if live in (run.saw, run.release):
        return False
    context.log.warning(f"{decisions.model} is served by {live or 'nothing'} by now, not by {run.saw or 'nothing'} as when this run was decided on: nothing to do")
    return True


def withdrawn(decisions: Decisions, run: Run) -> None:
    """Raises Withdrawn when somebody said `down` after this run was launched."""
    found = decisions.deployment
    if found and not found.wanted and run.before(found):
        raise Withdrawn(f"{decisions.model} was taken down by {found.by}")


def planned(decisions: Decisions, model: Model, run: Run, progress: Progress) -> Release:
    """The release of this run, stored at the first asking."""
    name = f"attempt/{run.id}"
    stored = decisions.read(RunPlan, name)
    if stored is None:
        release = desired(decisions, model.platform, model.spec, model.base, progress, named=run.release)
        decisions.remember(release)
        plan = RunPlan(release=release.id, by=run.by, why=run.why, at=time.time())
        try:
            decisions.records.put(model.name, name, plan.model_dump(mode="json"), None)
        except Conflict:
            return planned(decisions, model, run, progress)
        return release
    record = decisions.release(stored.release)
    if record is None:
        raise ConfigError(f"the record of release {stored.release} is gone", next=f"llm-pipeline up {model.name}")
    return record.release


def prove_identity(work: Work) -> None:
    """The place is the one that the cluster asset recorded. No default ever stands in for an identity."""
    cluster = work.model.spec.cluster
    recorded = work.platform.records.get(cluster, "identity")
    if recorded is None:
        raise Blocked(f"cluster {cluster} was never materialised", next=f"llm-pipeline up {work.model.name} (brings its cluster along)")
    found = work.platform.cluster.observe(work.model.cluster)
    compare_identity(cluster, recorded.value.get("identity", {}), found)


def compare_identity(cluster: str, recorded: Mapping[str, str], found: ClusterState | None) -> None:
    """Raises Blocked with both values when they differ: no release is to blame."""
    if found is None or dict(found.identity) != dict(recorded):
        raise Blocked(
            f"cluster {cluster} is not the place that it was", why=f"recorded {dict(recorded)}, found {dict(found.identity) if found else 'nothing'}",
            next=f"if it moved on purpose, materialise {cluster}/cluster; it records the new identity",
        )  # fmt: skip


@contextmanager
def told(work: Work) -> Iterator[None]:
    """Turns what happens into the end of the attempt and into a Dagster failure with the four parts."""
    try:
        yield
    except Withdrawn as error:
        close(work, "cancelled", error.problem)
        work.context.log.warning(f"{error.problem.what}: this step ends; nothing more is changed")
    except Refused as error:
        raise failure(error) from error
    except Blocked as error:
        close(work, "failed", error.problem, begin=False)
        raise failure(error) from error
    except Permanent as error:
        denied = isinstance(error, Denied)
        close(work, "failed", error.problem, mark=not denied and (not isinstance(error, ConfigError) or work.stage != "endpoint"), transient=denied)
        raise failure(error) from error
    except PipelineError as error:
        close(work, "failed", error.problem, transient=True)
        raise failure(error) from error
    except DagsterExecutionInterruptedError:
        close(work, "cancelled", Problem("a person ended the run", next=f"llm-pipeline up {work.model.name} goes on; what serves was not touched"), mark=True)
        raise


def close(work: Work, result: Any, problem: Problem, *, mark: bool = False, transient: bool = False, begin: bool = True) -> None:
    """Ends the attempt of this run with its reason, and gives the rollout free. `begin`: a run that had none yet gets one."""
    plan = work.decisions.read(RunPlan, f"attempt/{work.run.id}")
    work.decisions.over(work.run.id, result)
    if plan is None:
        return
    if result == "failed" and begin and not work.begun:
        work.begin()
    work.decisions.finish(plan.release, work.run.id, result, problem, mark=mark, transient=transient)


def failure(error: PipelineError) -> dg.Failure:
    """The four parts as Dagster shows them. Never retried by Dagster: the loop does that, with its back-off."""
    parts = {name: dg.MetadataValue.text(value) for name, value in error.problem.as_dict().items() if value}
    return dg.Failure(description=error.problem.text(), metadata={**parts, "transient": isinstance(error, Transient), "exit_code": error.exit_code}, allow_retries=False)


def reporter(context: Any, key: dg.AssetKey) -> Callable[[Phase], None]:
    """Phases become observations (one row each), details log lines."""
    state: dict[str, Any] = {"name": "", "at": 0.0}

    def report(phase: Phase) -> None:
        if phase.name != state["name"]:
            metadata: dict[str, Any] = {"phase": phase.name, "detail": phase.detail, "at": dg.MetadataValue.timestamp(phase.started)}
            context.log_event(dg.AssetObservation(key, metadata=metadata))
            state.update(name=phase.name, at=time.monotonic())
        elif time.monotonic() - state["at"] >= DETAIL_EVERY:
            context.log.info(f"{phase.name}: {phase.detail}")
            state["at"] = time.monotonic()

    return report


def page(done: Done, seconds: float, phases: Mapping[str, float]) -> dict[str, Any]:
    """Metadata of a materialisation: numbers first, so that the plots build themselves."""
    rows = [dg.TableRecord({"phase": name, "seconds": took}) for name, took in phases.items() if took >= 0.05]
    out: dict[str, Any] = {"seconds": round(seconds, 2), "changed": done.changed, **done.page}
    if rows:
        out["phases"] = dg.MetadataValue.table(rows, schema=dg.TableSchema([dg.TableColumn("phase"), dg.TableColumn("seconds", "float")]))
    return out


def insist_on_life(work: Work, during: str, why: str | None = None) -> None:
    """Raises Transient when the release of this run is dead: it gave no answer to judge, and gives none however long one waits."""
    state = work.platform.ray_service.observe(work.release)
    if state is None or state.phase == "dead":
        raise Transient(
            f"{work.release.name} died while {during}", why=why or (state.problem.what if state and state.problem else None),
            next=f"llm-pipeline up {work.model.name} tries it again; its log: llm-pipeline logs {work.model.name} --release {work.release.id}",
            log=state.problem.why if state and state.problem else None,
        )  # fmt: skip
