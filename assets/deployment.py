"""deployment: somebody wants this model. The only stage that makes it wanted, and the one that admits a revision.

Upstream     cluster (its records hold the answer)
Downstream   model_weights, image, gpu_nodepool
Unchanged    wanted already, and the source shows nothing new: `since` stays
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from assets import planning, sleep
from assets.admission import admit, sighted
from assets.stage import source_kind
from assets.step import Done, Model, Work, planned, start, told
from assets.step import page as shown
from assets.upstream import given
from infra.decisions import Decisions
from infra.documents import Pin
from infra.errors import PipelineError, Withdrawn
from infra.platform import Release
from infra.situation import Situation, desired, look, newest
from infra.waiting import Progress
from infra.weights import Seen


def build(model: Model) -> dg.Definitions:
    """The stage, and `model_revision`: what the source shows and what of it was admitted."""

    @dg.asset(
        key=model.key("deployment"), deps=[model.cluster_key], group_name=model.name, kinds={"yaml"}, owners=list(model.spec.owners) or None,
        output_required=False,
        description=(f"{model.spec.description} " if model.spec.description else "") + f"{model.name} is wanted on {model.spec.cluster}. Materialise it (or `llm-pipeline up {model.name}`) to want it; only `down` withdraws it.",
    )  # fmt: skip
    def deployment(context: dg.AssetExecutionContext) -> Iterator[Any]:
        work = start(context, model, "deployment")
        if work is None or not allowed(context, work):
            return
        began = time.time()
        with told(work):
            done = want(work)
            report_revision(context, work)
            yield dg.MaterializeResult(data_version=dg.DataVersion(done.data_version), metadata=shown(done, time.time() - began, {}))

    @dg.observable_source_asset(
        key=model.key("model_revision"), group_name=model.name, tags={f"dagster/kind/{source_kind(model)}": ""},
        description=f"What {model.spec.weights} holds. Its data version is the manifest's hash: a commit that changes no file of the engine changes nothing here.",
    )  # fmt: skip
    def model_revision(context: dg.OpExecutionContext) -> dg.ObserveResult:
        seen = source(model, context, Progress(120))(None)
        return dg.ObserveResult(data_version=dg.DataVersion(seen.manifest.digest), metadata=describe(seen))

    return dg.Definitions([deployment, model_revision])


def allowed(context: Any, work: Work) -> bool:
    """Two rules: a queued run older than the last `down` wants nothing; one click never starts every model there is."""
    found = work.decisions.deployment
    if found and not found.wanted and work.run.before(found):
        context.log.warning(f"{work.model.name} was taken down by {found.by} while this run waited: nothing to do")
        return False
    selected = context.run.asset_selection or context.job_def.asset_layer.executable_asset_keys  # none: the job was launched whole
    others = [key for key in selected if key.path[-1] == "deployment" and key.path[0] != work.model.name]
    if others and not work.model.spec.autostart and not (found and found.wanted):
        context.log.warning(f"{work.model.name} is not started together with other models (autostart is false). On its own: llm-pipeline up {work.model.name}")
        return False
    return True


def want(work: Work) -> Done:
    """Wanted from now on; the newest revision is admitted; the release of this run is fixed."""
    before, tags, seen_before = work.decisions.wanted, work.context.run.tags, looked(work)
    if work.run.action == "rollback":
        go_back(work.decisions, tags["llm/to"], hold=tags.get("llm/hold") == "true", by=work.run.by)
        admission, note = "a rollback asks no source", ""
    else:
        named = tags.get("llm/revision")
        seen, note = newest(work.decisions, source(work.model, work.context, work.progress), named)
        verdict = admit(work.decisions, work.model, seen, by=work.run.by, asked=named is not None, person=True, stay=stays(work, seen, named))
        admission = verdict.why
        if not note and named is None:
            work.decisions.write("seen", sighted(work.decisions.seen, seen, None, verdict, time.time()))
    work.decisions.want(True, work.run.by, work.run.id)
    sleep.wake(work)
    lift_mark(work)
    release = planned(work.decisions, work.model, work.run, work.progress)
    pin = work.decisions.pin
    facts: dict[str, Any] = {"release": release.id, "revision": release.revision, "admission": admission, "wanted by": work.run.by, "why": work.run.why}
    facts |= plan_of(work, seen_before, release)
    if note:
        facts["source"] = note
        work.say(note)
    if pin:
        facts["pinned"] = f"{pin.release or pin.revision}: {pin.why}"
        work.say(f"pinned to {pin.release or pin.revision} ({pin.why}); llm-pipeline unpin {work.model.name} follows the declaration again")
    return Done(data_version=work.model.name, changed=not before, page=facts)


def looked(work: Work) -> Situation | None:
    """How the model stood before this run said anything. None: it can not be told; whatever the run needs it asks again."""
    try:
        return look(work.platform, work.model.name, work.model.spec, work.model.base)
    except PipelineError as error:
        work.say(f"no plan is made: {error.problem.what}")
        return None


def plan_of(work: Work, seen: Situation | None, release: Release) -> dict[str, Any]:
    """What this run is about to change, kept with it: what was expected can be held against what came. Without one the run goes on."""
    if seen is None:
        return {}
    try:
        found = planning.forecast(work.model, seen, release, work.progress, rollback=work.run.action == "rollback")
    except Withdrawn:
        raise
    except PipelineError as error:
        return {"plan": f"could not be made: {error.problem.what}"}
    return {"plan": dg.MetadataValue.md(planning.markdown(found)), "plan_document": dg.MetadataValue.json(found.as_dict())}


def source(model: Model, context: Any, progress: Progress) -> Callable[[str | None], Seen]:
    """How its source is looked at from this step."""
    return lambda revision: given(model, lambda: context.instance).look(model.platform.model_weights, progress, revision)


def lift_mark(work: Work) -> None:
    """`retry` lifts every mark; any word of a person lifts that of a rollout which a person cancelled."""
    release = desired(work.decisions, work.platform, work.model.spec, work.model.base, work.progress).id
    record = work.decisions.release(release)
    if record and (work.run.action == "retry" or (record.mark and record.mark.kind == "cancelled")):
        work.decisions.unmark(release)


def stays(work: Work, seen: Seen, revision: str | None) -> Pin | None:
    """A revision that a person named, and that is not the newest one, stays until `unpin`: the next `up`, or the next look, must not go on from it."""
    if revision is None or work.decisions.pin:
        return None
    newest_one, _ = newest(work.decisions, source(work.model, work.context, work.progress))
    if newest_one.manifest.digest == seen.manifest.digest:
        return None
    return Pin(revision=seen.revision, until="unpinned", by=work.run.by, why=f"up --revision {revision}", at=time.time())


def go_back(decisions: Decisions, release: str, *, hold: bool, by: str) -> None:
    """A rollback: pinned to an earlier release until something newer than what is left appears, or until `unpin`."""
    live, old = decisions.live, decisions.pin
    left = live.release if live and live.release != release else old.left if old else None
    decisions.write("pin", Pin(release=release, left=left, until="unpinned" if hold else "newer", by=by, why=f"rolled back from {left}" if left else "rolled back", at=time.time()))


def report_revision(context: Any, work: Work) -> None:
    """The admitted revision on its own page, with the data version that downstream compares with."""
    release = work.release
    context.log_event(dg.AssetObservation(
        work.model.key("model_revision"), metadata={"revision": release.revision, "source": release.source, "bytes": release.manifest.size},
        tags={"dagster/data_version": release.manifest.digest},
    ))  # fmt: skip


def describe(seen: Seen) -> dict[str, Any]:
    """What a person wants to know of a revision."""
    files = [dg.TableRecord({"file": f.path, "bytes": f.size, "digest": f.digest[:24]}) for f in seen.manifest.files]
    return {"revision": seen.revision, "source": seen.source, "bytes": seen.manifest.size, "files": dg.MetadataValue.table(files)}
