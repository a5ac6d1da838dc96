"""What a run would change, from the observations that the stages themselves make. Changes nothing.

`plan` and `up` show it before a run; the stage `deployment` makes it anew and keeps it with what it materialises. Between the two the
world may move: what counts is what the stages find.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from assets.ray_service import spent, strategy
from assets.step import Model, compare_identity
from infra import costs
from infra.decisions import Decisions
from infra.errors import Permanent, PipelineError, Transient, Withdrawn
from infra.fitting import judge
from infra.plan import PARTS, Facts, Headroom, Plan, compare, unchanged
from infra.platform import CapacityPart, Platform, Release
from infra.situation import Situation
from infra.starts import Expected, expected
from infra.states import Capacity, Difference, Fit, ServiceState
from infra.waiting import Progress

T = TypeVar("T")


@dataclass(frozen=True)
class Money:
    """USD per hour of what the model has to itself, now and after the rollout. None: not known; `why` says of the later of the two what is not."""

    before: float | None
    after: float | None
    why: str | None = None


@dataclass(frozen=True)
class Forecast:
    """A plan, the planner's word for the release alone, and what it costs."""

    plan: Plan
    fit: Fit
    money: Money
    removes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The part of the document of `plan` that a run can tell too."""
        plan, room = self.plan, self.plan.room
        return {
            "release": plan.release.id, "live": plan.live.id if plan.live else None, "revision": plan.release.revision,
            "parts": {name: plan.parts[name].as_dict() for name in PARTS}, "seconds": seconds(plan.expected), "outage_s": plan.outage,
            "usd_per_hour": vars(self.money),
            "fits": {"verdict": self.fit.verdict, "why": self.fit.why, "next": self.fit.next or None, "hardware": self.fit.hardware or None, "numbers": dict(self.fit.numbers)},
            "room": {"fits": room.fits, "why": room.why, "strategy": room.strategy}, "removes": list(self.removes),
            "counted": [one.as_dict() for one in plan.counted],
        }  # fmt: skip


def forecast(model: Model, seen: Situation, release: Release, progress: Progress, *, in_step: bool = False, rollback: bool = False) -> Forecast:
    """Looks at every part. `in_step`: nothing would be done, as was seen already. Raises Blocked where the cluster is not the place that it was, and what `progress` raises."""
    model = replace(model, platform=model.platform.at_once())
    live = seen.live.release if seen.live else None
    plan = unchanged(release, live) if in_step else compare(facts(model, seen, release, rollback=rollback))
    removes = removed(seen, release) if not in_step else ()
    return Forecast(plan, fit(model.platform, release, progress), money(model.platform, seen, plan), removes)


def facts(model: Model, seen: Situation, release: Release, *, rollback: bool = False) -> Facts:
    """What every part of the platform says of this release."""
    platform, decisions = model.platform, Decisions(model.platform.records, model.name)
    live = seen.live.release if seen.live else None
    place, installs = there(model)
    return Facts(
        place=place, installs=installs, wanted=seen.wanted, release=release, live=live, accepted=seen.live.accepted_spec if seen.live else None,
        weights=told(lambda: platform.model_weights.observe(release) is not None), image=told(lambda: platform.image.observe(release) is not None),
        service=service_of(seen, release), endpoint=seen.endpoint, hold=model.spec.idle.hold, room=headroom(model, seen, release, rollback=rollback),
        unknown=seen.service_unknown, unrouted=seen.endpoint_unknown, person=not rollback and needs_a_person(model, seen, release),
        expected=measured(decisions, release),
    )  # fmt: skip


def headroom(model: Model, seen: Situation, release: Release, *, rollback: bool = False) -> Headroom:
    """Whether it fits beside what serves, and what therefore happens: the order of questions is that of the stages gpu_nodepool and ray_service."""
    nodepool, up = model.platform.gpu_nodepool, service_of(seen, release)
    try:
        found = nodepool.observe(release)
        assert found, "room is always told"
        if up and up.ready:
            return Headroom(True, "it runs already", "none", found.changes)
        made = beside(nodepool, seen, release, found, unapproved=not rollback and needs_a_person(model, seen, release))
    except Permanent as error:
        return Headroom(False, ": ".join(filter(None, (error.problem.what, error.problem.why))), "fail")
    except PipelineError as error:
        return Headroom(None, error.problem.what, None)
    return replace(made, changes=found.changes)


def beside(nodepool: CapacityPart, seen: Situation, release: Release, found: Capacity, *, unapproved: bool) -> Headroom:
    """What of this model goes anyway, since it is neither desired nor live, is no obstacle. Raises what `room` raises."""
    live, service, strays = seen.live, seen.service, removed(seen, release)
    rest = tuple(state.release for state in (*([service] if service else []), *seen.others) if state.release != release.name)
    if not found.fits and not (alone := nodepool.room(release, without=rest) if rest else found).fits:
        return Headroom(False, alone.why, "fail")
    found = found if found.fits or not strays else nodepool.room(release, without=strays)
    if live is None or live.id == release.id or service is None or not service.computes:
        dead = spent([service] if service else [], release)
        found = found if found.fits or not dead else nodepool.room(release, without=(*strays, *dead))
        return Headroom(found.fits, found.why, "first" if found.fits else "fail")
    choice = strategy(release, found, unapproved=unapproved)
    if choice == "recreate" and not (instead := nodepool.room(release, without=(*strays, live.release.name))).fits:
        return Headroom(False, instead.why, "fail")
    return Headroom(found.fits, found.why, choice)  # type: ignore[arg-type]  # the four words of `strategy`


def removed(seen: Situation, release: Release) -> tuple[str, ...]:
    """What a run takes away before it starts anything: neither declared nor live."""
    return tuple(state.release for state in seen.others if state.release != release.name)


def announced(model: str, found: Plan) -> str:
    """What a person should know before a run begins: that nothing will answer for a while, or that there is no room. Empty: neither."""
    room, live = found.room, found.live
    if live is None or live.id == found.release.id or room.strategy not in ("recreate", "wait", "fail"):
        return ""
    if room.strategy == "recreate":
        how_long = f"for about {found.outage:.0f} s" if found.outage is not None else "until it is up, and no start of it was measured yet"
        return f"{model}: {live.id} goes before {found.release.id} comes: nothing answers {how_long} ({room.why})"
    words = {"wait": "the rollout waits for room", "fail": "the rollout will fail"}
    return f"{model}: no room for two, {words[room.strategy]} ({room.why})"


def needs_a_person(model: Model, seen: Situation, release: Release) -> bool:
    """Whether a candidate that passes gets no traffic before somebody says so (assets/approval.py)."""
    if model.spec.updates.policy != "approve" or seen.live is None or seen.live.id == release.id:
        return False
    return not (seen.approval and seen.approval.release == release.id and seen.approval.verdict == "approved")


def there(model: Model) -> tuple[bool | None, tuple[Difference, ...]]:
    """Whether the cluster is what was recorded, and what it lacks and gets. Raises Blocked where it is another place; None: it can not be told."""
    recorded = model.platform.records.get(model.spec.cluster, "identity")
    if recorded is None:
        return False, ()
    try:
        found = model.platform.cluster.observe(model.cluster)
        compare_identity(model.spec.cluster, recorded.value.get("identity", {}), found)
        return True, model.platform.cluster.pending(model.cluster)
    except Transient:
        return None, ()


def service_of(seen: Situation, release: Release) -> ServiceState | None:
    """What of this release is there: it is the live one, or a candidate that was left, or waits."""
    return next((state for state in (*([seen.service] if seen.service else []), *seen.others) if state.release == release.name), None)


def fit(platform: Platform, release: Release, progress: Progress) -> Fit:
    """The planner's word, before anything is made; why there is none where the platform does not tell what it has."""
    try:
        return judge(platform.gpu_nodepool, platform.model_weights, release, progress)
    except Withdrawn:
        raise
    except PipelineError as error:
        return Fit("unknown", f"not computed: {error.problem.what}")


def money(platform: Platform, seen: Situation, found: Plan) -> Money:
    """Before: as `status` tells it. After: what the release costs as it would run, and beside one that waits for a person what serves until then."""
    before, prices = costs.per_hour(seen, platform), platform.prices
    service, switch = (found.parts[name].action for name in ("ray_service", "endpoint"))
    if prices is None or (service == "none" and not removed(seen, found.release)):
        return Money(before, before, costs.unknown(seen, platform) if before is None else None)
    stays = (found.live,) if found.live and service == "new_release" and switch == "none" else ()
    after = 0.0
    for release in (found.release, *stays):
        usd = prices.per_hour(release)
        if usd is None:
            return Money(before, None, prices.why(release))
        after += usd
    return Money(before, round(after, 6), costs.unknown(seen, platform) if before is None else None)


def measured(decisions: Decisions, release: Release) -> Mapping[str, Expected]:
    """What each stage takes that changes something; those of which nothing is known are left out."""
    found = {name: expected(decisions, name, release.manifest.size) for name in PARTS}
    return {name: one for name, one in found.items() if one}


def told(ask: Callable[[], T]) -> T | None:
    """None where it can not be told."""
    try:
        return ask()
    except Transient:
        return None


def seconds(found: Expected | None) -> dict[str, float | None]:
    """As JSON."""
    return {"median": found.median if found else None, "p95": found.p95 if found else None}


def markdown(found: Forecast) -> str:
    """The plan as the page of the stage `deployment` shows it."""
    rows = [f"| {name} | {part.action or 'not known'} | {', '.join(one.field for one in part.edits) or part.why} | {part.expected.median if part.expected else 'never measured'} |" for name, part in found.plan.parts.items()]
    facts = [
        f"outage: {'never measured' if found.plan.outage is None else f'{found.plan.outage:.0f} s'}", f"room: {found.plan.room.why}",
        f"fits: {found.fit.verdict}, {found.fit.why}", f"USD per hour: {usd(found.money.before)} -> {usd(found.money.after)}{f' ({found.money.why})' if found.money.why else ''}",
    ]  # fmt: skip
    return "\n".join(["| part | action | what, or why | seconds |", "|---|---|---|---|", *rows, "", *(f"- {fact}" for fact in facts)])


def usd(value: float | None) -> str:
    """For people."""
    return "not known" if value is None else f"{value:.2f}"
