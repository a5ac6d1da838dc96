"""`usage` on every platform: evidence of traffic, and "cannot tell" where there is none."""

from __future__ import annotations

import time

from infra.decisions import Decisions
from infra.documents import Live
from infra.platform import Platform
from infra.states import Route
from infra.waiting import Progress
from tests.platform.conftest import Stand


def test_without_a_live_release_or_a_router_nothing_can_be_told(stand: Stand, platform: Platform) -> None:
    """None is not 0: an idle model may be put to sleep, an unknown one may not."""
    assert platform.usage.sample("demo") is None

    _live(stand, platform, serve=False)

    assert platform.usage.sample("demo") is None


def test_requests_are_counted_by_name_and_answers_by_release(stand: Stand, platform: Platform) -> None:
    """Also those that got an error; the counts only grow."""
    _live(stand, platform)
    before = platform.usage.sample("demo")

    for prompt in ("a", "b", "c"):
        _ask(platform, prompt)

    after = platform.usage.sample("demo")
    assert before
    assert after
    assert (after.arrivals - before.arrivals, after.total - before.total, after.failed) == (3, 3, 0)
    assert after.in_flight == 0


def _live(stand: Stand, platform: Platform, *, serve: bool = True) -> None:
    """A release that serves, by record and at the router."""
    release = stand.release()
    decisions = Decisions(platform.records, "demo")
    decisions.remember(release)
    decisions.write("live", Live(release=release.id, since=time.time(), by="test"))
    if serve:
        state = platform.ray_service.apply(release, Progress(250))
        assert state.address
        platform.endpoint.apply(Route("demo", "demo", release.name, state.address), Progress(250))


def _ask(platform: Platform, prompt: str) -> None:
    body = {"model": "demo", "messages": [{"role": "user", "content": prompt}]}
    with platform.endpoint.client("demo", 60) as client:
        client.post("/chat/completions", json=body).raise_for_status()
