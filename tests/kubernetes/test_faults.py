"""What a cluster does to us in the middle of something: each fault ends in what was wanted, or in an error of ours that the next call mends."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.errors import Denied, PipelineError, Timeout, Transient
from infra.kubernetes import kinds, lease, startup
from infra.kubernetes.api import Api, Object
from infra.kubernetes.place import Place, object_name
from infra.kubernetes.router_manifest import ROUTER
from infra.kubernetes.weights_job import claim_name
from infra.platform import Release
from infra.waiting import Phase, Progress
from tests.kubernetes import engines
from tests.kubernetes import lab as labs
from tests.kubernetes.between import between
from tests.kubernetes.fixtures import Places
from tests.kubernetes.lab import Lab
from tests.kubernetes.story import PATIENCE, far, objects, whole
from tests.kubernetes.test_endpoint import endpoint
from tests.kubernetes.test_ray_service import left, plain, service, with_ray

TRIES = 25
"""Commands that a person may have to give until one gets through a network that breaks requests of every kind."""

OPERATOR, SERVER = "kuberay-operator", "kube-apiserver"
VERSION = "client.authentication.k8s.io/v1"

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stands still for a while loses no lock."""
    monkeypatch.setattr(lease, "GIVE_UP", 300.0)
    monkeypatch.setattr(lease, "SECONDS", 400)


@pytest.fixture
def operator(lab: Lab) -> Iterator[Callable[[], None]]:
    """KubeRay's operator is away, until it is called back or the test is over."""
    labs.insist_on_processes()
    lab.cluster.stop_process(OPERATOR)
    back = lambda: lab.back(OPERATOR, PATIENCE)  # noqa: E731
    yield back
    back()



# ---------------------------------------------------------------- the network


def test_a_network_that_breaks_requests_of_every_kind_doubles_nothing_and_loses_nothing(lab: Lab, places: Places, namespace: str, tmp_path: Path) -> None:
    """Cut before and after the server took it, 429, 500 and 503, for each kind of request by turns: up and down get through, by commands that end in our errors only."""
    labs.insist_on_processes()
    straight = far(lab.place(tmp_path / "straight", namespace, real=True), tmp_path)
    with between(lab.api, tmp_path) as middle:
        story = far(places(real=True, kubeconfig=str(middle.kubeconfig), context="between"), tmp_path)
        release = story.release()
        middle.rough = True
        ups = _until_done(lambda: story.up(release))
        middle.rough = False

        assert story.ask() == (200, release.name)
        assert objects(straight) == whole(release), ups
        assert len(middle.broken) >= 30, middle.broken
        assert {"PATCH deployments/NAME", "PATCH jobs/NAME", "POST secrets", "POST leases", "GET pods?watch"} <= set(middle.broken)

        for status in (429, 500, 503):  # a server that is busy says nothing of the engine behind it: nobody heals what serves
            middle.break_next("GET", "/proxy/health", status)
            with pytest.raises(Transient, match="can not be asked"):
                story.platform.ray_service.observe(release)
        middle.rough = True
        downs = _until_done(lambda: story.down(release))
        assert straight.ours() == [], downs
        assert {"PUT pods/NAME/proxy/table", "DELETE deployments/NAME", "DELETE secrets/NAME", "DELETE persistentvolumeclaims/NAME"} <= set(middle.broken)


def _until_done(act: Callable[[], object]) -> list[str]:
    """As often as a person says it again; what was said until then. Anything but an error of ours fails the test."""
    said: list[str] = []
    while len(said) < TRIES:
        try:
            act()
        except PipelineError as error:
            assert error.problem.next or error.problem.why, error
            said.append(f"{type(error).__name__}: {error.problem.what}")
        else:
            return said
    raise AssertionError(said)


# ---------------------------------------------------------------- the control plane


def test_a_start_outlives_the_api_server(lab: Lab, real_place: Place) -> None:
    """Killed and started again while Ray comes up: it is ready in the end, with the cluster that was begun."""
    labs.insist_on_processes()
    part, made, killed = service(real_place), with_ray(), threading.Event()

    def kill(phase: Phase) -> None:
        if not killed.is_set() and _uids(real_place, kinds.RAY_CLUSTER):
            killed.set()
            lab.cluster.stop_process(SERVER, kill=True)
            back.start()

    back = threading.Thread(target=lambda: lab.back(SERVER, PATIENCE))
    state = part.apply(made, Progress(PATIENCE, report=kill))

    back.join()
    assert state.ready, state.problem
    assert len(_uids(real_place, kinds.RAY_SERVICE)) == len(_uids(real_place, kinds.RAY_CLUSTER)) == 1
    part.delete(made, Progress(PATIENCE))
    assert left(real_place) == []


def test_a_start_without_an_operator_goes_on_when_it_is_back(real_place: Place, operator: Callable[[], None]) -> None:
    """What was applied meanwhile is taken up, once."""
    part, made = service(real_place), with_ray()
    back = threading.Thread(target=lambda: _after(lambda: _uids(real_place, kinds.RAY_SERVICE), operator))
    back.start()

    state = part.apply(made, Progress(PATIENCE))

    back.join()
    assert state.ready, state.problem
    assert len(_uids(real_place, kinds.RAY_CLUSTER)) == 1
    part.delete(made, Progress(PATIENCE))


@pytest.mark.usefixtures("operator")
def test_an_operator_that_stays_away_is_told_of_and_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before any deadline, with whom to look for."""
    monkeypatch.setattr(startup, "NO_CONTROLLER", 1.0)

    with pytest.raises(Transient) as told:
        service(place).apply(with_ray(), Progress(PATIENCE))

    assert "operator" in str(told.value.problem.why)
    assert left(place) == []


@pytest.mark.usefixtures("operator")
def test_ready_that_is_reported_too_early_is_not_believed(place: Place) -> None:
    """Neither without an application, nor with one that is said to run while its engine answers nobody."""
    part, made = service(place), with_ray()
    part._make(made, Progress(PATIENCE), None)
    main = part._main(made)
    assert main
    ready = {"type": "Ready", "status": "True", "reason": "NonZeroServeEndpoints", "message": "", "lastTransitionTime": main["metadata"]["creationTimestamp"]}
    status: Object = {"observedGeneration": main["metadata"]["generation"], "serviceStatus": "Running", "numServeEndpoints": 1, "conditions": [ready]}
    runs = {"status": "RUNNING", "serveDeploymentStatuses": {"LLMServer": {"status": "HEALTHY"}}}

    for active in ({"rayClusterName": "early"}, {"rayClusterName": "early", "applicationStatuses": {"llm": runs}}):
        path = kinds.RAY_SERVICE.path(place.namespace, object_name(made), "status")
        place.api.call("PATCH", path, body={"status": {**status, "activeServiceStatus": active}}, content="application/merge-patch+json")
        with pytest.raises(Timeout):
            part.apply(made, Progress(8))
        state = part.observe(made)
        assert state and not state.ready

    part.delete(made, Progress(PATIENCE))


def _after(true: Callable[[], object], act: Callable[[], object]) -> None:
    """Once it is so."""
    Progress(PATIENCE).until(lambda: true() or None, every=0.5)
    act()


def _uids(place: Place, kind: kinds.Kind) -> list[str]:
    return [item["metadata"]["uid"] for item in place.api.list(kind, place.namespace).items]


# ---------------------------------------------------------------- removed by others


@pytest.mark.parametrize("made", [plain("slow 3600"), with_ray()], ids=["vllm", "ray"])
def test_a_release_that_somebody_removes_while_it_starts_is_told_and_made_anew(places: Places, made: Release) -> None:
    """The wait ends at once, nothing of it stays behind, and the next call starts it."""
    place = places(real=made.spec.engine.kind == "vllm")
    part, kind = service(place), startup.kind_of(made)
    removed = threading.Event()

    def remove(phase: Phase) -> None:
        if _uids(place, kind) and not removed.is_set():
            removed.set()
            place.api.delete(kind, object_name(made), place.namespace)

    with pytest.raises(Transient, match="was removed while it was awaited"):
        part.apply(made, Progress(PATIENCE, report=remove))

    assert left(place) == []
    part._make(made, Progress(PATIENCE), part._main(made))
    assert len(_uids(place, kind)) == 1
    part.delete(made, Progress(PATIENCE))


def test_a_router_that_somebody_removes_is_seen_and_made_anew_with_its_table(real_place: Place) -> None:
    """`observe` does not say that it answers; `apply` makes it so, and the name leads where it led."""
    part, route = endpoint(real_place), engines.start(real_place, "demo-aaaaaaaaaa", "demo")
    part.apply(route, Progress(PATIENCE))
    real_place.api.delete(kinds.DEPLOYMENT, ROUTER, real_place.namespace, foreground=True)
    Progress(PATIENCE).until(lambda: None if _uids(real_place, kinds.DEPLOYMENT) else True, every=0.5)

    seen = endpoint(real_place).observe(route)
    assert not (seen and seen.healthy)
    again = endpoint(real_place).apply(route, Progress(PATIENCE))

    assert (again.changed, again.release, again.generation) == (True, route.release, 1)
    with part.client("demo", 30) as client:
        assert client.get("models").status_code == 200
    part.stop(Progress(PATIENCE))


def test_a_claim_that_somebody_removes_is_filled_anew_when_nobody_reads_it_any_more(real_place: Place, tmp_path: Path) -> None:
    """While an engine mounts it Kubernetes keeps it on its way out: it does not count as there, and a new one is not had before."""
    story = far(real_place, tmp_path)
    release, weights = story.release(), story.platform.model_weights
    story.start(release)
    real_place.api.delete(kinds.CLAIM, claim_name(release.manifest), real_place.namespace)
    before = _uids(real_place, kinds.CLAIM)

    assert weights.observe(release) is None
    with pytest.raises(Timeout):
        weights.apply(release, Progress(3))
    assert _uids(real_place, kinds.CLAIM) == before
    story.platform.ray_service.delete(release, Progress(PATIENCE))
    assert weights.apply(release, Progress(PATIENCE)).changed

    assert len(_uids(real_place, kinds.CLAIM)) == 1
    assert _uids(real_place, kinds.CLAIM) != before
    story.down(release)


# ---------------------------------------------------------------- who we are


@pytest.mark.parametrize("how", ["plugin", "file"])
def test_a_token_that_ends_in_the_middle_is_had_anew(lab: Lab, place: Place, tmp_path: Path, how: str) -> None:
    """What was read when the connection was made has ended: from the plugin that the kubeconfig names, or the file; for calls, and for what goes through the server to a pod."""
    labs.insist_on_processes()
    tokens = Tokens(lab, place, tmp_path, how)
    tokens.hand_out(-1)
    api, proxied = (Api.open(str(tokens.kubeconfig), "t") for _ in range(2))
    with pytest.raises(Denied) as told:
        api.list(kinds.CONFIG_MAP, place.namespace)
    assert tokens.last not in str(told.value)

    tokens.hand_out(3600)

    assert api.list(kinds.CONFIG_MAP, place.namespace).items
    with proxied.proxy(kinds.SERVICE, place.namespace, "none", 80, 30) as http:
        assert http.get("/").status_code in (404, 503)
    api.close()
    proxied.close()


class Tokens:
    """An administrator's account whose kubeconfig gets its token from a plugin (a program that prints it), or from a file."""

    def __init__(self, lab: Lab, place: Place, folder: Path, how: str) -> None:
        self._lab, self._account, self._folder, self.last = lab, f"{place.namespace}/short", folder, ""
        self.kubeconfig = folder / "kubeconfig"
        subject = {"kind": "ServiceAccount", "namespace": place.namespace, "name": "short"}
        role = {"apiGroup": kinds.ROLE.group, "kind": "ClusterRole", "name": "admin"}
        binding = {"apiVersion": kinds.ROLE.api_version, "kind": "RoleBinding", "metadata": {"name": "short", "namespace": place.namespace}, "roleRef": role, "subjects": [subject]}
        lab.api.apply(binding)
        program = {"apiVersion": VERSION, "command": "cat", "args": [str(folder / "credential.json")], "interactiveMode": "Never"}
        user: dict[str, Any] = {"exec": program} if how == "plugin" else {"tokenFile": str(folder / "token")}
        made = yaml.safe_load(lab.kubeconfig.read_text())
        made |= {"users": [{"name": "t", "user": user}], "contexts": [{"name": "t", "context": {"cluster": made["clusters"][0]["name"], "user": "t"}}], "current-context": "t"}
        self.kubeconfig.write_text(json.dumps(made))
        self.hand_out(3600)
        with Api.open(str(self.kubeconfig), "t") as asked:  # the server learns of a binding a moment later
            Progress(PATIENCE).until(lambda: asked.allowed("get", kinds.SERVICE, place.namespace, "proxy") or None, every=0.2)

    def hand_out(self, seconds: int) -> None:
        """From now on; it lives so long. Less than none: it has just ended."""
        file = self._lab.cluster.kubeconfig_for(self._account, duration=seconds, path=self._folder / "signed")
        self.last = str(yaml.safe_load(Path(file).read_text())["users"][0]["user"]["token"])
        (self._folder / "token").write_text(self.last)
        (self._folder / "credential.json").write_text(json.dumps({"apiVersion": VERSION, "kind": "ExecCredential", "status": {"token": self.last}}))
