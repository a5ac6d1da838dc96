"""usage, wherever the router counts: how many asked, how many are being answered, how many were answered badly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from infra.decisions import Decisions
from infra.platform import Records
from infra.router import RouterState
from infra.states import Traffic

Names = Callable[[str], tuple[str, str] | None]
"""The served name and the name of the live release of a model; None when nothing of it is live."""


class Counting(Protocol):
    """An endpoint that can tell what its router counts."""

    def state(self) -> RouterState | None:
        """None when it can not be told."""


class RouterUsage:
    """`UsagePart` over the router's counters."""

    def __init__(self, endpoint: Counting, names: Names) -> None:
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


def live(records: Records) -> Names:
    """As the records say."""

    def names(model: str) -> tuple[str, str] | None:
        decisions = Decisions(records, model)
        found = decisions.live
        record = decisions.release(found.release) if found else None
        return (record.release.served_name, record.release.name) if record else None

    return names
