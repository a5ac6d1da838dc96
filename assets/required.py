"""The last rung: asset checks elsewhere (a canary evaluation, a review) that acceptance.requires names, in whatever code location they are.

A check judges the candidate of this very attempt, on the address that `ray_service` gives, and says so: the metadata `release` is the candidate's
id. Where it gives `run` too, that is the run which brought the candidate up: then an evaluation of an earlier attempt that ends late is told from
one of this attempt whatever the clocks say. Other results do not count, and the rung waits.

Passed, all of them    the rung is climbed
Failed, one of them    the release is refused, with the check's own description
No answer in time      nothing was said about the release, so it is not refused: the attempt fails as after any other failure that may pass, and is
                       made again, `updates.attempts` times in all. The candidate goes meanwhile: what nobody judges must not keep a GPU
What serves dies       the same: it is healed first
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord

from assets.ray_service import CLAIM_SECONDS
from assets.step import Work, insist_on_life
from infra.acceptance import Rung
from infra.errors import Transient

EVERY = 2.0
"""Seconds between two looks for an answer."""

LAST = 50
"""Results of one check that are looked through: those of other releases, and of attempts before this one."""


@dataclass(frozen=True)
class Candidate:
    """What is to be judged: the release, the run that brought it up, and when it was up (Unix seconds)."""

    release: str
    run: str
    up: float


@dataclass(frozen=True)
class Answer:
    """One check's judgement of the candidate."""

    check: str
    passed: bool
    why: str


def required(work: Work) -> Rung:
    """Waits for the answer of each check. Raises Transient when one does not come within `requires_within`."""
    rules = work.release.spec.acceptance
    if not rules.requires:
        return Rung("required_checks_passed", passed=True, why="none declared")
    seconds = min(float(rules.requires_within), 0.9 * work.progress.left)
    work.decisions.take_claim(work.run.id, work.release.id, CLAIM_SECONDS + seconds, work.run.worker)
    answers = waited(work, rules.requires, seconds)
    wrong = [f"{one.check}: {one.why}" for one in answers if not one.passed]
    told = f"{len(answers)} passed" + "".join(f"; {one.check}: {one.why}" for one in answers if one.why != "passed")
    return Rung("required_checks_passed", not wrong, "; ".join(wrong) or told, {"required": len(answers)})


def waited(work: Work, names: Sequence[str], seconds: float) -> list[Answer]:
    """The answers of all, or those so far as soon as one is a no."""
    until, judged = time.monotonic() + seconds, candidate(work)

    def come() -> list[Answer] | None:
        answers = [found for name in names if (found := answer(work.context.instance, name, judged))]
        if len(answers) == len(names) or not all(one.passed for one in answers):
            return answers
        missing = [name for name in names if name not in {one.check for one in answers}]
        insist_on_life(work, f"{', '.join(missing)} judged it")
        insist_on_what_serves(work)
        left = until - time.monotonic()
        if left <= 0:
            raise unanswered(work, missing, seconds)
        work.progress.phase("waiting for required checks", f"{', '.join(missing)} of release {judged.release}; {left:,.0f} s are left")
        return None

    return work.progress.until(come, every=EVERY)


def insist_on_what_serves(work: Work) -> None:
    """Raises Transient when what serves died meanwhile: the loop brings it back before this release is tried again, however long a word may take."""
    live = work.live
    if live is None or live.id == work.release.id:
        return
    try:
        state = work.platform.ray_service.observe(live)
    except Transient:
        return  # nobody can tell: no reason to give anything up
    if state is None or state.phase == "dead":
        raise Transient(
            f"{live.name}, which served, died while {work.release.name} waited to be judged", why=state.problem.what if state and state.problem else None,
            next="the loop brings it back, then tries this one again",
        )  # fmt: skip


def candidate(work: Work) -> Candidate:
    """As its last bring-up says: mostly of this run. A gate that is asked alone judges what stands there since then."""
    latest = work.context.instance.get_latest_materialization_event(work.model.key("ray_service"))
    made = latest.asset_materialization if latest else None
    if latest and made and text(made.metadata, "release") == work.release.id:
        return Candidate(work.release.id, latest.run_id, latest.timestamp)
    return Candidate(work.release.id, work.run.id, work.run.launched)


def answer(instance: dg.DagsterInstance, name: str, judged: Candidate) -> Answer | None:
    """What a check said of this candidate last; None: nothing yet."""
    asset, _, check = name.rpartition(":")
    key = dg.AssetCheckKey(dg.AssetKey(asset.split("/")), check)
    history = instance.event_log_storage.get_asset_check_execution_history(key, limit=LAST)
    return next((Answer(name, found.passed, found.description or ("passed" if found.passed else "failed")) for row in history if (found := meant(row, judged))), None)


def meant(row: AssetCheckExecutionRecord, judged: Candidate) -> dg.AssetCheckEvaluation | None:
    """The evaluation, when it is of this candidate."""
    found = row.evaluation
    if not isinstance(found, dg.AssetCheckEvaluation) or row.event is None or text(found.metadata, "release") != judged.release:
        return None
    run = text(found.metadata, "run")
    return found if (run == judged.run if run else row.event.timestamp >= judged.up) else None


def unanswered(work: Work, missing: Sequence[str], seconds: float) -> Transient:
    """The candidate goes; what serves, serves on."""
    if not (work.live and work.live.id == work.release.id):
        work.say(f"{work.release.name} is removed: nobody judged it")
        work.platform.ray_service.delete(work.release, work.progress)
    return Transient(
        f"{work.release.name} was not judged by {', '.join(missing)}", why=f"no result that names release {work.release.id} came within {seconds:,.0f} s (acceptance.requires_within)",
        next="look in Dagster whether the check runs after ray_service, and gives the metadata `release`; its sensor may be switched off",
    )  # fmt: skip


def text(metadata: Any, name: str) -> str:
    """A text of an event's metadata; empty: not given."""
    return str(metadata[name].value) if name in metadata else ""
