"""usage on this machine: what the router counted."""

from __future__ import annotations

from collections.abc import Callable

from infra.local.endpoint import LocalEndpoint
from infra.platform import Traffic


class LocalUsage:
    """`UsagePart` over the router's counters. `names` answers the served name and live release of a model."""

    def __init__(self, endpoint: LocalEndpoint, names: Callable[[str], tuple[str, str] | None]) -> None:
        self._endpoint, self._names = endpoint, names

    def sample(self, model: str) -> Traffic | None:
        found, state = self._names(model), self._endpoint.state()
        if found is None or state is None:
            return None
        served_name, release = found
        asked = state.models.get(served_name)
        done = state.releases.get(release)
        if asked is None:
            return None
        return Traffic(done.in_flight if done else 0, asked.arrivals, done.total if done else 0, done.failed if done else 0)
