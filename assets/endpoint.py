"""endpoint: the stable address sends the model's requests to the accepted release, and to nothing else.

Upstream     smoke_test
Downstream   whoever asks; benchmark
Unchanged    the router sends the name to this release already
"""

import time
from typing import Any

import dagster as dg
import httpx

from assets import approval
from assets.drain import drain
from assets.ray_service import route_of
from assets.stage import stage
from assets.step import Done, Model, Work, insist_on_life
from infra.documents import Live, Outage
from infra.errors import Blocked, Transient
from infra.platform import Release
from infra.states import EndpointState, Route

PROOFS = 3
"""Answers through the public address that must carry the new release's mark."""


def build(model: Model) -> dg.Definitions:
    """The stage."""
    return dg.Definitions([stage(
        model, "endpoint", switch, after=["smoke_test"], kinds={"openai"},
        description=f"The OpenAI-compatible address where {model.spec.served_name} answers, whatever release serves it.",
    )])  # fmt: skip


def switch(work: Work) -> Done:
    """Flip, prove, drain, remove the old one, prove it gone."""
    release, old = work.release, work.live
    insist_on_acceptance(work, old)
    state = work.platform.ray_service.observe(release)
    if state is None or not state.ready:
        raise Transient(f"{release.name} is not up any more", next=f"llm-pipeline up {work.model.name}")
    work.progress.phase("switch", release.name)
    there = route_of(release, state, work.model.spec.idle.hold)
    route = work.platform.endpoint.apply(there, work.progress)
    proved = prove(work, release, there)
    outage = outage_ended(work)
    if old is None or old.id != release.id:
        work.decisions.write("live", Live(release=release.id, since=time.time(), by=work.run.by))
    drained = retire(work, old) if old and old.id != release.id else 0.0
    approval.forget(work)
    work.decisions.over(work.run.id, "done")
    changed = route.changed or old is None or old.id != release.id
    return Done(release.id, changed=changed, page=page(work, route, proved, drained, old) | outage)


def insist_on_acceptance(work: Work, live: Release | None) -> None:
    """The current attempt must be accepted, whatever Dagster's checks say. What serves already may be pushed to a new router."""
    record = work.record
    last = record.last if record else None
    accepted_now = bool(last and last.run == work.run.id and last.result == "accepted")
    if accepted_now or (live and live.id == work.release.id and not work.begun):
        return
    raise Blocked(
        f"{work.release.name} gets no traffic: this attempt is not accepted", why=f"smoke_test did not pass in this run ({last.result if last else 'never tried'})",
        next=f"llm-pipeline up {work.model.name}",
    )  # fmt: skip


def prove(work: Work, release: Release, route: Route) -> int:
    """Answers through the public address carry this release's mark, or lead to it by all that can be seen. A router that died since it was told is started again."""
    body = {"model": release.served_name, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
    good = 0

    def probe() -> int | None:
        nonlocal good
        try:
            with work.platform.endpoint.client(work.model.name, 60) as client:
                answer = client.post("/completions", json=body)
        except httpx.HTTPError as error:
            work.progress.phase("prove", f"{type(error).__name__}: {error}")
            if isinstance(error, httpx.ConnectError):
                work.platform.endpoint.apply(route, work.progress)
            insist_on_life(work, "its answers were proved")
            return None
        mark = mark_of(work, route, answer)
        good = good + 1 if answer.status_code == 200 and mark == release.name else 0
        work.progress.phase("prove", f"{answer.status_code} from {mark}, {good} of {PROOFS}")
        if not good:
            insist_on_life(work, "its answers were proved")
        return good if good >= PROOFS else probe() if good else None

    return work.progress.until(probe, every=1.0)


def mark_of(work: Work, route: Route, answer: httpx.Response) -> str | None:
    """Who answered. An endpoint that is blind marks nothing: there it is the release to which the address leads, when it leads nowhere else."""
    endpoint = work.platform.endpoint
    if endpoint.counts:
        mark: str | None = answer.headers.get("x-llm-release")
        return mark
    try:
        seen = endpoint.observe(route)
    except Transient:
        return None
    return seen.release if seen and seen.healthy else None


def outage_ended(work: Work) -> dict[str, Any]:
    """Seconds in which nobody answered, when a rollout took the old release away first; measured across the runs that it took."""
    found = work.decisions.read(Outage, "outage")
    if found is None:
        return {}
    seconds = round(time.time() - found.since, 1)
    work.decisions.write("outage", None)
    work.say(f"nobody answered for {seconds} s ({found.why})")
    return {"outage_seconds": seconds, "outage_why": found.why}


def retire(work: Work, old: Release) -> float:
    """The old release answers what it began, then goes; proved gone."""
    seconds = drain(work.platform, old, work.progress)
    work.progress.phase("retire", old.name)
    work.platform.ray_service.delete(old, work.progress)
    if any(state.release == old.name for state in work.platform.ray_service.running(work.model.name)):
        raise Transient(f"{old.name} is still there after its removal", next="llm-pipeline leftovers --delete")
    return seconds


def page(work: Work, state: EndpointState, proved: int, drained: float, old: Release | None) -> dict[str, Any]:
    """Where it answers, and what the switch did."""
    release = work.release
    return {
        "url": dg.MetadataValue.url(state.url), "served_name": release.served_name, "release": release.id, "revision": release.revision, "because": work.run.why, "by": work.run.by,
        "previous_release": old.id if old and old.id != release.id else "none", "answers_proved": proved, "drain_seconds": drained, "table_generation": state.generation,
    }  # fmt: skip
