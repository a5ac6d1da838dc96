"""This machine as a cluster: its home, its port, its numbers. The contract itself: tests/platform/test_cluster.py."""

from __future__ import annotations

import os
import socket

import pytest

from infra.errors import ConfigError
from infra.platform import Platform
from infra.states import Route
from infra.waiting import Progress
from tests.platform.conftest import LocalStand


def test_its_facts_are_what_a_person_wants_to_know(stand: LocalStand, platform: Platform) -> None:
    """CPUs, memory and disk of this machine."""
    facts = platform.cluster.apply(stand.cluster, Progress(250)).facts

    assert facts["cpus"] == len(os.sched_getaffinity(0))
    assert facts["memory"] > facts["memory_free"] > 0
    assert facts["disk_free"] > 0


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


def test_a_home_that_can_not_be_made_is_told_with_the_setting_to_change(stand: LocalStand) -> None:
    """A file lies where the home should be."""
    (stand.folder / "file").write_text("")

    with pytest.raises(ConfigError) as told:
        stand.again(home=stand.folder / "file" / "home").cluster.apply(stand.cluster, Progress(250))

    assert "LLM_PIPELINE_HOME" in (told.value.problem.next or "")


def test_what_we_keep_is_nobody_elses_to_read(stand: LocalStand, platform: Platform) -> None:
    """And never ends in a repository by accident."""
    platform.cluster.apply(stand.cluster, Progress(250))

    assert stand.settings.home.stat().st_mode & 0o777 == 0o700
    assert (stand.settings.home / ".gitignore").read_text() == "*\n"


def test_a_cluster_whose_own_router_has_the_port_is_in_order(stand: LocalStand, platform: Platform) -> None:
    """`up` while something serves."""
    made = platform.endpoint.apply(Route("demo", "demo", "demo-a", ("127.0.0.1", 9)), Progress(250))

    assert platform.cluster.apply(stand.cluster, Progress(250)).facts["endpoint"] == made.url
