"""Who acts by itself on a cluster: of several Dagsters that share its records one, and the others see which.

Who acts leaves a sign of life in the record `loop`. Whoever sees the same sign for PATIENCE seconds, by a clock of its own, takes over: nobody's
clocks have to agree. Two that take over at once write on the same version, and one of them wins.
"""

from __future__ import annotations

import json

from infra.documents import Document
from infra.errors import Conflict
from infra.platform import Records

SIGN, PATIENCE = 30.0, 90.0
"""Seconds between two signs of life, and until one that does not change is nobody's."""


class Turn(Document):
    """Whose turn it is, and when it last said so. Unix seconds of the holder's own clock, for people."""

    holder: str
    at: float


class Loop:
    """One Dagster, as it looks at its clusters in turn. `holder`: its name for people; `memory`: what `memory()` answered last time."""

    def __init__(self, holder: str, memory: str | None) -> None:
        self._holder = holder
        self._told: dict[str, str | None] = {}
        self._seen: dict[str, tuple[int, float]] = {name: (version, at) for name, (version, at) in json.loads(memory or "{}").items()}

    def memory(self) -> str:
        """Which signs of others were seen, since when."""
        return json.dumps(self._seen)

    def other(self, records: Records, cluster: str, now: float) -> str | None:
        """Who else acts there; None: we do, and said so. Asked once of each cluster, however many models it has. Unix seconds."""
        if cluster not in self._told:
            self._told[cluster] = self._turn(records, cluster, now)
        return self._told[cluster]

    def _turn(self, records: Records, cluster: str, now: float) -> str | None:
        found = records.get(cluster, "loop")
        turn = Turn.model_validate(found.value) if found else None
        if found and turn and turn.holder != self._holder and not self._silent(cluster, found.version, now):
            return turn.holder
        if turn is None or turn.holder != self._holder or not 0 <= now - turn.at < SIGN:
            try:
                records.put(cluster, "loop", Turn(holder=self._holder, at=now).model_dump(mode="json"), found.version if found else None)
            except Conflict:
                return "somebody who was quicker"
        self._seen.pop(cluster, None)
        return None

    def _silent(self, cluster: str, version: int, now: float) -> bool:
        """Whether this very sign was seen long ago. A clock that was set back begins anew."""
        known, since = self._seen.get(cluster, (None, now))
        if known != version or since > now:
            self._seen[cluster] = (version, now)
            return False
        return now - since >= PATIENCE


def acting(records: Records, cluster: str) -> str | None:
    """Whose turn it was last."""
    found = records.get(cluster, "loop")
    return Turn.model_validate(found.value).holder if found else None
