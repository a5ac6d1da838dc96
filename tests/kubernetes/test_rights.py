"""The printed rights are what the platform needs and no more: whole lives under an account that has just those, compared with the audit log."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from infra import kubernetes
from infra.errors import ConfigError, Denied, Withdrawn
from infra.kubernetes import karpenter, kinds, lease, operator, rights, startup
from infra.kubernetes.api import Object, kind_of
from infra.kubernetes.kinds import Kind
from infra.kubernetes.place import Place
from infra.kubernetes.rights import Right
from infra.kubernetes.weights_job import claim_name
from infra.platform import Release
from infra.specs import ClusterSpec
from infra.states import Route
from infra.waiting import Progress
from tests.doubles.hub import Hub
from tests.doubles.model import model_files
from tests.kubernetes import lab as labs
from tests.kubernetes.lab import Lab
from tests.kubernetes.story import PATIENCE, Far, far
from tests.kubernetes.test_karpenter import POOL, node_class

TOKEN = "hf_" + "tokenoftests"
ACCOUNT = "llm-pipeline"
LEASES = "coordination.k8s.io/leases"

Used = tuple[str, str, str]
"""A verb, a resource (`group/plural/sub`), and where: a namespace, `*` for all of them, or `=name` of one object."""


@dataclass
class Limited:
    """An account with the printed rights, and what it asked for so far."""

    lab: Lab
    place: Place

    def events(self) -> Iterator[dict[str, Any]]:
        """Its requests in the audit log."""
        who = f"system:serviceaccount:{self.place.namespace}:{ACCOUNT}"
        with Path(self.lab.cluster.audit_log).open() as log:
            for line in log:
                if who in line and line.endswith("\n"):
                    event = json.loads(line)
                    if event["user"]["username"] == who and "objectRef" in event:
                        yield event

    def used(self) -> set[Used]:
        """What was asked for and not refused. An apply that made something was a create too."""
        return {use for event in self.events() if event["responseStatus"]["code"] not in (401, 403) for use in _uses(event)}

    def refused(self) -> list[str]:
        return [f"{event['verb']} {event['requestURI']}" for event in self.events() if event["responseStatus"]["code"] in (401, 403)]

    @contextmanager
    def slowly(self, kind: Kind, name: str, namespace: str | None = None, *, end: bool = False) -> Iterator[None]:
        """In the block this object does not go before the account watches its kind. `end`: the test removes it then."""

        def keep(finalizers: dict[str, Any]) -> None:
            meta = {"name": name, **({"namespace": namespace} if namespace else {}), **finalizers}
            body = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": meta}
            self.lab.api.call("PATCH", kind.path(namespace, name), {"fieldManager": "test", "force": "true"}, body, content="application/apply-patch+yaml")

        def go() -> None:
            self.until_used(("watch", "/".join(filter(None, (kind.group, kind.plural)))))
            if end:
                self.lab.api.delete(kind, name, namespace)
            keep({})

        keep({"finalizers": ["test/slow"]})
        with meanwhile(go):
            yield

    def refused_without(self, verb: str, manifest: Object) -> None:
        """With this verb taken away, the account may not make this any more."""
        role = next(item for item in rights.manifests(self.place.block, ACCOUNT, self.place.via) if item["kind"] == "Role")
        rules = [{**rule, "verbs": [one for one in rule["verbs"] if one != verb]} for rule in role["rules"]]
        self.lab.api.apply({**role, "rules": rules})
        kind, meta = kind_of(manifest), manifest["metadata"]

        def denied() -> bool | None:
            try:
                self.place.api.apply(manifest)
            except Denied:
                return True
            self.lab.api.delete(kind, meta["name"], meta["namespace"])
            return None

        Progress(PATIENCE).until(denied, every=0.5)
        self.lab.api.apply(role)

    def until_used(self, *uses: tuple[str, str]) -> None:
        """Waits until these verbs on these resources are in the log: what happens meanwhile goes on until then."""
        Progress(PATIENCE).until(lambda: True if set(uses) <= {(verb, what) for verb, what, _ in self.used()} else None, every=0.5)


def _uses(event: dict[str, Any]) -> Iterator[Used]:
    asked = event["objectRef"]
    resource = "/".join(filter(None, (asked.get("apiGroup"), asked["resource"], asked.get("subresource"))))
    verbs = [event["verb"], *(["create"] if event["verb"] == "patch" and event["responseStatus"]["code"] == 201 else [])]
    for verb in verbs:
        yield verb, resource, asked.get("namespace") or "*"
        yield verb, resource, f"={asked.get('name')}"


def _granted(table: Sequence[Right], namespace: str) -> set[Used]:
    """Every printed verb. Escalate and bind are no requests: whoever makes roles uses them."""
    out = set()
    for right in table:
        resource = "/".join(filter(None, (right.kind.group, right.resource)))
        for verb in set(right.verbs) - {"escalate", "bind"}:
            out |= {(verb, resource, f"={name}") for name in right.names} or {(verb, resource, "*" if right.outside else namespace)}
    return out


def limited(lab: Lab, place: Place) -> Limited:
    """An administrator applies what `doctor --rbac` prints; from then on everything is done by the account in it."""
    printed: list[Object] = list(yaml.safe_load_all(yaml.safe_dump_all(rights.manifests(place.block, ACCOUNT, place.via))))
    for manifest in printed:
        lab.api.apply(manifest)
    file = str(lab.cluster.kubeconfig_for(f"{place.namespace}/{ACCOUNT}", duration=7200))
    context = yaml.safe_load(Path(file).read_text())["current-context"]
    there = Place(place.settings, place.cluster, place.block.model_copy(update={"kubeconfig": file, "context": context}), place.via)
    Progress(PATIENCE).until(lambda: True if not rights.missing(there) else None, every=0.5)  # the server learns of a binding a moment later
    return Limited(lab, there)


@contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[None]:
    """Beside the block, and over when it is over; what fails there fails here."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert not failed, failed


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks are renewed while somebody looks, and a machine that stands still for a while loses none."""
    for name, seconds in (("RENEW", 0.5), ("GIVE_UP", 300.0), ("SECONDS", 400)):
        monkeypatch.setattr(lease, name, seconds)


# ---------------------------------------------------------------- a cluster with KubeRay


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("quick")
def test_a_life_uses_every_printed_right_and_is_refused_nothing(lab: Lab, namespace: str, tmp_path: Path) -> None:
    """Both kinds of engine, weights from a folder and from a Hub, an endpoint with and without a router, a lock that is waited for, want of room, and a teardown with all data."""
    labs.insist_on_processes()
    with Hub() as hub:
        hub.tokens.add(TOKEN)
        hub.commit("org/tiny", model_files(rows=10))
        given = {"hf_endpoint": hub.endpoint, "hf_token": SecretStr(TOKEN)}
        first = far(lab.place(tmp_path, f"{namespace}-rights", real=True, given=given), tmp_path)
        first.platform.cluster.apply(first.cluster, Progress(PATIENCE))  # an administrator's first `up` makes the namespace
        one = limited(lab, replace(first.place, via="service"))
        story = far(one.place, tmp_path)
        plain = _brought_up(one, story)
        _without_a_router(story, plain)
        _other_ways(one, story, plain)
    _taken_down(one, story, plain)

    assert one.refused() == []
    assert _granted(rights.table(one.place.block, one.place.via), one.place.namespace) - one.used() == set()
    assert first.ours() == []
    assert lab.api.get(kinds.NAMESPACE, one.place.namespace), "somebody's account and roles are in it"
    lab.api.delete(kinds.NAMESPACE, one.place.namespace)


def _brought_up(one: Limited, story: Far) -> Release:
    """Records and locks, then a plain server behind the endpoint."""
    parts, records = story.platform, story.platform.records
    written = records.put("demo", "pin", {"n": 1}, None)
    records.put("demo", "pin", {"n": 2}, written.version)

    held = threading.Event()

    def hold() -> None:
        with records.lock("demo.image", "run 1", Progress(PATIENCE)):
            held.set()
            one.until_used(("watch", LEASES), ("update", LEASES))

    with meanwhile(hold):
        assert held.wait(PATIENCE)
        with records.lock("demo.image", "run 2", Progress(PATIENCE)):
            pass
    plain = story.release()
    story.up(plain)
    assert story.ask() == (200, plain.name)
    assert parts.endpoint.in_flight(plain.name) == 0
    assert list(parts.ray_service.log(plain.name, "engine"))
    return plain


def _without_a_router(story: Far, plain: Release) -> None:
    """The same release behind a Service of its own, as a cluster that declares `via: service` has it; the router refuses the name, and ends."""
    declared = ClusterSpec.model_validate({**story.cluster.model_dump(exclude_unset=True), "endpoint": {"via": "service"}})
    part, state = kubernetes.platform(story.place.settings, declared).endpoint, story.platform.ray_service.observe(plain)
    assert state and state.address
    route = Route(plain.model, plain.served_name, plain.name, state.address)
    story.platform.endpoint.closed(plain.model, plain.served_name, 0, "moved", Progress(PATIENCE))
    part.apply(route, Progress(PATIENCE))
    seen = part.observe(route)
    assert seen
    assert (seen.healthy, seen.release) == (True, plain.name)


def _other_ways(one: Limited, story: Far, plain: Release) -> None:
    """Ray with more replicas, what fits nowhere, and a fetch from a Hub that is taken down in its middle."""
    parts = story.platform
    with_ray = story.release("ray")
    story.start(with_ray)
    more = story.release("ray", replicas={"min": 2, "max": 2})
    assert more.id == with_ray.id
    parts.ray_service.adjust(more, Progress(PATIENCE))
    with pytest.raises(ConfigError, match="can never run"):
        parts.gpu_nodepool.apply(story.release(resources={"gpu": 64}), Progress(PATIENCE))
    nowhere = far(one.place, story.sources.parent, node_selector={"accelerator": "none-such"})
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ConfigError, match="did not start"):
        patch.setattr(startup, "PATIENCE", 0.0)
        nowhere.platform.ray_service.apply(story.release(engine={"max_model_len": 128}), Progress(PATIENCE))
    hub = story.release(weights="hf://org/tiny")

    def fetching() -> None:
        if one.place.api.list(kinds.JOB, one.place.namespace).items:
            raise Withdrawn("taken down")

    with pytest.raises(Withdrawn):
        parts.model_weights.apply(hub, Progress(PATIENCE, stop=fetching))
    (job,) = one.place.api.list(kinds.JOB, one.place.namespace).items
    with one.slowly(kinds.JOB, job["metadata"]["name"], one.place.namespace):
        parts.model_weights.delete(hub, Progress(PATIENCE))


def _taken_down(one: Limited, story: Far, plain: Release) -> None:
    """With what a killed removal left of a Ray cluster, and a volume that its driver takes its time to remove."""
    api, inventory = one.lab.api, story.platform.inventory
    template = {"spec": {"containers": [{"name": "ray-head", "image": "any"}]}}
    meta = one.place.meta("demo-0000000000", "ray_service", release="demo-0000000000")
    api.apply({"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": meta, "spec": {"suspend": True, "headGroupSpec": {"rayStartParams": {}, "template": template}}})
    story.take_down(plain)
    claim = api.get(kinds.CLAIM, claim_name(plain.manifest), one.place.namespace)
    assert claim
    (row,) = (row for row in inventory.find() if row.id == claim_name(plain.manifest))
    with one.slowly(kinds.VOLUME, claim["spec"]["volumeName"]):
        inventory.remove(row, Progress(PATIENCE))
    story.down(plain)


# ---------------------------------------------------------------- KubeRay of our own, and a pool of nodes


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A cluster with Karpenter, on which nobody put KubeRay."""
    labs.insist_on_processes()
    types = Path(os.environ[labs.KUBELAB]) / "examples" / "instance-types.json"
    with labs.started(tmp_path_factory.mktemp("bare"), nodes=1, kuberay=False, ray_venv=None, karpenter=str(types)) as made:
        node_class(made.api)
        yield made


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("quick")
def test_what_is_printed_for_an_operator_and_a_pool_of_ours_is_used_too(bare: Lab, tmp_path: Path) -> None:
    """Put, used and removed by the account; without `escalate` and `bind` Kubernetes would not let it make the operator's role."""
    with bare.namespace() as namespace:
        one = limited(bare, bare.place(tmp_path, namespace, kuberay="install", nodepool=POOL))
        story = far(one.place, tmp_path, kuberay="install", nodepool=POOL)
        release = story.release(resources={"gpu": 1, "memory": "8Gi"})

        story.platform.cluster.apply(story.cluster, Progress(PATIENCE))
        story.platform.gpu_nodepool.apply(release, Progress(PATIENCE))
        _pool_removed(one, story, release)
        for row in story.platform.inventory.find():
            story.platform.inventory.remove(row, Progress(PATIENCE))

        plain = one.place.block.model_copy(update={"kuberay": "existing", "nodepool": None})
        more = _granted(rights.table(one.place.block), namespace) - _granted(rights.table(plain), namespace)
        assert one.refused() == []
        assert more - one.used() == set()
        assert bare.api.list(kinds.DEFINITION, labels=one.place.selector(operator.PART), light=True).items == ()
        _, role, binding, _ = operator.manifests(one.place)
        one.refused_without("escalate", role)
        bare.api.apply(role)
        one.refused_without("bind", binding)


def _pool_removed(one: Limited, story: Far, release: Release) -> None:
    """While its last node takes its time."""
    one.lab.cluster.stop_process("karpenter")
    labels = karpenter.manifest(one.place)["metadata"]["labels"]
    spec = {"nodeClassRef": POOL["nodeClassRef"], "requirements": POOL["requirements"]}
    claim = {"apiVersion": kinds.NODE_CLAIM.api_version, "kind": kinds.NODE_CLAIM.name, "metadata": {"name": one.place.namespace, "labels": labels}, "spec": spec}
    one.lab.api.create(claim)
    with one.slowly(kinds.NODE_POOL, karpenter.name(one.place)), one.slowly(kinds.NODE_CLAIM, one.place.namespace, end=True):
        story.platform.gpu_nodepool.delete(release, Progress(PATIENCE))
