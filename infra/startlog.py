"""The log of an engine that starts, as it grows: phases for whoever waits. Shared by every platform."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo

from infra import engine
from infra.waiting import Progress

KEPT = 2000
"""Lines that are kept for the question why it died."""

SERVERS = re.compile(r"\((?:dashboard|dashboard_agent|runtime_env_agent|raylet|gcs_server|autoscaler|monitor|log_monitor)\b|\tINFO \w+\.py:")
"""Lines of Ray's own servers: they tell nothing of how far the engine is."""


class StartLog:
    """Turns new lines into phases.

    since   when the start began (Unix seconds): what was said earlier belongs to another start
    zone    of the engine's clock; None: this machine's
    """

    def __init__(self, since: float, zone: tzinfo | None = None) -> None:
        self._since, self._zone, self._reached = since, zone, -1
        self._order = [marker.phase for marker in engine.MARKERS]
        self._year = datetime.now(tz=UTC).year
        self.lines: list[str] = []

    def take(self, lines: Sequence[str], progress: Progress) -> None:
        """New lines become phases, in the order of a start; the last one is what is being waited for."""
        self.lines += lines
        told = [line for line in lines if ("pid=" in line or "INFO" in line) and not SERVERS.search(line)]
        seen = [(self._order.index(found.phase), found) for line in lines if (found := engine.phase_of(line, self._year, self._zone))]
        for index, found in sorted(seen, key=lambda row: row[0]):
            if index > self._reached and (not found.at or found.at >= self._since - 2):
                self._reached = index
                progress.phase(found.phase, engine.clean(told[-1]) if told else "", started=found.at or None)
        if told and progress.phases:
            progress.phase(progress.phases[-1].name, engine.clean(told[-1])[:80])
        del self.lines[:-KEPT]
