"""deployment: somebody wants this model. The only stage that makes it wanted, and the one that admits a revision.

Upstream     cluster (its records hold the answer)
Downstream   model_weights, image, gpu_nodepool
Unchanged    wanted already, and the source shows nothing new: `since` stays
"""

import time
from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.stage import source_kind
from assets.step import Done, Model, Work, planned, start, told
from assets.step import page as shown
from infra import policy
from infra.decisions import Admitted, Decisions, Pin
from infra.errors import Blocked
from infra.situation import desired, newest
from infra.waiting import Progress
from infra.weights import Manifest, Seen


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
        seen = model.platform.model_weights.look(model.spec, model.base, Progress(120))
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
    before, tags = work.decisions.wanted, work.context.run.tags
    if work.run.action == "rollback":
        go_back(work.decisions, tags["llm/to"], hold=tags.get("llm/hold") == "true", by=work.run.by)
        admission, note = "a rollback asks no source", ""
    else:
        seen, note = newest(work.decisions, work.platform, work.model.spec, work.model.base, work.progress, tags.get("llm/revision"))
        admission = admit_seen(work.decisions, seen, by=work.run.by, asked="llm/revision" in tags).why
        keep_named(work, seen, tags.get("llm/revision"))
    work.decisions.want(True, work.run.by, work.run.id)
    lift_mark(work)
    release = planned(work.decisions, work.model, work.run, work.progress)
    pin = work.decisions.pin
    facts = {"release": release.id, "revision": release.revision, "admission": admission, "wanted by": work.run.by, "why": work.run.why}
    if note:
        facts["source"] = note
        work.say(note)
    if pin:
        facts["pinned"] = f"{pin.release or pin.revision}: {pin.why}"
        work.say(f"pinned to {pin.release or pin.revision} ({pin.why}); llm-pipeline unpin {work.model.name} follows the declaration again")
    return Done(data_version=work.model.name, changed=not before, page=facts)


def lift_mark(work: Work) -> None:
    """`retry` lifts every mark; any word of a person lifts that of a rollout which a person cancelled."""
    release = desired(work.decisions, work.platform, work.model.spec, work.model.base, work.progress).id
    record = work.decisions.release(release)
    if record and (work.run.action == "retry" or (record.mark and record.mark.kind == "cancelled")):
        work.decisions.unmark(release)


def keep_named(work: Work, seen: Seen, revision: str | None) -> None:
    """A revision that a person named, and that is not the newest one, stays until `unpin`: the next `up` must not go on from it."""
    if revision is None:
        return
    newest_one, _ = newest(work.decisions, work.platform, work.model.spec, work.model.base, work.progress)
    if newest_one.manifest.digest != seen.manifest.digest:
        work.decisions.write("pin", Pin(revision=seen.revision, until="unpinned", by=work.run.by, why=f"up --revision {revision}", at=time.time()))


def go_back(decisions: Decisions, release: str, *, hold: bool, by: str) -> None:
    """A rollback: pinned to an earlier release until something newer than what is left appears, or until `unpin`."""
    live, old = decisions.live, decisions.pin
    left = live.release if live and live.release != release else old.left if old else None
    decisions.write("pin", Pin(release=release, left=left, until="unpinned" if hold else "newer", by=by, why=f"rolled back from {left}" if left else "rolled back", at=time.time()))


def admit_seen(decisions: Decisions, seen: Seen, *, by: str, asked: bool = False) -> policy.Admission:
    """Writes `admitted` when policy lets the revision through, and ends a rollback's pin when it is newer."""
    old, pin, known = decisions.admitted, decisions.pin, known_manifests(decisions)
    verdict = policy.admit(
        seen.manifest.digest, admitted=old.manifest_digest if old else None, known=known, asked=asked,
        pin_until=pin.until if pin else None,
    )  # fmt: skip
    if asked and pin and not verdict.admitted:
        raise Blocked(f"{decisions.model} is pinned: {pin.why}", next=f"llm-pipeline unpin {decisions.model}, then the same command again")
    if verdict.admitted:
        if verdict.ends_pin:
            decisions.write("pin", None)
        if old is None or old.manifest_digest != seen.manifest.digest or old.revision != seen.revision:
            decisions.write("admitted", Admitted(
                revision=seen.revision, source=seen.source, manifest=seen.manifest.to_dict(), by=by, at=time.time(), why=verdict.why,
            ))  # fmt: skip
    return verdict


def known_manifests(decisions: Decisions) -> frozenset[str]:
    """What can not be "newer" than a rollback: it was accepted or left before, or was seen when the pin was written."""
    pin = decisions.pin
    return frozenset(
        Manifest.from_dict(record.manifest).digest for record in decisions.releases().values()
        if record.accepted or (pin and (record.id == pin.left or record.first_seen <= pin.at))
    )  # fmt: skip


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
