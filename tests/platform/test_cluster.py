"""`cluster` on every platform: a place with an identity, made once, and proved the same ever after.

A cluster of Kubernetes is proved by, and checked for, other things than a home and a port: tests/kubernetes/test_cluster.py.
"""

from __future__ import annotations

import os
import socket

import pytest

from infra.errors import ConfigError
from infra.platform import Platform
from infra.states import Route
from infra.waiting import Progress
from tests.platform.conftest import LocalStand

pytestmark = pytest.mark.only("local")


def test_a_cluster_is_absent_until_it_is_applied(stand: LocalStand, platform: Platform) -> None:
    """Observing makes nothing; apply says that it made something, and the second time that it did not."""
    assert platform.cluster.observe(stand.cluster) is None

    first = platform.cluster.apply(stand.cluster, Progress(250))
    again = platform.cluster.apply(stand.cluster, Progress(250))
    seen = stand.again().cluster.observe(stand.cluster)

    assert (first.changed, again.changed) == (True, False)
    assert seen
    assert seen.identity == first.identity
    assert seen.data_version == first.data_version == again.data_version


def test_its_facts_are_what_a_person_wants_to_know(stand: LocalStand, platform: Platform) -> None:
    """CPUs, memory, disk, and where clients will find it."""
    facts = platform.cluster.apply(stand.cluster, Progress(250)).facts

    assert facts["cpus"] == len(os.sched_getaffinity(0))
    assert facts["memory"] > facts["memory_free"] > 0
    assert facts["disk_free"] > 0
    assert facts["endpoint"] == platform.endpoint.url


def test_another_home_is_another_cluster(stand: LocalStand, platform: Platform) -> None:
    """A record of one must never be taken for the other."""
    here = platform.cluster.apply(stand.cluster, Progress(250))

    there = stand.again(home=stand.folder / "elsewhere").cluster.apply(stand.cluster, Progress(250))

    assert there.identity != here.identity
    assert there.data_version != here.data_version


def test_a_stable_port_that_somebody_else_has_is_found_before_anything_is_made(stand: LocalStand) -> None:
    """Not after minutes of downloading."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        with pytest.raises(ConfigError) as told:
            stand.again(endpoint_port=port).cluster.apply(stand.cluster, Progress(250))

    assert f"port {port} is taken" in told.value.problem.what


def test_a_cluster_whose_own_router_has_the_port_is_in_order(stand: LocalStand, platform: Platform) -> None:
    """`up` while something serves."""
    platform.endpoint.apply(Route("demo", "demo", "demo-a", ("127.0.0.1", 9)), Progress(250))

    assert platform.cluster.apply(stand.cluster, Progress(250)).facts["endpoint"] == platform.endpoint.url


def test_a_home_that_can_not_be_made_is_told_with_the_setting_to_change(stand: LocalStand) -> None:
    """A file lies where the home should be."""
    (stand.folder / "file").write_text("")

    with pytest.raises(ConfigError) as told:
        stand.again(home=stand.folder / "file" / "home").cluster.apply(stand.cluster, Progress(250))

    assert "LLM_PIPELINE_HOME" in (told.value.problem.next or "")


def test_deleting_ends_what_serves_the_whole_cluster_and_keeps_the_place(stand: LocalStand, platform: Platform) -> None:
    """The router goes, the machine and its data stay; twice is as good as once."""
    platform.cluster.apply(stand.cluster, Progress(250))
    platform.records.put("demo", "deployment", {"wanted": False}, None)
    platform.endpoint.apply(Route("demo", "demo", "demo-a", ("127.0.0.1", 9)), Progress(250))

    platform.cluster.delete(stand.cluster, Progress(250))
    platform.cluster.delete(stand.cluster, Progress(250))

    assert stand.processes() == set()
    assert platform.records.get("demo", "deployment")


def test_what_we_keep_is_nobody_elses_to_read(stand: LocalStand, platform: Platform) -> None:
    """And never ends in a repository by accident."""
    platform.cluster.apply(stand.cluster, Progress(250))

    assert stand.settings.home.stat().st_mode & 0o777 == 0o700
    assert (stand.settings.home / ".gitignore").read_text() == "*\n"
