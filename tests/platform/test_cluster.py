"""`cluster` on every platform: a place with an identity, made once, and proved the same ever after.

What a home and a port are asked for is in tests/infra/local/test_cluster.py, what a control plane is asked for in tests/kubernetes/test_cluster.py.
"""

from __future__ import annotations

from infra.platform import Platform
from infra.states import Route
from infra.waiting import Progress
from tests.platform.conftest import Stand

NOWHERE = Route("demo", "demo", "demo-aaaaaaaaaa", ("127.0.0.1", 9))


def test_a_cluster_is_absent_until_it_is_applied(stand: Stand) -> None:
    """Observing makes nothing; apply says that it made something, and the second time that it did not."""
    platform, cluster = stand.elsewhere()
    before = [platform.cluster.observe(cluster), platform.cluster.observe(cluster)]

    first = platform.cluster.apply(cluster, Progress(250))
    again = platform.cluster.apply(cluster, Progress(250))
    seen = platform.cluster.observe(cluster)

    assert before == [None, None]
    assert (first.changed, again.changed) == (True, False)
    assert seen
    assert seen.identity == first.identity
    assert seen.data_version == first.data_version == again.data_version


def test_its_facts_are_what_a_person_wants_to_know(stand: Stand, platform: Platform) -> None:
    """CPUs and memory, and where clients will find it; another process is told the same identity."""
    state = platform.cluster.apply(stand.cluster, Progress(250))

    seen = stand.again().cluster.observe(stand.cluster)

    assert state.facts["cpus"] > 0
    assert state.facts["memory"] > 1 << 30
    assert state.facts["endpoint"].endswith("/v1")
    assert seen and seen.identity == state.identity


def test_deleting_ends_what_serves_the_whole_cluster_and_keeps_the_place(stand: Stand, platform: Platform) -> None:
    """`up` while the router serves is in order. Deleted, the router is gone and the data stays; twice is as good as once."""
    platform.records.put("demo", "deployment", {"wanted": False}, None)
    platform.endpoint.apply(NOWHERE, Progress(250))
    platform.cluster.apply(stand.cluster, Progress(250))
    serving = stand.processes()

    platform.cluster.delete(stand.cluster, Progress(250))
    platform.cluster.delete(stand.cluster, Progress(250))

    assert serving and stand.processes() == set()
    assert platform.records.get("demo", "deployment")
