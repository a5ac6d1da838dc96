"""What may go of weights, images, downloads, logs and old runs, and why the rest stays. Pure: facts in, a verdict out.

A release keeps its weights and its image while it
    serves or runs · should serve · is pinned · is being brought up · was tried last
    or is one of the `keep_previous` accepted ones before the live one (of a model that is down: before the last accepted one)
The weights that are admitted stay too. What another home needs of a shared store stays by the same rules, read from its records.
What can not be read is never taken for unused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from infra.decisions import Decisions
from infra.documents import Admitted, Claim, Pin, ReleaseRecord, RunPlan
from infra.platform import Records
from infra.states import Held
from infra.weights import Manifest

DAY = 86_400.0
UNDER_WAY = DAY
"""Seconds that a run may take, where nobody can tell whether it ended."""

KEEP_DAYS, KEEP_RUNS = 30, 100
"""Runs that ended stay in Dagster so long; and the last so many of each model, however old."""


@dataclass(frozen=True)
class Facts:
    """What the records of one model say. `keep`: as declared, else as recorded with its newest release."""

    model: str
    keep: int
    releases: Mapping[str, ReleaseRecord]
    plans: Mapping[str, RunPlan] = field(default_factory=dict)
    live: str | None = None
    pin: Pin | None = None
    admitted: Admitted | None = None
    claim: Claim | None = None
    running: frozenset[str] = frozenset()
    desired: str | None = None
    over: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Kept:
    """Something that has to stay, and why. `image` None: weights alone."""

    manifest: Manifest
    image: str | None
    why: str


@dataclass(frozen=True)
class Judged:
    """One thing of the store: it goes, or it stays; why."""

    held: Held
    why: str


@dataclass(frozen=True)
class Verdict:
    """What goes and what stays."""

    goes: tuple[Judged, ...]
    stays: tuple[Judged, ...]

    @property
    def bytes(self) -> int:
        """What would be free then: a blob that something else leads to as well stays."""
        return _size((*self.goes, *self.stays)) - _size(self.stays)

    @property
    def stored(self) -> int:
        """What weights, images and unfinished downloads take now."""
        return _size(one for one in (*self.goes, *self.stays) if one.held.part != "log")


def read(
    records: Records, model: str, now: float, *, running: Iterable[str] = (), keep: int | None = None, desired: str | None = None,
    over: Callable[[str], bool] = lambda _: False,
) -> Facts:  # fmt: skip
    """The facts of one model. `running`: names of releases; `over`: whether a run is known to have ended."""
    decisions = Decisions(records, model)
    releases, live = decisions.releases(), decisions.live
    plans = {name.split("/", 1)[1]: RunPlan.model_validate(row.value) for name, row in records.list(model, "attempt/").items()}
    runs = {*plans, *(attempt.run for record in releases.values() for attempt in record.attempts if attempt.result == "running")}
    ids = frozenset(name.removeprefix(f"{model}-") for name in running if name.rsplit("-", 1)[0] == model)
    claim = decisions.claim(now)
    return Facts(
        model, _keep(releases) if keep is None else keep, releases, plans, live.release if live else None, decisions.pin, decisions.admitted,
        None if claim and over(claim.run) else claim, ids, desired, frozenset(run for run in runs if over(run)),
    )  # fmt: skip


def reasons(facts: Facts, now: float) -> dict[str, str]:
    """Why a release's weights and image stay, by its id; a release that is not in here may lose both."""
    out: dict[str, str] = {}

    def stays(release: str | None, why: str) -> None:
        if release:
            out.setdefault(release, why)

    stays(facts.live, "it serves")
    for release in facts.running:
        stays(release, "it runs")
    stays(facts.desired, "it should serve")
    for record in facts.releases.values():
        if facts.pin and (record.id == facts.pin.release or record.revision == facts.pin.revision):
            stays(record.id, f"pinned: {facts.pin.why}")
    stays(facts.claim.release if facts.claim else None, "it is being brought up")
    for release, run in _under_way(facts, now):
        stays(release, f"run {run[:8]} works on it")
    accepted = sorted((record for record in facts.releases.values() if record.accepted), key=_accepted_at, reverse=True)
    last = facts.live or next((record.id for record in accepted), None)
    stays(last, "the last accepted one")
    for number, record in enumerate([record for record in accepted if record.id != last][: facts.keep], 1):
        stays(record.id, f"for a rollback ({number} of release.keep_previous {facts.keep})")
    newest = max(facts.releases.values(), key=lambda record: _tried_at(record, facts), default=None)
    stays(newest.id if newest else None, "it was tried last")
    return out


def needed(facts: Facts, now: float, home: str = "") -> tuple[Kept, ...]:
    """What the model needs to stay. `home`: whose it is, when it is not ours."""
    where = f" in {home}" if home else ""
    why = reasons(facts, now)
    kept = [Kept(Manifest.from_dict(r.manifest), r.image, f"{facts.model}-{r.id}{where}: {why[r.id]}") for r in facts.releases.values() if r.id in why]
    if facts.admitted:
        kept.append(Kept(Manifest.from_dict(facts.admitted.manifest), None, f"{facts.model}{where}: admitted"))
    return tuple(kept)


def remembered(records: Records, model: str) -> tuple[Kept, ...]:
    """Every release that a model remembers: what `purge` of another one leaves alone."""
    return tuple(Kept(Manifest.from_dict(r.manifest), r.image, f"{model}-{r.id} remembers it") for r in Decisions(records, model).releases().values())


def judge(held: Sequence[Held], kept: Sequence[Kept], models: Iterable[str], unreadable: str = "") -> Verdict:
    """Who goes and who stays. `models`: whose logs are of interest; `unreadable`: why it can not be told what somebody needs."""
    weights, images, contents, known = _index(kept), _images(kept), _contents(kept), set(models)
    goes, stays = [], []
    for one in held:
        found = {"model_weights": weights, "image": images, "partial": contents}.get(one.part, {}).get(one.id)
        if one.part == "log":
            found = None if one.spent or one.model not in known else f"{one.model} is remembered"
        elif not one.spent and not found and unreadable:
            found = f"it can not be told whether it is used: {unreadable}"
        if found and not one.spent:
            stays.append(Judged(one, found))
        else:
            goes.append(Judged(one, one.spent or ("no model of this name is known any more" if one.part == "log" else "no release needs it")))
    return Verdict(tuple(goes), tuple(stays))


def old_plans(facts: Facts, now: float) -> tuple[str, ...]:
    """Runs whose plan nobody asks for any more. History and percentiles are in the releases, which stay."""
    return tuple(run for run, plan in facts.plans.items() if now - plan.at > KEEP_DAYS * DAY)


@dataclass(frozen=True)
class RunRow:
    """A run in Dagster. `ended` None: it goes on, or nobody can tell."""

    id: str
    model: str
    created: float
    ended: float | None


def old_runs(rows: Sequence[RunRow], now: float, needed: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Runs that may be forgotten: ended long ago, not among the last of their model, and not what an asset's page shows (`needed`)."""
    seen: dict[str, int] = {}
    out = []
    for row in sorted(rows, key=lambda row: row.created, reverse=True):
        seen[row.model] = seen.get(row.model, 0) + 1
        if seen[row.model] > KEEP_RUNS and row.ended is not None and now - row.ended > KEEP_DAYS * DAY and row.id not in needed:
            out.append(row.id)
    return tuple(out)


# ---------------------------------------------------------------- private


def _size(rows: Iterable[Judged]) -> int:
    """Bytes on disk; a blob that several lead to counts once."""
    found = list(rows)
    blobs = {name: size for one in found for name, size in one.held.blobs.items()}
    return sum(blobs.values()) + sum(one.held.bytes for one in found if not one.held.blobs)


def _keep(releases: Mapping[str, ReleaseRecord]) -> int:
    """`keep_previous` of the release that was seen last; the raw document, since its spec may be of another version."""
    newest = max(releases.values(), key=lambda record: record.first_seen, default=None)
    value = (newest.spec.get("release") or {}).get("keep_previous", 1) if newest else 1
    return int(value)


def _under_way(facts: Facts, now: float) -> Iterable[tuple[str, str]]:
    """(release, run) of what some run may be working on."""
    ended = {a.run for record in facts.releases.values() for a in record.attempts if a.result != "running"} | facts.over
    for run, plan in facts.plans.items():
        if run not in ended and now - plan.at < UNDER_WAY:
            yield plan.release, run
    for record in facts.releases.values():
        for attempt in record.attempts:
            if attempt.result == "running" and attempt.run not in facts.over and now - attempt.started < UNDER_WAY:
                yield record.id, attempt.run


def _accepted_at(record: ReleaseRecord) -> float:
    return max(attempt.ended or attempt.started for attempt in record.attempts if attempt.result == "accepted")


def _tried_at(record: ReleaseRecord, facts: Facts) -> float:
    plans = (plan.at for plan in facts.plans.values() if plan.release == record.id)
    return max([record.first_seen, *plans, *(attempt.started for attempt in record.attempts)])


def _index(kept: Sequence[Kept]) -> dict[str, str]:
    return {one.manifest.digest[:16]: one.why for one in reversed(kept)}


def _images(kept: Sequence[Kept]) -> dict[str, str]:
    return {one.image: one.why for one in reversed(kept) if one.image}


def _contents(kept: Sequence[Kept]) -> dict[str, str]:
    """By the key of each file, and by its sha256 where the source tells it."""
    out: dict[str, str] = {}
    for one in reversed(kept):
        for file in one.manifest.files:
            out[file.key] = one.why
            if file.sha256:
                out[file.sha256] = one.why
    return out
