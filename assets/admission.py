"""Which revision may go live: the facts of one model for `policy.admit`, and the record of what it says.

Both ways in end here: a person's run (`deployment`), and the sensor that looks at the sources. A person's word is written as it is;
what the sensor decided is written only when nobody decided anything else meanwhile.
"""

from __future__ import annotations

import time
from dataclasses import asdict

from assets.step import Model
from assets.upstream import key_of
from infra import hours, policy
from infra.decisions import Decisions
from infra.documents import Admitted, Mark, Pin, ReleaseRecord, Sighting
from infra.errors import Blocked, PipelineError
from infra.platform import Record, Release
from infra.specs import ModelSpec
from infra.waiting import Progress
from infra.weights import Glance, Manifest, Seen


def judge(decisions: Decisions, model: Model, seen: Seen, *, asked: bool = False, person: bool = False, now: float | None = None) -> policy.Admission:
    """Whether this may go live now. `asked`: a person named it; `person`: a person said `up`. Writes nothing."""
    old, pin, rules = decisions.admitted, decisions.pin, rules_of(model.spec)
    moved = old is None or old.manifest_digest != seen.manifest.digest
    return policy.admit(
        seen.manifest.digest, admitted=old.manifest_digest if old else None, known=known_manifests(decisions) if pin else frozenset(),
        pin_until=pin.until if pin else None, asked=asked, person=person, first=old is None or _elsewhere(old, model, seen),
        mark=mark_of(decisions, model, seen) if (moved or pin) and not (asked or person) else None, rules=rules,
        last=last_rollout(decisions, model, old) if rules.min_interval else None, now=time.time() if now is None else now,
    )  # fmt: skip


def admit(
    decisions: Decisions, model: Model, seen: Seen, *, by: str, asked: bool = False, person: bool = False, stay: Pin | None = None, before: Record | None = None
) -> policy.Admission:
    """Writes `admitted` when policy lets the revision through, and ends a rollback's pin when it is newer. Raises Blocked when a person named it and
    a pin forbids it.

    stay     the pin that keeps it
    before   of a look without a person: `admitted` as it was before the source was asked. Conflict when somebody wrote it since: what was seen
             may be older than what that one saw.
    """
    if asked or person:
        before = decisions.records.get(model.name, "admitted")
    verdict, pin = judge(decisions, model, seen, asked=asked, person=person), decisions.pin
    if asked and pin and not verdict.admitted:
        raise Blocked(f"{model.name} is pinned: {pin.why}", next=f"llm-pipeline unpin {model.name}, then the same command again")
    if not verdict.admitted:
        return verdict
    if stay:
        decisions.write("pin", stay)  # first: between the two nothing newer may be admitted by itself
    old = Admitted.model_validate(before.value) if before else None
    fresh = _admitted(old, model, seen, by, verdict.why)
    if fresh != old and (person or asked):
        decisions.write("admitted", fresh)
    elif fresh != old:
        decisions.records.put(model.name, "admitted", fresh.model_dump(mode="json"), before.version if before else None)
    if verdict.ends_pin:
        stays_left(decisions, pin)
        decisions.write("pin", None)  # last: until then the pin holds what it names
    return verdict


def stays_left(decisions: Decisions, pin: Pin | None) -> None:
    """What a rollback left never comes back by itself, also when its pin is gone and the source is moved back to it: a person's word alone brings it."""
    if pin and pin.left and decisions.release(pin.left):
        left = Mark(kind="cancelled", why="a rollback left it", at=time.time())
        decisions.change(ReleaseRecord, f"release/{pin.left}", lambda old: old.model_copy(update={"mark": old.mark or left}))  # type: ignore[union-attr]


def sighted(old: Sighting | None, seen: Seen, glance: Glance | None, verdict: policy.Admission, now: float) -> Sighting:
    """What was seen of a source that answered, as it is recorded."""
    same = old is not None and old.manifest is not None and (old.source, old.revision, old.manifest) == (seen.source, seen.revision, seen.manifest.to_dict())
    return Sighting(
        source=seen.source, revision=seen.revision, manifest=seen.manifest.to_dict(), glance=asdict(glance) if glance else None,
        at=old.at if old and same else now, since=old.since if old and old.reachable else now,
        waits=None if verdict.admitted else verdict.why, until=verdict.until, run=seen.run,
    )  # fmt: skip


def rules_of(spec: ModelSpec) -> policy.Rules:
    """The block `updates` as policy takes it."""
    given = spec.updates
    return policy.Rules(given.policy, hours.parse(given.hours) if given.hours else None, given.min_interval)


def known_manifests(decisions: Decisions) -> frozenset[str]:
    """What can not be "newer" than a rollback: it was accepted or left before, or was seen when the pin was written."""
    pin = decisions.pin
    return frozenset(
        Manifest.from_dict(record.manifest).digest for record in decisions.releases().values()
        if record.accepted or (pin and (record.id == pin.left or record.first_seen <= pin.at))
    )  # fmt: skip


def mark_of(decisions: Decisions, model: Model, seen: Seen) -> str | None:
    """Why automation must leave the release alone that this would become. None: nothing forbids it, or which one it is can not be told."""
    try:
        image = model.platform.image.resolve(model.spec, Progress(5))
    except PipelineError:
        return None  # the loop leaves a marked release alone in any case
    record = decisions.release(Release(model.spec, seen.revision, seen.manifest, image, seen.source, str(model.base)).id)
    return f"{record.mark.kind}: {record.mark.why}" if record and record.mark else None


def last_rollout(decisions: Decisions, model: Model, admitted: Admitted | None) -> float | None:
    """When something last went live, or began to (Unix seconds): what was refused or failed did not."""
    live = decisions.live
    moments = [live.since] if live else []
    if admitted and mark_of(decisions, model, Seen(admitted.source, admitted.revision, Manifest.from_dict(admitted.manifest))) is None:
        moments.append(admitted.at)
    return max(moments, default=None)


def _admitted(old: Admitted | None, model: Model, seen: Seen, by: str, why: str) -> Admitted:
    """A commit that changes no file of the engine has another name, and is no new admission."""
    if old and old.manifest_digest == seen.manifest.digest:
        return old.model_copy(update={"revision": seen.revision, "source": seen.source, "declared": model.spec.weights})
    return Admitted(revision=seen.revision, source=seen.source, manifest=seen.manifest.to_dict(), by=by, at=time.time(), why=why, declared=model.spec.weights)


def _elsewhere(old: Admitted, model: Model, seen: Seen) -> bool:
    """Whether this is another source than before. One asset is one source, wherever each of its runs wrote to."""
    if key_of(model):
        return old.declared != model.spec.weights
    return _address(old.source) != _address(seen.source)


def _address(source: str) -> str:
    """Without the revision that a person named: another one of the same repository is no new source."""
    return source.partition("@")[0] if source.startswith("hf://") else source
