"""What a release stands on, link by link, and the first link that does not hold. Pure: it judges one look.

    cluster → node → image → weights → ray → application → router      engine.kind: ray
    cluster → node → image → weights → engine → router                 engine.kind: vllm
                                                  service              in place of the router, with endpoint.via: service

A link is told by a known cause (causes.py) where an object shows one, else by the plain state of the objects. The router is asked by
whoever looks: it is no object of the release.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from infra.errors import redact
from infra.kubernetes import causes, kinds, reading
from infra.kubernetes.causes import KNOWN, Cause
from infra.kubernetes.rayservice_manifest import HEAD, WORKER
from infra.states import Link

Object = dict[str, Any]

CLUSTER, NODE, IMAGE, WEIGHTS, RAY, APPLICATION, ENGINE, ROUTER = "cluster", "node", "image", "weights", "ray", "application", "engine", "router"
SERVICE = "service"

OF_RAY = (CLUSTER, NODE, IMAGE, WEIGHTS, RAY, APPLICATION, ROUTER)
OF_A_SERVER = (CLUSTER, NODE, IMAGE, WEIGHTS, ENGINE, ROUTER)

STANDS_ON = {
    CLUSTER: "quota limit_range pod_security webhook account",
    NODE: "gpus volumes_full resources selector taint unschedulable preempted node_refused evicted_disk evicted drained device_plugin gpu_driver sandbox",
    IMAGE: "image_name image_platform image_missing image_denied image_disk image_certificate image_unreachable image_pull program root",
    WEIGHTS: "claim_missing claim_pending volume_elsewhere volume_taken mount",
    RAY: "rayservice_refused reference container_config memory",
}
"""Which link each known cause breaks."""

LINK_OF = {name: link for link, names in STANDS_ON.items() for name in names.split()}


@dataclass(frozen=True)
class Seen:
    """One look at what a release stands on.

    ray        whether Ray runs the engine, else it is a plain server
    verified   whether the claim's files were read and found right
    main       the RayService or Deployment
    events     of what stands still
    """

    ray: bool
    namespace: Object | None
    claim: Object | None
    verified: bool
    main: Object | None
    pods: tuple[Object, ...]
    events: tuple[Object, ...]

    @property
    def there(self) -> bool:
        """Whether anything of the release is."""
        return bool(self.main or self.pods)

    @property
    def now(self) -> tuple[Object, ...]:
        """The pods that count: ended ones only where there are no others."""
        alive = tuple(pod for pod in self.pods if (pod.get("status") or {}).get("phase") not in ("Failed", "Succeeded"))
        return alive or self.pods


@dataclass(frozen=True)
class Broken:
    """The first link that does not hold. `words`: the objects' own; `pods`: those that show it, none: no pod does."""

    link: str
    words: str
    cause: Cause | None = None
    pods: tuple[Object, ...] = ()


def first(seen: Seen) -> Broken | None:
    """None: everything but the router holds."""
    found = _causes(seen)
    for link in OF_RAY if seen.ray else OF_A_SERVER:
        mine = [cause for cause in found if _same(LINK_OF[cause.known.name], link)]
        if mine:
            cause = min(mine, key=lambda one: KNOWN.index(one.known))
            return Broken(link, cause.sign.reason or cause.known.name, cause, _named(seen, cause.sign.about))
        if broken := PLAIN[link](seen) if link in PLAIN else None:
            return broken
    return None


def links(seen: Seen, broken: Broken | None, *, router: bool, front: str = ROUTER) -> tuple[Link, ...]:
    """All of them. Behind the broken one nothing is known; and of node and image nothing, where there is no pod.

    `front`: what the last of them is, ROUTER or SERVICE; `router`: whether it was asked.
    """
    names, rows, held = (*(OF_RAY if seen.ray else OF_A_SERVER)[:-1], front), [], True
    for name in names:
        if broken and name == broken.link:
            rows.append(Link(name, holds=False, why=redact(broken.words)))
            held = False
        else:
            unknown = (name in (NODE, IMAGE) and not seen.pods) or (name == front and not router)
            rows.append(Link(name, holds=None if unknown or not held else True))
    return tuple(rows)


def cause_of(pods: Sequence[Object]) -> Cause | None:
    """What some pods alone show: the row that stands first in the table."""
    return causes.cause(sign for pod in pods for sign in causes.of_pod(pod))


# ------------------------------------------------ causes


def _causes(seen: Seen) -> list[Cause]:
    """What each sign means; of a container that is ready nothing that is over."""
    signs = [*(causes.of_conditions(seen.main) if seen.main else ())]
    for pod in seen.now:
        well = {f"pod {pod['metadata']['name']}, container {name}" for name, row in reading.containers(pod).items() if row.get("ready")}
        signs += [sign for sign in causes.of_pod(pod) if not (sign.where == "ended" and sign.about in well)]
    signs += [sign for event in seen.events for sign in causes.of_event(event)]
    return [cause for sign in signs if (cause := causes.cause([sign]))]


def _same(told: str, link: str) -> bool:
    """What would break Ray breaks a plain server."""
    return told == link or (told == RAY and link == ENGINE)


def _named(seen: Seen, about: str) -> tuple[Object, ...]:
    return tuple(pod for pod in seen.now if pod["metadata"]["name"] in about.replace(",", " ").split())


def _for_weights(pod: Object) -> bool:
    """Whether what it waits for is the volume."""
    return any((cause := causes.cause([sign])) and LINK_OF[cause.known.name] == WEIGHTS for sign in causes.of_pod(pod))


# ------------------------------------------------ plain states


def _cluster(seen: Seen) -> Broken | None:
    if seen.namespace is None:
        return Broken(CLUSTER, "its namespace is not there")
    return Broken(CLUSTER, "its namespace is going away") if seen.namespace["metadata"].get("deletionTimestamp") else None


def _node(seen: Seen) -> Broken | None:
    found = tuple(pod for pod in seen.now if not _placed(pod) and not _for_weights(pod))
    told = [(reading.condition(pod, "PodScheduled") or {}).get("message") for pod in found]
    return Broken(NODE, told[0] or f"pod {found[0]['metadata']['name']} has no node yet", pods=found) if found else None


def _image(seen: Seen) -> Broken | None:
    found = tuple(pod for pod in seen.now if _placed(pod) and not reading.began(pod) and not _for_weights(pod))
    return Broken(IMAGE, f"pod {found[0]['metadata']['name']} on {found[0]['spec'].get('nodeName', 'its node')}: {_waiting(found[0])}", pods=found) if found else None


def _weights(seen: Seen) -> Broken | None:
    if seen.claim is None:
        return Broken(WEIGHTS, "their claim is not there")
    name, phase = seen.claim["metadata"]["name"], (seen.claim.get("status") or {}).get("phase")
    if phase != "Bound" and (seen.there or phase == "Lost"):
        return Broken(WEIGHTS, f"claim {name} is {phase or 'Pending'}")
    return None if seen.verified else Broken(WEIGHTS, f"the files on claim {name} are not verified")


def _ray(seen: Seen) -> Broken | None:
    if broken := _made(seen, RAY) or _containers(seen, RAY):
        return broken
    heads = tuple(pod for pod in seen.now if HEAD in reading.containers(pod))
    if not heads or (reading.condition(heads[0], "Ready") or {}).get("status") != "True":
        return Broken(RAY, "its head is not ready", pods=heads)
    workers = tuple(pod for pod in seen.now if reading.runs(pod, WORKER))
    return None if workers else Broken(RAY, "no worker of it runs", pods=tuple(pod for pod in seen.now if pod not in heads))


def _application(seen: Seen) -> Broken | None:
    return _state(seen, APPLICATION)


def _engine(seen: Seen) -> Broken | None:
    return _made(seen, ENGINE) or _containers(seen, ENGINE) or _state(seen, ENGINE)


PLAIN: dict[str, Callable[[Seen], Broken | None]] = {
    CLUSTER: _cluster, NODE: _node, IMAGE: _image, WEIGHTS: _weights, RAY: _ray, APPLICATION: _application, ENGINE: _engine,
}  # fmt: skip


def _made(seen: Seen, link: str) -> Broken | None:
    """Whether somebody made its pods."""
    kind = (kinds.RAY_SERVICE if seen.ray else kinds.DEPLOYMENT).name
    if seen.main is None:
        return Broken(link, f"its {kind} is not there" if seen.pods else "nothing of it runs", pods=seen.pods)
    if not seen.pods:
        unseen = not (seen.main.get("status") or {}).get("observedGeneration")
        return Broken(link, f"nobody acts on its {kind}: is its controller there?" if unseen else f"its {kind} has no pods yet")
    return None


def _containers(seen: Seen, link: str) -> Broken | None:
    """Whether they run. One that was restarted and is ready again does."""
    for pod in seen.now:
        for name, row in reading.containers(pod).items():
            if row.get("ready") or ((row.get("state") or {}).get("running") and not row.get("restartCount")):
                continue
            ended = (row.get("state") or {}).get("terminated") or (row.get("lastState") or {}).get("terminated")
            told = f"ended with exit {ended.get('exitCode')}, {row.get('restartCount', 0)} restarts" if ended else _waiting(pod)
            return Broken(link, f"pod {pod['metadata']['name']}, container {name}: {told}", pods=(pod,))
    return None


def _state(seen: Seen, link: str) -> Broken | None:
    assert seen.main is not None
    found, why = reading.state(seen.main)
    computing = tuple(pod for pod in seen.now if WORKER in reading.containers(pod)) or seen.now
    return None if found == "RUNNING" else Broken(link, f"{found}: {_in_short(why)}", pods=computing)


def _in_short(why: str) -> str:
    """Serve tells whole tracebacks: how they begin, and their last line, which says what it was."""
    lines = [line.strip() for line in why.splitlines() if line.strip()]
    return f"{lines[0]} … {lines[-1]}" if len(lines) > 1 else why


def _placed(pod: Object) -> bool:
    """Whether it has a node."""
    return (reading.condition(pod, "PodScheduled") or {}).get("status") == "True" or bool(pod["spec"].get("nodeName") or reading.containers(pod))


def _waiting(pod: Object) -> str:
    """What its containers wait for."""
    status: Object = pod.get("status") or {}
    rows: Sequence[Object] = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    return next((waiting["reason"] for row in rows if (waiting := (row.get("state") or {}).get("waiting")) and waiting.get("reason")), "its containers are not started yet")
