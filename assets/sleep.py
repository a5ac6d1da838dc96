"""sleep: a model that nobody uses is stopped, and stays wanted. Told by the tag of the run, so that no click in the graph does it.

    1  who asked, and whether it still holds: a lease, a request or new arrivals since then, and nothing is done
    2  the record `asleep` comes first: killed anywhere behind it, the loop finishes this
    3  the endpoint holds what comes from now on; what runs is drained. What is not drained in time keeps the model awake
    4  on the rung `replicas` the engine goes and Ray stays; else the service goes, and on the rung `nodepool` its nodes

Waking needs no stage of its own: the record goes, and the loop, or the run of a person, brings up what should serve.
"""

import time
from typing import Any

from assets.drain import drain
from assets.step import TAG_QUIET, TAG_RUNG, Done, Work
from infra.decisions import Decisions
from infra.documents import Asleep, Lease
from infra.errors import Blocked, Transient
from infra.hours import utc
from infra.idle import NEEDS_RAY, OF_A_MODEL, RUNGS, Rung
from infra.platform import Platform, Release
from infra.starts import waking
from infra.states import Route


class Awake(Exception):
    """Somebody needs the model after all; the text says who."""


def lay_down(work: Work) -> Done:
    """Stops the live release, as deep as the run's tags say. Asleep so deep already, and nothing left of it: nothing changes."""
    live = work.live
    if live is None:
        raise Blocked(f"nothing of {work.model.name} serves", next=f"llm-pipeline status {work.model.name}")
    rung = rung_of(work, live)
    try:
        insist_on_nobody(work, live)
        asleep = remember(work, live, rung)
        close(work, live, asleep)
    except Awake as found:
        work.say(f"it stays awake: {found}")
        work.decisions.over(work.run.id, "nothing to do")
        return Done("awake", changed=False, page={"awake because": str(found)})
    stop(work, live, rung)
    asleep = asleep.model_copy(update={"done": True, "freed": freed(work, live, asleep)})
    work.decisions.write("asleep", asleep)
    if (due := work.decisions.due) and due.do == "sleep":
        work.decisions.write("due", None)
    work.decisions.over(work.run.id, "done")
    return Done(f"asleep:{rung}", changed=True, page=page(work, asleep))


def stop(work: Work, live: Release, rung: Rung) -> None:
    """Takes away what the rung says, and whatever else of the model runs."""
    service = work.platform.ray_service
    for state in service.running(work.model.name):
        work.progress.phase("stop", state.release)
        if state.release != live.name:
            service.remove(state.release, work.progress)
        elif rung == "replicas":
            service.shrink(live, work.progress)
        else:
            service.rest(live.name, work.progress)
    if rung == "nodepool":
        work.progress.phase("nodepool", live.name)
        work.platform.gpu_nodepool.delete(live, work.progress)


def rung_of(work: Work, live: Release) -> Rung:
    """How deep: as the run says, never less deep than it sleeps already. What serves may be older than the ladder: what has no replicas to take away is
    suspended; a person is told.
    """
    said = work.context.run.tags.get(TAG_RUNG, "suspended")
    if said not in OF_A_MODEL:
        raise Blocked(f"{said} is no rung that a model goes down by itself", next=f"llm-pipeline sleep {work.model.name} --rung {' or --rung '.join(OF_A_MODEL)}")
    if said == "replicas" and live.spec.engine.kind != "ray":
        if not work.run.by_loop:
            raise Blocked(f"{live.name} can not sleep on the rung replicas", why=f"that {NEEDS_RAY}", next=f"llm-pipeline sleep {work.model.name} --rung suspended")
        said = "suspended"
    found = work.decisions.asleep
    return max(said, found.rung if found and found.rung in OF_A_MODEL else said, key=RUNGS.index)


def insist_on_nobody(work: Work, live: Release) -> None:
    """Raises Awake when somebody needs it by now: what was decided on is looked at again where it is done. A person who is refused is told."""
    lease = next(iter(work.decisions.leases(time.time())), None)
    if lease:
        error = held(work.model.name, lease)
        raise Awake(error.problem.what) if work.run.by_loop else error
    if work.decisions.asleep or not (since := work.context.run.tags.get(TAG_QUIET)):
        return
    seen = work.platform.usage.sample(work.model.name)
    quiet = work.platform.usage.quiet(work.model.name, time.time())
    if seen is None or seen.in_flight or quiet.since is None or quiet.since > float(since) + 1:
        raise Awake(f"{seen.in_flight if seen else 'an unknown number of'} requests are being answered; {quiet.why}")


def held(model: str, lease: Lease) -> Blocked:
    """Why a person's word does not put it to sleep."""
    who = f"{lease.holder} holds a lease ({lease.reason}) until {utc(lease.until)}"
    return Blocked(f"{model} is needed: {who}", next=f"llm-pipeline lease release {lease.id}, if it shall sleep all the same")


def remember(work: Work, live: Release, rung: Rung) -> Asleep:
    """The record, before anything is stopped."""
    if found := work.decisions.asleep:
        left = work.platform.ray_service.memory(live.name) if found.done else 0
        used = found.freed + left if found.freed is not None and left is not None else None
        made = found.model_copy(update={"rung": rung, "done": False, "freed": used, "freed_usd": freed_usd(work.platform, live, rung, found.freed_usd)})
        work.decisions.write("asleep", made)
        return made
    quiet = work.context.run.tags.get(TAG_QUIET)
    return begun(work.platform, work.decisions, live, rung=rung, why=work.run.why, by=work.run.by, quiet=float(quiet) if quiet else None)


def begun(platform: Platform, decisions: Decisions, live: Release | None, *, rung: Rung, why: str, by: str, quiet: float | None = None) -> Asleep:
    """Writes that it sleeps from now on, and is not done with it. `live`: what serves until then."""
    made = Asleep(
        rung=rung, since=time.time(), why=why, by=by, release=live.id if live else "", quiet=quiet, wake_seconds=waking(decisions),
        freed=platform.ray_service.memory(live.name) if live else None, freed_usd=freed_usd(platform, live, rung), done=False,
    )  # fmt: skip
    decisions.write("asleep", made)
    return made


def freed_usd(platform: Platform, live: Release | None, rung: Rung, before: float | None = None) -> float | None:
    """Asked before anything stops: what it ran on can not be told afterwards. `before`: what a lighter sleep gave back already."""
    more = platform.prices.freed(live, rung) if platform.prices and live else None
    return before if more is None else more + (before or 0.0)


def close(work: Work, live: Release, asleep: Asleep) -> None:
    """Nothing new reaches it, and what it answers is answered. Not within its time, or somebody came meanwhile: it is opened again, and Awake raised."""
    endpoint = work.platform.endpoint
    hold = work.model.spec.idle.hold
    endpoint.rests(Route(live.model, live.served_name, live.name, ("127.0.0.1", 0), hold), asleep.wake_seconds, work.progress)
    drain(work.platform, live, work.progress)
    running = work.platform.ray_service.observe(live)
    if running is None or not running.ready or running.address is None or not (who := still(work, live)):
        return
    work.decisions.write("asleep", None)
    endpoint.apply(Route(live.model, live.served_name, live.name, running.address, hold), work.progress)
    raise Awake(who)


def still(work: Work, live: Release) -> str:
    """Who is answered still, or asked since the endpoint holds what comes; empty: nobody, or nobody counts here. Where it can not be told somebody may be."""
    if not work.platform.endpoint.counts:
        return ""
    left, seen = work.platform.endpoint.in_flight(live.name), work.platform.usage.sample(work.model.name)
    if left is None or seen is None:
        return "nobody can tell whether it answers somebody"
    if left:
        return f"{left} requests are still being answered after {live.spec.release.drain_seconds} s"
    return f"{seen.asked} requests came while it was about to sleep" if seen.asked else ""


def freed(work: Work, live: Release, asleep: Asleep) -> int | None:
    """Bytes that it does not use any more, of those that it used before; None: nobody can tell."""
    left = work.platform.ray_service.memory(live.name)
    return max(0, asleep.freed - left) if asleep.freed is not None and left is not None else None


def page(work: Work, asleep: Asleep) -> dict[str, Any]:
    """The rung, the evidence, what was freed and what waking costs."""
    out: dict[str, Any] = {"rung": asleep.rung, "because": asleep.why, "by": asleep.by, "release": asleep.release, "wake_seconds": round(asleep.wake_seconds, 1)}
    if asleep.freed_usd is not None:
        out["usd_per_hour_freed"] = asleep.freed_usd
    if asleep.freed is not None:
        out["freed_bytes"] = asleep.freed
    if asleep.rung == "replicas":
        out["stays"] = "Ray's head; on a cluster also its pods with their nodes, but for workers that Ray's autoscaler gives back"
    if asleep.quiet is not None:
        out["nobody_since"] = utc(asleep.quiet)
    return out


def wake(work: Work) -> None:
    """What a person runs wakes the model, and ends what a calendar asked for; the loop's run wakes it where its record is still there."""
    if found := work.decisions.asleep:
        work.say(f"waking from {found.rung}; that takes about {found.wake_seconds:.0f} s")
        work.decisions.write("asleep", None)
    if (due := work.decisions.due) and ((found and due.do == "wake") or not work.run.by_loop):
        work.decisions.write("due", None)


def announce(work: Work) -> None:
    """Requests that came while it slept wait, or are told how long its start takes."""
    live = work.live
    if live is None:
        return
    try:
        seen = work.platform.endpoint.observe(Route(live.model, live.served_name, live.name, ("127.0.0.1", 0)))
        if seen and seen.rest in ("asleep", "failed"):
            work.platform.endpoint.closed(live.model, live.served_name, waking(work.decisions), "waking", work.progress)
    except Transient as error:
        work.say(f"the endpoint was not told: {error.problem.what}")
