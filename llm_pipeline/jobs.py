"""Verbs that launch a job, or say a word on which the loop launches a run: down, pin and unpin, collect, approve and reject, sleep and wake. The job does the work; the verb listens to its end and says what it reported."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

from assets.approval import waiting
from assets.sleep import held
from assets.step import TAG_ACTION, TAG_BY, TAG_MODEL, TAG_RELEASE, TAG_RUNG, TAG_TIMEOUT, TAG_WHY, Model
from infra.decisions import Decisions
from infra.documents import Due
from infra.errors import Blocked, ConfigError, PipelineError, Problem
from infra.idle import NEEDS_RAY, Rung, deeper
from llm_pipeline import automation, components
from llm_pipeline.actions import Heard, Listener, Outcome, followed, heard, outcome, person, platform_with, stage
from llm_pipeline.runs import Dagster, Event, Launch


def down(dagster: Dagster, name: str, listen: Listener, *, include_models: bool = False, purge: bool = False, timeout: float = 900) -> dict[str, Any]:
    """Launches the job `teardown` for one model or cluster, and returns its report. ConfigError: nothing has this name."""
    if name not in components.declared().clusters:
        platform_with(name)
    tags = {TAG_ACTION: "teardown", TAG_BY: person(), "llm/down": name}
    config = {"ops": {"tear_down": {"config": {"name": name, "include_models": include_models, "purge": purge}}}}
    run_id, events = _job(dagster, name, Launch(tags, job="teardown", config=config), listen, timeout)
    report: dict[str, Any] = {"removed": [], "kept": [], "left": []}
    for event in _reported(events, "teardown_report"):
        report = {key: event.facts.get(key) or [] for key in report}
    if (error := _ended_badly(events, f"the down of {name}")) and not report["left"]:
        raise error
    return {**report, "report_run_id": run_id}


def pin(dagster: Dagster, name: str, revision: str | None, listen: Listener, *, remove: bool, timeout: float = 120) -> str:
    """Writes or removes a pin; returns the run."""
    platform_with(name)
    config = {"ops": {"write_pin": {"config": {"model": name, "revision": revision, "remove": remove}}}}
    tags = {TAG_ACTION: "unpin" if remove else "pin", TAG_BY: person(), "llm/pin": name}
    run_id, events = _job(dagster, name, Launch(tags, job="pin", config=config), listen, timeout)
    if error := _ended_badly(events, f"the pin of {name}"):
        raise error
    return run_id


def collect(dagster: Dagster, listen: Listener, *, timeout: float = 1800) -> dict[str, Any]:
    """Launches the job `collect`; its reports as one."""
    run_id, events = _job(dagster, "collect", Launch({TAG_ACTION: "collect", TAG_BY: person()}, job="collect"), listen, timeout)
    report: dict[str, Any] = {"removed": [], "kept": [], "freed_bytes": 0, "runs_forgotten": 0, "postponed": None}
    for event in _reported(events, "collection"):
        report |= {key: report[key] + event.facts[key] for key in ("removed", "kept", "freed_bytes", "runs_forgotten")}
        report["postponed"] = report["postponed"] if event.facts["postponed"] == "nothing" else event.facts["postponed"]
    if error := _ended_badly(events, "the collection"):
        raise error
    return {**report, "run_id": run_id}


def approve(dagster: Dagster, name: str, listen: Listener, *, yes: bool, why: str = "", follow: bool = True, timeout: float = 3600) -> Outcome:
    """Approves or rejects the candidate that waits, and follows the run that this causes. Raises Blocked when none waits."""
    model = stage(name)
    decisions = Decisions(model.platform.records, name)
    found, live = waiting(decisions, decisions.approval), decisions.live
    config = {"ops": {"say": {"config": {"model": name, "approve": yes, "why": why}}}}
    _, events = _job(dagster, name, Launch({TAG_ACTION: "approval", TAG_BY: person(), "llm/approval": name}, job="approval", config=config), listen, timeout)
    if error := _ended_badly(events, f"the word on {name}"):
        raise error
    run = run_of_the_verdict(dagster, model)
    if not follow or run is None:
        return Outcome(name, "launched", found.release, run_id=run, notes=() if run else ("the loop does the rest at its next look",))
    ended = followed(dagster, model, run, live.release if live else None, listen, timeout, ())
    if yes or ended.problem:
        return ended
    return replace(ended, result="unchanged", notes=(f"release {found.release} was rejected and is removed",))


def lay_down(dagster: Dagster, name: str, listen: Listener, *, rung: str, follow: bool = True, timeout: float = 900) -> Outcome:
    """Puts a model to sleep because a person said so: no evidence is asked for, but a lease forbids it, and what is being answered is answered first. Raises Blocked."""
    model = stage(name)
    decisions = Decisions(model.platform.records, name)
    found, live = decisions.asleep, decisions.live
    if not decisions.wanted or live is None:
        raise Blocked(f"nothing of {name} serves", next=f"llm-pipeline status {name}")
    if lease := next(iter(decisions.leases(time.time())), None):
        raise held(name, lease)
    record = decisions.release(live.release)
    if rung == "replicas" and record and record.release.spec.engine.kind != "ray":
        raise ConfigError(f"{name} can not sleep on the rung replicas", why=f"that {NEEDS_RAY}", next=f"llm-pipeline sleep {name} --rung suspended")
    if found and not deeper(cast(Rung, rung), found.rung):
        return Outcome(name, "unchanged", found.release, notes=(f"{name} sleeps already ({found.rung})",))
    tags = {TAG_MODEL: name, TAG_BY: person(), TAG_WHY: f"{person()} said so", TAG_ACTION: "sleep", TAG_RELEASE: live.release, TAG_RUNG: rung, TAG_TIMEOUT: str(timeout)}
    run = dagster.launch(Launch(tags, [(name, "ray_service")]))
    if not follow:
        return Outcome(name, "launched", live.release, run_id=run)
    said = heard(dagster, name, run, listen, timeout)
    return slept(model, run, live.release, said) if said.status == "SUCCESS" else outcome(model, run, live.release, said, ())


def slept(model: Model, run: str, before: str, said: Heard) -> Outcome:
    """How a sleep ended whose run ended well. What sleeps is whatever was live when its turn came: another rollout may have gone first."""
    name, decisions = model.name, Decisions(model.platform.records, model.name)
    asleep, live = decisions.asleep, decisions.live
    release = asleep.release if asleep else live.release if live else None
    record = decisions.release(release) if release else None
    made = Outcome(name, "asleep", release, before, record.revision if record else None, model.platform.endpoint.url(name), run, said.changed, said.seconds)
    if asleep:
        return made
    what, why = (f"{name} stays awake", "somebody is still being answered, or took a lease") if decisions.wanted else (f"{name} does not sleep", "it was taken down meanwhile")
    return replace(made, result="unchanged", problem=Problem(what, why=why, next=f"llm-pipeline status {name}"), exit_code=3)


def rouse(dagster: Dagster, name: str, listen: Listener, *, follow: bool = True, timeout: float = 3600) -> Outcome:
    """Wakes a model: what should serve comes up, and where that is refused the release that went to sleep. Awake already: unchanged. Raises Blocked when nobody wants it."""
    model = stage(name)
    decisions = Decisions(model.platform.records, name)
    if not decisions.wanted:
        raise Blocked(f"nobody wants {name}", why="waking is for what sleeps; a model that was taken down stays down", next=f"llm-pipeline up {name}")
    live = decisions.live.release if decisions.live else None
    if decisions.asleep is None:
        return Outcome(name, "unchanged", live, endpoint=model.platform.endpoint.url(name), notes=(f"{name} is awake",))
    decisions.write("due", Due(do="wake", at=time.time(), why=f"{person()} said so"))
    run = run_of_the_verdict(dagster, model)
    if not follow or run is None:
        return Outcome(name, "launched", live, run_id=run, notes=() if run else ("the loop does the rest at its next look",))
    return followed(dagster, model, run, live, listen, timeout, ())


def run_of_the_verdict(dagster: Dagster, model: Model) -> str | None:
    """The run that the loop launches now that something was said. It is not waited for; when it looked at the same moment its run is found by its verdict."""
    _, run = automation.look_now(dagster, components.declared().models[model.name])
    until = time.monotonic() + automation.LAUNCH_SECONDS
    while run is None and (last := Decisions(model.platform.records, model.name).acts.asked) and last.open and time.monotonic() < until:
        found = automation.launched(dagster.instance, model.name, last.n)
        run = found.run_id if found else None
        time.sleep(0.3)
    return run


def _job(dagster: Dagster, name: str, what: Launch, listen: Listener, timeout: float) -> tuple[str, list[Event]]:
    """Launches a job and listens to its end: its run, and what happened."""
    run_id = dagster.launch(what, needs_daemon=False)
    events = []
    for event in dagster.follow(run_id, timeout):
        listen(name, event)
        events.append(event)
    return run_id, events


def _reported(events: Iterable[Event], report: str) -> Iterator[Event]:
    """What the job wrote down at its end, for each cluster or model."""
    return (event for event in events if event.kind == "done" and event.stage.endswith(f"/{report}"))


def _ended_badly(events: Sequence[Event], what: str) -> PipelineError | None:
    """The error that a job failed with; a killed one has none of its own. None: it succeeded."""
    failed = next((event for event in events if event.kind == "failed"), None)
    if failed:
        problem: Problem = failed.facts["problem"]
        return (Blocked if failed.facts["rule"] else PipelineError)(problem.what, why=problem.why, next=problem.next, log=problem.log)
    if events[-1].text == "SUCCESS":
        return None
    return PipelineError(
        f"{what} ended as {events[-1].text} before it could report", why="its process was killed, or a person ended the run",
        next="the same command again goes on where it stopped",
    )  # fmt: skip
