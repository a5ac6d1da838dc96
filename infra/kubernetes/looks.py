"""Lists of what is there, shared by the parts that look at one moment: a tick of the loop asks for every model in turn, and lists each kind once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.kubernetes.kinds import Kind

if TYPE_CHECKING:
    from infra.kubernetes.api import Object
    from infra.kubernetes.place import Place


class Looks:
    """Of one place. `kept`: each kind is listed once and never again; else at every question."""

    def __init__(self, place: Place, *, kept: bool = False) -> None:
        self._place, self._kept = place, kept
        self._seen: dict[tuple[Kind, bool], tuple[Object, ...]] = {}

    def ours(self, kind: Kind, part: str) -> tuple[Object, ...]:
        """What of this kind we made for this part."""
        wanted = self._place.marks(part).items()
        return tuple(item for item in self._of(kind, everybody=False) if wanted <= (item["metadata"].get("labels") or {}).items())

    def everybodys(self, kind: Kind) -> tuple[Object, ...]:
        """All of this kind in our namespace."""
        return self._of(kind, everybody=True)

    def _of(self, kind: Kind, *, everybody: bool) -> tuple[Object, ...]:
        known = next((found for key in ((kind, True), (kind, everybody)) if (found := self._seen.get(key)) is not None), None)
        if known is not None:
            return known
        found = self._place.api.list(kind, self._place.namespace, "" if everybody else self._place.selector()).items
        if self._kept:
            self._seen[kind, everybody] = found
        return found
