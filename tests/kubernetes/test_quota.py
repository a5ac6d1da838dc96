"""ResourceQuotas of the namespace, where room is reckoned: with their numbers, before anything is made."""

from __future__ import annotations

from typing import Any

import pytest

from infra.errors import CapacityError, ConfigError
from infra.kubernetes import kinds, quota
from infra.kubernetes.place import Place
from infra.kubernetes.quota import Ceiling
from infra.kubernetes.requests import GIB, PodRequests
from infra.waiting import Progress
from tests.kubernetes.test_capacity import part, wanted

ASK = PodRequests(cpu=1.0, memory=4 * GIB, gpu=1, ephemeral=GIB, shared=0)


def limit(place: Place, hard: dict[str, str], **spec: Any) -> None:
    """A quota of the namespace."""
    place.api.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team", "namespace": place.namespace}, "spec": {"hard": hard, **spec}})


POD = {"spec": {"containers": [{"resources": {"requests": {"memory": "1Gi"}, "limits": {"memory": "4Gi"}}}]}}


def waiting(place: Place, meta: dict[str, Any], memory: str) -> None:
    """A pod that no node takes, and that a quota counts all the same."""
    container = {"name": "c", "image": "x", "resources": {"requests": {"memory": memory}, "limits": {"memory": memory}}}
    place.api.create({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [container], "nodeSelector": {"nobody": "has-this"}}})


def test_a_quota_is_counted_with_what_is_there_already(place: Place) -> None:
    """Too small for the release alone: never. Too small beside others: not now. Both with its numbers; who leaves is not counted, nor who only fills weights."""
    old, new = wanted("old", resources={"memory": "3Gi"}), wanted("new", resources={"memory": "2Gi"})
    limit(place, {"requests.memory": "1Gi"})
    with pytest.raises(ConfigError) as never:
        part(place).apply(new, Progress(120))

    limit(place, {"requests.memory": "4Gi"})
    alone = part(place).apply(new, Progress(120))
    waiting(place, place.meta("old", "ray_service", release=old.name), "3Gi")
    waiting(place, place.meta("fill", "model_weights", "new"), "1Gi")
    instead = part(place).room(new, without=(old.name,))
    with pytest.raises(CapacityError) as now:
        part(place).apply(new, Progress(120))

    assert "needs 2.0 GiB of memory together; the quota team allows 1.0 GiB of memory in all (requests.memory)" in (never.value.problem.why or "")
    assert alone.fits and instead.fits
    assert "the quota team leaves 1.0 GiB of memory of 4.0 GiB of memory (requests.memory)" in (now.value.problem.why or "")
    assert place.api.list(kinds.DEPLOYMENT, place.namespace).items == ()


@pytest.mark.parametrize(
    ("ceiling", "others", "said"),
    [
        (Ceiling("q", "pods", "requests", "pods", 2), 1, ""),
        (Ceiling("q", "pods", "requests", "pods", 2), 2, "needs 1 pod together; the quota q leaves 0 pods of 2 pods (pods)"),
        (Ceiling("q", "requests.nvidia.com/gpu", "requests", "gpus", 0), 0, "needs 1 GPU together; the quota q allows 0 GPUs in all (requests.nvidia.com/gpu)"),
        (Ceiling("q", "limits.memory", "limits", "memory", 6 * GIB), 1, "leaves 2.0 GiB of memory of 6.0 GiB of memory (limits.memory)"),
        (Ceiling("q", "requests.memory", "requests", "memory", 6 * GIB), 1, ""),
    ],
)
def test_each_side_of_a_quota_is_compared_with_its_own_number(ceiling: Ceiling, others: int, said: str) -> None:
    """Limits with limits, requests with requests, pods with pods."""
    told = quota.refusal((ceiling,), (ASK,), [POD] * others)

    assert (told == "") if not said else told.endswith(said)


def test_room_that_another_start_was_given_counts_against_the_quota() -> None:
    """Two that look at once never both get it."""
    ceiling = (Ceiling("q", "requests.memory", "requests", "memory", 6 * GIB),)

    assert quota.refusal(ceiling, (ASK,)) == ""
    assert "leaves 2.0 GiB" in quota.refusal(ceiling, (ASK,), promised=(ASK,))


def test_only_quotas_for_pods_like_ours_count(place: Place) -> None:
    """One for pods that end, by its scope; nor what a quota says of other things than pods."""
    limit(place, {"requests.memory": "1Gi"}, scopes=["Terminating"])
    other = {"hard": {"limits.memory": "2Gi", "services": "9", "pods": "3"}}
    place.api.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "ours", "namespace": place.namespace}, "spec": other})

    found = sorted(quota.ceilings(place), key=lambda one: one.key)

    assert found == [Ceiling("ours", "limits.memory", "limits", "memory", 2 * GIB), Ceiling("ours", "pods", "requests", "pods", 3)]
