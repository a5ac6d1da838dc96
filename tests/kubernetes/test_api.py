"""The thin module over the client, against a real API server and a server between that breaks things."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from urllib3.exceptions import InsecureRequestWarning

from infra.errors import ConfigError, Conflict, Denied, Timeout
from infra.kubernetes import kinds
from infra.kubernetes.api import Api, Object
from infra.kubernetes.failures import Busy, Gone
from infra.kubernetes.place import Place
from infra.waiting import Progress
from tests.kubernetes import lab as labs
from tests.kubernetes.between import Middle, between
from tests.kubernetes.lab import Lab


@pytest.fixture
def middle(lab: Lab, tmp_path: Path) -> Iterator[Middle]:
    with between(lab.api, tmp_path) as made:
        yield made


@pytest.fixture
def far(middle: Middle) -> Iterator[Api]:
    """By a way that breaks."""
    with Api.open(str(middle.kubeconfig), "between") as api:
        yield api


def test_whoever_reads_the_audit_log_knows_us_by_name(lab: Lab, place: Place) -> None:
    """Among all that a cluster is asked, what is ours can be told and counted."""
    labs.insist_on_processes()
    place.api.apply(config_map(place))

    written = [event for event in lab.audit() if event["verb"] == "patch" and (event.get("objectRef") or {}).get("namespace") == place.namespace]

    assert {event["userAgent"] for event in written} == {"llm-pipeline"}


def config_map(place: Place, name: str = "a", **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": place.namespace}, "data": data}


def test_a_context_that_is_not_there_is_refused_with_those_that_are(lab: Lab) -> None:
    """The current one is never taken instead."""
    with pytest.raises(ConfigError) as told:
        Api.open(str(lab.kubeconfig), "typo")

    assert lab.context in str(told.value.problem.why)


@pytest.mark.parametrize("skipped", [True, False])
def test_who_skips_the_check_of_certificates_is_not_told_so_at_each_request(tmp_path: Path, *, skipped: bool) -> None:
    """The kubeconfig says it; screens stay as they are. No warning is silenced for anybody else."""
    cluster = {"server": "https://127.0.0.1:1", "insecure-skip-tls-verify": skipped}
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump({
        "clusters": [{"name": "lab", "cluster": cluster}], "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "me"}}],
        "users": [{"name": "me", "user": {"token": "t"}}],
    }))  # fmt: skip

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with Api.open(str(kubeconfig), "lab"):
            warnings.warn("unverified", InsecureRequestWarning, stacklevel=1)

    assert len(told) == (0 if skipped else 1)


def test_what_others_set_beside_stays_when_we_apply_again(lab: Lab, place: Place) -> None:
    """Server-side apply: a field of somebody else's stays, one of ours that is left out goes."""
    place.api.apply(config_map(place, mine="1", old="1"))
    theirs = {"fieldManager": "somebody", "force": "true"}
    lab.api.call("PATCH", kinds.CONFIG_MAP.path(place.namespace, "a"), theirs, config_map(place, theirs="1"), content="application/apply-patch+yaml")

    place.api.apply(config_map(place, mine="2"))

    found = place.api.get(kinds.CONFIG_MAP, "a", place.namespace)
    assert found
    assert found["data"] == {"mine": "2", "theirs": "1"}


def test_refusals_are_our_errors_with_what_to_do(lab: Lab, place: Place) -> None:
    """409, 422 and 403, as the real server says them."""
    made = place.api.create(config_map(place))
    with pytest.raises(Conflict):
        place.api.create(config_map(place))
    with pytest.raises(Conflict):
        place.api.delete(kinds.CONFIG_MAP, "a", place.namespace, uid="another")
    with pytest.raises(Conflict):
        place.api.delete(kinds.CONFIG_MAP, "a", place.namespace, version="1")
    with pytest.raises(ConfigError) as told:
        place.api.apply({**config_map(place), "data": {"n": 1}})
    assert "generate" in str(told.value.problem.next)
    labs.insist_on_processes()
    file = lab.cluster.kubeconfig_for(f"{place.namespace}/nobody", duration=3600)
    with Api.open(str(file), yaml.safe_load(Path(file).read_text())["current-context"]) as nobody, pytest.raises(Denied) as denied:
        nobody.get(kinds.CONFIG_MAP, "a", place.namespace)
    assert "doctor --rbac" in str(denied.value.problem.next)
    assert place.api.get(kinds.CONFIG_MAP, "a", place.namespace) == {**made}


@pytest.mark.parametrize("what", [429, 500, 503, "before", "after"])
def test_reading_and_applying_go_on_after_a_moment_of_trouble(place: Place, middle: Middle, far: Api, what: str | int) -> None:
    """A busy server, or a connection that breaks before or after: nobody hears of it."""
    middle.break_next("PATCH", "/configmaps", what)
    middle.break_next("GET", "/configmaps", what, times=2)

    far.apply(config_map(place, a="1"))

    found = far.get(kinds.CONFIG_MAP, "a", place.namespace)
    assert found
    assert found["data"] == {"a": "1"}


def test_what_must_not_be_done_twice_is_not_tried_twice(place: Place, middle: Middle, far: Api) -> None:
    """Whether it counted is for the caller to find out."""
    middle.break_next("POST", "/configmaps", "after")

    with pytest.raises(Busy):
        far.create(config_map(place))

    assert sum(row.startswith("POST") for row in middle.seen) == 1


@pytest.mark.parametrize("what", ["before", 410, 503])
def test_a_wait_outlives_its_watch_and_a_server_that_is_away(place: Place, middle: Middle, far: Api, what: str | int) -> None:
    """Cut, too old, or refused some times over: it lists again, and sees what came meanwhile."""
    far.create(config_map(place, a="1"))
    middle.break_next("GET", "/configmaps", what, times=6)
    threading.Timer(3, lambda: place.api.apply(config_map(place, a="2"))).start()

    found = far.until(kinds.CONFIG_MAP, place.namespace, lambda now: next((item for item in now if item.get("data") == {"a": "2"}), None), Progress(120))

    assert found["kind"] == "ConfigMap"
    assert sum("watch=true" in row for row in middle.seen) < 20


def test_a_wait_ends_at_its_deadline_with_what_it_waited_for(place: Place) -> None:
    """Not with its own words about the deadline."""
    progress = Progress(1.5)
    progress.phase("pods", "2 of 3")

    with pytest.raises(Timeout) as told:
        place.api.until(kinds.POD, place.namespace, lambda _: None, progress)

    assert told.value.problem.why == "the deadline was reached while waiting for: 2 of 3"


def test_a_watch_that_is_refused_or_ends_in_an_error_says_which(place: Place, middle: Middle, far: Api) -> None:
    """A version that is too old is told apart: whoever watches by hand has to list again."""
    middle.break_next("GET", "/configmaps", 410)

    with pytest.raises(Gone):
        list(far.watch(kinds.CONFIG_MAP, place.namespace, "1", seconds=1))


def test_a_list_has_all_its_pages(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each object once."""
    monkeypatch.setattr("infra.kubernetes.api.PAGE", 2)
    for number in range(5):
        place.api.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"s{number}", "namespace": place.namespace}})

    assert [item["metadata"]["name"] for item in place.api.list(kinds.SECRET, place.namespace).items] == [f"s{number}" for number in range(5)]


def test_a_token_of_the_kubeconfig_is_in_no_error(lab: Lab, place: Place) -> None:
    """Also when the server repeats what it was sent."""
    labs.insist_on_processes()
    file = Path(lab.cluster.kubeconfig_for(f"{place.namespace}/nobody", duration=3600))
    told = yaml.safe_load(file.read_text())
    token = told["users"][0]["user"]["token"]
    with Api.open(str(file), told["current-context"]) as nobody:
        errors = []
        for act in (lambda: nobody.get(kinds.NODE, "x"), lambda: nobody.create(config_map(place)), lambda: nobody.delete(kinds.CONFIG_MAP, "a", place.namespace)):
            with pytest.raises(Denied) as one:
                act()
            errors.append(str(one.value))

    assert token not in "".join(errors)
    assert token[:20] not in "".join(errors)
