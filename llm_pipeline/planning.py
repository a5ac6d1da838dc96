"""The document of `plan`: what `up` of a model would change, by the very look that `up` takes. Changes nothing.

What can not be asked is told as unknown: null in the parts, and the problem beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from assets import planning
from assets.step import Model
from infra.decisions import Decisions
from infra.errors import Blocked, PipelineError, Problem, Transient
from infra.plan import PARTS, Part
from infra.platform import Release
from infra.situation import Situation, look
from infra.waiting import Progress
from llm_pipeline import actions, machines, views
from llm_pipeline.machines import Terms
from llm_pipeline.runs import Dagster

Document = dict[str, Any]

EXITS = {"unchanged": 0, "asleep": 0, "changes": 10, "refused": 3, "unknown": 1}
"""By result. Of several models the worst counts, in the order of WORST."""

WORST = (1, 3, 10, 0)


def plans(names: Iterable[str], dagster: Dagster, terms: Terms | None = None) -> Iterator[Document]:
    """One per model, of the models that `up` would take; those that a bare `up` leaves asleep too."""
    chosen = list(names)
    for model in actions.asked_for(chosen):
        yield document(model, dagster, terms, bare=not chosen)


def exit_code(found: Iterable[Document]) -> int:
    """1 what can not be told, 3 what a rule forbids, 10 changes, 0 nothing."""
    codes = {EXITS[one["result"]] for one in found}
    return next((code for code in WORST if code in codes), 0)


def document(model: Model, dagster: Dagster, terms: Terms | None = None, *, bare: bool = False) -> Document:
    """The plan of one model. `bare`: somebody said `up` without its name, which leaves a model asleep. Raises ConfigError for what a person has to correct."""
    try:
        wish = actions.consider(model, dagster)
    except Transient as error:
        return empty(model) | known(model) | {"result": "unknown", "problem": error.problem.as_dict()}
    if bare and wish.seen.wanted and wish.seen.asleep:
        return of_wish(wish, dagster, terms) | {"result": "asleep", "problem": None}
    return of_wish(wish, dagster, terms)


def of_wish(wish: actions.Wish, dagster: Dagster, terms: Terms | None = None) -> Document:
    """What follows from a look that was taken."""
    model, seen, release = wish.model, wish.seen, wish.release
    out = empty(model) | {"live": seen.live.id if seen.live else None, "asleep": views.asleep_of(seen), "notes": [*wish.notes, *beside(seen)]}
    if wish.refusal:
        out |= {"result": "refused", "problem": wish.refusal.as_dict()}
    if release is None:
        return out if wish.refusal else out | {"problem": Problem(f"what should serve can not be told: {seen.unknown}", next=f"llm-pipeline up {model.name}").as_dict()}
    try:
        out |= planning.forecast(model, seen, release, Progress(), in_step=wish.unchanged).as_dict()
    except Blocked as error:
        return out | {"result": "refused", "problem": error.problem.as_dict()}
    except Transient as error:
        return out | {"problem": error.problem.as_dict()}
    return out | ({} if wish.refusal else {"result": "unchanged" if wish.unchanged else "changes"}) | elsewhere(model, release, dagster, terms)


def elsewhere(model: Model, release: Release, dagster: Dagster, terms: Terms | None) -> Document:
    """On which machines of the catalogue it would run, and for how much, where somebody asks for that."""
    if terms is None:
        return {}
    try:
        return {"capacity": machines.document(model, release, terms, dagster.settings)}
    except Transient as error:
        return {"capacity": {"problem": error.problem.as_dict()}}


def beside(seen: Situation) -> Iterator[str]:
    """What goes on already."""
    if seen.claim and not (seen.live and seen.claim.release == seen.live.id):
        yield f"run {seen.claim.run[:8]} brings up {seen.claim.release} at this moment: `up` would wait for its end"


def empty(model: Model) -> Document:
    """Every key of the document, of which nothing is known yet."""
    unknown: Document = dict.fromkeys(("release", "live", "revision", "outage_s", "room", "asleep", "capacity", "problem"))
    return {
        "model": model.name, "cluster": model.spec.cluster, "result": "unknown", **unknown, "parts": {name: Part(None).as_dict() for name in PARTS},
        "seconds": planning.seconds(None), "usd_per_hour": {"before": None, "after": None, "why": "it was not looked at"}, "removes": [], "counted": [], "notes": [],
        "fits": {"verdict": "unknown", "why": "it was not looked at", "next": None, "hardware": None, "numbers": {}},
    }  # fmt: skip


def known(model: Model) -> Document:
    """What can be told while its source is silent: whether the cluster is there, whether it is wanted, what serves. Nothing, where the cluster is silent too."""
    try:
        here = model.platform.at_once()
        seen = look(here, model.name, model.spec, model.base)
        (place, installs), wanted = planning.there(model), Decisions(here.records, model.name).wanted
    except PipelineError:
        return {}
    parts = {name: Part(None) for name in PARTS} | {"deployment": Part("none" if wanted else "create")}
    if place is not None:
        parts["cluster"] = Part("in_place" if installs else "none" if place else "create")
    return {"live": seen.live.id if seen.live else None, "asleep": views.asleep_of(seen), "parts": {name: part.as_dict() for name, part in parts.items()}}
