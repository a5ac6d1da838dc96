"""When it acts by itself: one level-triggered loop. The bodies read facts, ask a pure function, launch what it says.

Refused: Dagster's automation conditions. They are edges: `eager()` fights a teardown and loses a revision that arrives during a
rollout; none of them sees the platform (dead, refused, asleep).
"""

import socket
import time

import dagster as dg

from assets.step import TAG_ACTION, TAG_BY, TAG_MODEL, TAG_RELEASE, TAG_SAW, TAG_WHY
from assets.workers import bury
from infra.decisions import Act, Decisions, Mark, ReleaseRecord
from infra.declarations import Declared
from infra.errors import PipelineError
from infra.loop import Loop
from infra.platform import Platform, Release
from infra.policy import Facts, Verdict, decide
from infra.situation import facts, look
from infra.specs import ModelSpec
from llm_pipeline.components import declared, platform_of
from llm_pipeline.runs import ASSET_JOB

EVERY = 15
"""Seconds between two looks of the loop."""

ROLLOUT = ("model_weights", "image", "gpu_nodepool", "ray_service", "smoke_test", "endpoint")
"""What a run of the loop materialises; never `deployment`: only a person makes a model wanted."""

UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING,
]  # fmt: skip


def build() -> dg.Definitions:
    """The loop."""

    @dg.sensor(
        name="reconcile", minimum_interval_seconds=EVERY, default_status=dg.DefaultSensorStatus.RUNNING, job_name=ASSET_JOB,
        description="Heals what died, rolls out what was edited. Asks decide() per model; `llm-pipeline why MODEL` prints what it answered.",
    )  # fmt: skip
    def reconcile(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        busy, loop = runs_under_way(context.instance), Loop(myself(context.instance), context.cursor)
        requests, said = [], []
        clusters: dict[str, Platform | PipelineError] = {}
        for name, found in declared().models.items():
            try:
                platform = at_once(clusters, found.spec.cluster)
                if other := elsewhere(platform, found, loop):
                    said.append(f"{name}: {other} acts on {found.spec.cluster}")
                    continue
                verdict, release = judge(platform, found, busy.get(name))
            except PipelineError as error:
                said.append(f"{name}: cannot tell: {error.problem.what}")
                continue
            said.append(f"{name}: {verdict.action}: {verdict.why}")
            if request := act(platform, name, verdict, release):
                requests.append(request)
        return dg.SensorResult(run_requests=requests, skip_reason=None if requests else "; ".join(said) or "no models", cursor=loop.memory())

    return dg.Definitions(sensors=[reconcile])


def runs_under_way(instance: dg.DagsterInstance) -> dict[str, str]:
    """Per model: the run that works on it, whoever launched it. One whose process is gone works on nothing: it is ended here."""
    bury(instance)
    out: dict[str, str] = {}
    for run in instance.get_runs(dg.RunsFilter(statuses=UNDER_WAY), limit=100):
        models = {run.tags[TAG_MODEL]} if TAG_MODEL in run.tags else {key.path[0] for key in run.asset_selection or ()}
        for down in (run.tags.get("llm/down"),):
            models |= {down} if down else set()
        out |= dict.fromkeys(models, f"run {run.run_id[:8]} is under way")
    return out


def at_once(clusters: dict[str, Platform | PipelineError], cluster: str) -> Platform:
    """The platform as it is at this tick. A cluster that does not answer is asked for one model, not for each."""
    if cluster not in clusters:
        try:
            clusters[cluster] = platform_of(cluster).at_once()
        except PipelineError as error:
            clusters[cluster] = error
    found = clusters[cluster]
    if isinstance(found, PipelineError):
        raise found
    return found


def myself(instance: dg.DagsterInstance) -> str:
    """This Dagster, the same after a restart: machine and folder."""
    return f"{socket.gethostname()}:{instance.root_directory}"


def elsewhere(platform: Platform, found: Declared[ModelSpec], loop: Loop) -> str | None:
    """Which other Dagster acts there. Not asked for what nobody wants: where all is asleep nothing is written."""
    wanted = Decisions(platform.records, found.spec.name).wanted
    return loop.other(platform.records, found.spec.cluster, time.time()) if wanted else None


def judge(platform: Platform, found: Declared[ModelSpec], busy: str | None) -> tuple[Verdict, Release | None]:
    """What to do for one model, and the release that should be live. Of a model that nobody wants only that is looked at: most of many sleep."""
    if not Decisions(platform.records, found.spec.name).wanted:
        return decide(Facts(wanted=False, now=time.time())), None
    seen = look(platform, found.spec.name, found.spec, found.base)
    return decide(facts(seen, busy=busy, now=time.time())), seen.desired


def act(platform: Platform, model: str, verdict: Verdict, desired: Release | None) -> dg.RunRequest | None:
    """Stores the verdict when it acts or says something new, and turns it into a run."""
    decisions = Decisions(platform.records, model)
    last = next(reversed(decisions.acts.verdicts), None)
    told = Act(at=time.time(), action=verdict.action, before=_live(decisions), after=verdict.release, because=verdict.why)
    if verdict.action not in ("heal", "redeploy", "give up"):
        if (last is None and verdict.action == "wait") or (last and (last.action, _plain(last.because)) != (verdict.action, _plain(verdict.why))):
            decisions.act(told)
        return None
    release = verdict.release or ""
    number = decisions.act(told)
    if verdict.action == "give up":
        mark(decisions, release, verdict.why)
        return None
    if verdict.action == "redeploy" and desired:
        decisions.remember(desired)
    if verdict.action == "heal":
        decisions.change(ReleaseRecord, f"release/{release}", lambda old: old.model_copy(update={"heals": (*old.heals, time.time())[-20:]}))  # type: ignore[union-attr]
    tags = {TAG_MODEL: model, TAG_BY: "reconcile", TAG_WHY: verdict.why, TAG_ACTION: verdict.action, TAG_RELEASE: release, TAG_SAW: told.before or ""}
    return dg.RunRequest(run_key=f"{model}/{verdict.action}/{release}/{number}", asset_selection=[dg.AssetKey([model, stage]) for stage in ROLLOUT], tags=tags)


def mark(decisions: Decisions, release: str, why: str) -> None:
    """Automation leaves this release alone from now on."""
    failed = Mark(kind="failed", why=why, at=time.time())
    decisions.change(ReleaseRecord, f"release/{release}", lambda old: old.model_copy(update={"mark": failed}))  # type: ignore[union-attr]


def _live(decisions: Decisions) -> str | None:
    found = decisions.live
    return found.release if found else None


def _plain(why: str) -> str:
    """A reason without its running numbers, so that a countdown is one verdict and not many."""
    return "".join(c for c in why if not c.isdigit())
