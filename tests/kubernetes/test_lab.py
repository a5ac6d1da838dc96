"""The lab itself: what its fixtures promise to every other test."""

from __future__ import annotations

from infra.kubernetes import kinds
from infra.kubernetes.place import Place
from infra.waiting import Progress
from tests.kubernetes.lab import Lab


def test_a_place_has_an_empty_namespace_and_a_server_that_knows_kuberay(lab: Lab, place: Place) -> None:
    """The operator's kinds are served; nothing of ours is there."""
    assert place.api.serves(kinds.RAY_SERVICE)
    assert place.api.list(kinds.POD, place.namespace).items == ()


def test_a_pod_that_asks_for_it_is_a_real_process_and_answers_through_the_proxy(real_place: Place) -> None:
    """What its command names is found on its PATH."""
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {**real_place.meta("web", "endpoint"), "annotations": real_place.block.pod_annotations},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
            "name": "c", "image": "any", "command": ["sh", "-c", "haproxy -v > /tmp/v; cd /tmp; exec python3 -m http.server 8000"],
            "readinessProbe": {"httpGet": {"path": "/v", "port": 8000}}}]},
    }  # fmt: skip
    real_place.api.apply(pod)

    ready = real_place.api.until(kinds.POD, real_place.namespace, lambda pods: next((p for p in pods if p["status"]["containerStatuses"][0]["ready"]), None) if pods[0]["status"].get("containerStatuses") else None, Progress(250))

    with real_place.api.proxy(kinds.POD, real_place.namespace, ready["metadata"]["name"], 8000, 60) as http:
        assert "HAProxy version 2.8" in http.get("/v").text
