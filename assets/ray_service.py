"""ray_service: a release is up as a candidate, on an address of its own, without traffic.

Upstream     model_weights, image, gpu_nodepool
Downstream   smoke_test (the gate), then endpoint (the traffic)
Unchanged    this release is up already: nothing restarts
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.step import Done, Model, Work, drain, step
from infra.errors import CapacityError
from infra.platform import Release, Route, ServiceState

CLAIM_SECONDS = 1800.0
"""How long a rollout may go on without renewing its claim: longer than the slowest stage between two renewals."""


def build(model: Model) -> dg.Definitions:
    """The stage."""

    @dg.asset(
        key=model.key("ray_service"), deps=[model.key(stage) for stage in ("model_weights", "image", "gpu_nodepool")], group_name=model.name,
        kinds={"ray", "vllm"}, owners=list(model.spec.owners) or None, output_required=False,
        description="One release as a service of its own: Ray Serve with vLLM. A new release comes up beside the old one and gets no request before it is accepted.",
    )  # fmt: skip
    def ray_service(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield from step(context, model, "ray_service", bring_up)

    return dg.Definitions([ray_service])


def bring_up(work: Work) -> Done:
    """Claims the rollout, clears what is neither desired nor live away, makes room as the spec says, starts."""
    release, service = work.release, work.platform.ray_service
    claim(work)
    clear_away(work)
    state = service.observe(release)
    if state and state.ready:
        state = service.adjust(release, work.progress)
        return Done(release.id, changed=state.changed, page=page(work, state, "none"))
    work.begin()
    how = make_room(work, release)
    state = service.apply(release, work.progress)
    phases = dict(state.phases)
    work.decisions.note(release.id, work.run.id, phases=phases)
    return Done(release.id, changed=True, page=page(work, state, how))


def claim(work: Work) -> None:
    """One rollout per model: another run's candidate must not be taken for something to clear away."""

    def taken() -> bool | None:
        other = work.decisions.take_claim(work.run.id, work.release.id, CLAIM_SECONDS)
        if other is None:
            return True
        if ended(work, other.run):
            work.decisions.drop_claim(other.run)
            return taken()
        work.progress.phase("waiting for another rollout", f"run {other.run[:8]} brings up {other.release}")
        return None

    work.progress.until(taken, every=1.0)


def ended(work: Work, run: str) -> bool:
    """Whether the run that claims is over (or unknown, when Dagster's storage was lost: then its claim has to expire)."""
    found = work.context.instance.get_run_by_id(run)
    return bool(found and found.is_finished)


def clear_away(work: Work) -> None:
    """Removes every release of this model that is neither desired nor live: candidates of runs that died."""
    keep = {work.release.name, work.live.name if work.live else ""}
    for state in work.platform.ray_service.running(work.model.name):
        if state.release not in keep:
            work.say(f"removing {state.release}: neither desired nor live")
            work.platform.ray_service.remove(state.release, work.progress)


def make_room(work: Work, release: Release) -> str:
    """Blue/green when both fit; else what the spec says. Returns the strategy that was chosen, with the reason."""
    live = work.live
    old = work.platform.ray_service.observe(live) if live and live.id != release.id else None
    if live is None or old is None or old.phase == "dead":
        return "first release" if live is None else "nothing serves"
    rules = work.model.spec.release
    found = work.platform.gpu_nodepool.room(release)
    if rules.strategy == "blue_green" and found.fits:
        return f"blue_green: {found.why}"
    choice = "recreate" if rules.strategy == "recreate" else rules.without_room
    if choice == "wait":
        work.progress.phase("waiting for room", found.why)
        work.progress.until(lambda: work.platform.gpu_nodepool.room(release).fits or None, every=5.0)
        return f"blue_green, after a wait for room: {found.why}"
    if choice == "fail":
        raise CapacityError(f"no room for {release.name} beside {live.name}", why=found.why, next="make room, or set release.without_room: recreate (an outage)")
    expected = outage_seconds(work)
    work.say(f"recreate: {live.name} goes first; nothing answers for about {expected:.0f} s ({found.why})")
    work.platform.endpoint.closed(work.model.name, live.served_name, expected, "recreate", work.progress)
    drain(work.platform, live, work.progress)
    work.platform.ray_service.delete(live, work.progress)
    return f"recreate: {found.why}"


def outage_seconds(work: Work) -> float:
    """How long a start takes, from this model's own history; 90 s when there is none."""
    took = [sum(a.phases.values()) for r in work.decisions.releases().values() for a in r.attempts if a.result == "accepted" and a.phases]
    return sorted(took)[len(took) // 2] if took else 90.0


def route_of(release: Release, state: ServiceState) -> Route:
    """The way to a release."""
    assert state.address is not None, f"{release.name} has no address"
    return Route(release.model, release.served_name, release.name, state.address)


def page(work: Work, state: ServiceState, how: str) -> dict[str, Any]:
    """Which release, how it got its room, how long each phase took, what the engine says of itself."""
    out: dict[str, Any] = {"release": work.release.id, "revision": work.release.revision, "strategy": how, "address": f"http://{state.address[0]}:{state.address[1]}/v1" if state.address else "none"}
    took = sum(state.phases.values())
    if took:
        out |= {"start_seconds": round(took, 1), "unexplained_percent": round(100 * state.phases.get("unexplained", 0) / took, 1)}
        out |= {f"phase {name}": round(value, 2) for name, value in state.phases.items()}
    return out | {f"engine {name}": value for name, value in list(state.arguments.items())[:20]}
