"""ray_service: a release is up as a candidate, on an address of its own, without traffic.

Upstream     model_weights, image, gpu_nodepool
Downstream   smoke_test (the gate), then endpoint (the traffic)
Unchanged    this release is up already: nothing restarts
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import dagster as dg

from assets import approval, sleep
from assets.drain import drain
from assets.stage import stage
from assets.step import Done, Model, Work
from infra import workers
from infra.decisions import Decisions
from infra.documents import Claim, Outage
from infra.errors import Blocked, CapacityError
from infra.idle import Hold
from infra.platform import Release, model_of
from infra.starts import usual
from infra.states import Capacity, Route, ServiceState

CLAIM_SECONDS = 1800.0
"""How long a rollout may go on without renewing its claim: longer than the slowest stage between two renewals."""


def build(model: Model) -> dg.Definitions:
    """The stage."""
    return dg.Definitions([stage(
        model, "ray_service", bring_up, after=["model_weights", "image", "gpu_nodepool"], kinds={"ray", "vllm"},
        description="One release as a service of its own: Ray Serve with vLLM. A new release comes up beside the old one and gets no request before it is accepted.",
    )])  # fmt: skip


def bring_up(work: Work) -> Done:
    """Claims the rollout, clears what is neither desired nor live away, makes room as the spec says, starts. A run that is to put the model to sleep does that."""
    release, service = work.release, work.platform.ray_service
    claim(work)
    if work.run.action == "sleep":
        return sleep.lay_down(work)
    own_name(work)
    sleep.wake(work)
    sleep.announce(work)
    clear_away(work)
    state = service.observe(release)
    if state and state.ready:
        state = service.adjust(release, work.progress)
        return Done(release.id, changed=state.changed, page=page(work, state, "none"))
    work.begin()
    with make_room(work, release) as how:
        state = service.apply(release, work.progress)
    phases = dict(state.phases)
    work.decisions.note(release.id, work.run.id, phases=phases)
    return Done(release.id, changed=True, page=page(work, state, how))


def claim(work: Work) -> None:
    """One rollout per model: another run's candidate must not be taken for something to clear away."""

    def taken() -> bool | None:
        other = work.decisions.take_claim(work.run.id, work.release.id, CLAIM_SECONDS, work.run.worker)
        if other is None:
            return True
        if ended(work, other):
            work.decisions.abandoned(other.run, other.release)
            return taken()
        work.progress.phase("waiting for another rollout", f"run {other.run[:8]} brings up {other.release}")
        return None

    work.progress.until(taken, every=1.0)


def ended(work: Work, claim: Claim) -> bool:
    """Whether the run that claims is over: its process is gone, or Dagster says so.

    Where neither can be told (Dagster's storage was lost) the claim has to expire. One that ends later than any claim can was
    made before the clock was set back.
    """
    found = work.context.instance.get_run_by_id(claim.run)
    return workers.gone(claim.worker) or (found.is_finished if found else claim.until > time.time() + CLAIM_SECONDS)


def clear_away(work: Work) -> None:
    """Removes every release of this model that is neither desired nor live: candidates of runs that died, and one that waited for a person."""
    keep = {work.release.name, work.live.name if work.live else "", approval.beside(work)}
    for state in work.platform.ray_service.running(work.model.name):
        if state.release not in keep:
            work.say(f"removing {state.release}: neither desired nor live")
            work.platform.ray_service.remove(state.release, work.progress)
    approval.settle(work)


def own_name(work: Work) -> None:
    """One served name, one model: another one that is wanted must not lose its route to this one."""
    release = work.release
    seen = work.platform.endpoint.observe(Route(release.model, release.served_name, release.name, ("127.0.0.1", 0)))
    other = model_of(seen.release) if seen and seen.release else release.model
    if other != release.model and Decisions(work.platform.records, other).wanted:
        raise Blocked(
            f"{release.served_name} is what {other} serves", why=f"{seen.release if seen else other} answers for that name, and {other} is wanted",
            next=f"llm-pipeline down {other}, or another served_name for {release.model}",
        )  # fmt: skip


@contextmanager
def make_room(work: Work, release: Release) -> Iterator[str]:
    """Room for the start, kept from others until it is up. Blue/green when both fit; else what the spec says: the strategy, with the reason."""
    live, nodepool = work.live, work.platform.gpu_nodepool
    old = work.platform.ray_service.observe(live) if live and live.id != release.id else None
    with ExitStack() as kept:
        if live is None or old is None or not old.computes:
            in_place_of_the_dead(work, release, kept)
            yield "first release" if live is None else "nothing serves"
            return
        found = kept.enter_context(nodepool.reserve(release, work.progress))
        unapproved = approval.needed(work)
        choice = strategy(release, found, unapproved=unapproved)
        if choice == "blue_green":
            yield f"blue_green: {found.why}"
        elif choice == "fail":
            raise no_room_beside(release, live, found, unapproved=unapproved)
        elif choice == "wait":
            wait_for_room(work, release, found, kept)
            yield f"blue_green, after a wait for room: {found.why}"
        else:
            kept.close()
            instead = kept.enter_context(nodepool.reserve(release, work.progress, without=(live.name,)))
            insist(release, instead)
            take_away(work, live, found)
            yield f"recreate: {found.why}"


def strategy(release: Release, found: Capacity, *, unapproved: bool = False) -> str:
    """blue_green · recreate · wait · fail: what happens to a release that serves already. It never goes for one that still waits for a person's word:
    nobody would answer until somebody said it.
    """
    rules = release.spec.release
    if found.fits and (unapproved or rules.strategy == "blue_green"):
        return "blue_green"
    choice = "recreate" if rules.strategy == "recreate" else rules.without_room
    return "fail" if unapproved and choice == "recreate" else choice


def no_room_beside(release: Release, live: Release, found: Capacity, *, unapproved: bool) -> CapacityError:
    """Why nothing is done, and what would help."""
    if unapproved:
        return CapacityError(
            f"no room for {release.name} beside {live.name}, which stays until somebody approves another", why=found.why,
            next="make room; or set updates.policy: manual, then: llm-pipeline up --revision (an outage)",
        )  # fmt: skip
    return CapacityError(f"no room for {release.name} beside {live.name}", why=found.why, next="make room, or set release.without_room: recreate (an outage)")


def in_place_of_the_dead(work: Work, release: Release, kept: ExitStack) -> None:
    """Nothing serves. What is left of dead releases of this model, and of those that rest, goes when there is no room beside it."""
    found = kept.enter_context(work.platform.gpu_nodepool.reserve(release, work.progress))
    if found.fits:
        return
    kept.close()
    dead = spent(work.platform.ray_service.running(work.model.name), release)
    insist(release, kept.enter_context(work.platform.gpu_nodepool.reserve(release, work.progress, without=dead)))
    for name in dead:
        work.platform.ray_service.remove(name, work.progress)


def spent(left: Iterable[ServiceState], release: Release) -> tuple[str, ...]:
    """Which of these go where there is no room beside them: who is dead, or rests for another release."""
    return tuple(state.release for state in left if state.phase == "dead" or (state.phase == "shrunk" and state.release != release.name))


def insist(release: Release, found: Capacity) -> None:
    """Raises CapacityError with the numbers when there is no room."""
    if not found.fits:
        raise CapacityError(f"no room for {release.name}", why=found.why, next="llm-pipeline status shows what else runs; take something down, or lower what it needs")


def wait_for_room(work: Work, release: Release, found: Capacity, kept: ExitStack) -> None:
    """Looks every five seconds, and keeps the room as soon as there is some."""
    work.progress.phase("waiting for room", found.why)

    def free() -> bool | None:
        kept.close()
        return kept.enter_context(work.platform.gpu_nodepool.reserve(release, work.progress)).fits or None

    work.progress.until(free, every=5.0)


def take_away(work: Work, live: Release, found: Capacity) -> None:
    """`recreate`: the outage is announced, with its reason and its length; from now on it is measured."""
    expected = usual(work.decisions)
    held = "" if work.platform.endpoint.counts else "; without a router requests are refused at once, none is held"
    work.say(f"recreate: {live.name} goes first; nothing answers for about {expected:.0f} s ({found.why}){held}")
    work.progress.phase("outage", f"nothing answers for about {expected:.0f} s ({found.why})")
    work.platform.endpoint.closed(work.model.name, live.served_name, expected, "recreate", work.progress)
    if work.decisions.read(Outage, "outage") is None:
        work.decisions.write("outage", Outage(since=time.time(), run=work.run.id, why=found.why))
    drain(work.platform, live, work.progress)
    work.platform.ray_service.delete(live, work.progress)


def route_of(release: Release, state: ServiceState, hold: Hold) -> Route:
    """The way to a release. `hold` as it is declared now, whatever was when the release was made."""
    assert state.address is not None, f"{release.name} has no address"
    return Route(release.model, release.served_name, release.name, state.address, hold)


def page(work: Work, state: ServiceState, how: str) -> dict[str, Any]:
    """Which release, how it got its room, how long each phase took, what the engine says of itself."""
    out: dict[str, Any] = {"release": work.release.id, "revision": work.release.revision, "strategy": how, "address": f"http://{state.address[0]}:{state.address[1]}/v1" if state.address else "none"}
    took = sum(state.phases.values())
    if took:
        out |= {"start_seconds": round(took, 1), "unexplained_percent": round(100 * state.phases.get("unexplained", 0) / took, 1)}
        out |= {f"phase {name}": round(value, 2) for name, value in state.phases.items()}
    return out | {f"engine {name}": value for name, value in list(state.arguments.items())[:20]}
