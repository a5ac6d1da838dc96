"""What every benchmark gives back: figures, each with what it is compared with, several readings, and a goal.

A benchmark is a module of this folder with `figures(lab: Lab) -> Iterator[Figure]`. Ours and the other are measured in turns, in one run on one
machine, so that a slow moment hits both.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Lab:
    """Where a benchmark works. `rounds`: readings of each figure; `quick`: small sizes, to see that it runs at all."""

    folder: Path
    rounds: int = 3
    quick: bool = False
    say: Callable[[str], None] = print


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    ours, other  readings, in `unit`; `other` empty: the figure stands alone
    of           what `other` is
    how          ratio: ours ÷ other · more: ours − other · value: ours
    goal         what the figure may be at most (`at_least`: at least); None: reported only
    why          what explains a miss, or what one must know to read the row
    """

    name: str
    unit: str
    ours: tuple[float, ...]
    other: tuple[float, ...] = ()
    of: str = ""
    how: Literal["ratio", "more", "value"] = "ratio"
    goal: float | None = None
    at_least: bool = False
    why: str = ""
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The figure that is compared with the goal: made of the medians."""
        ours = statistics.median(self.ours)
        if self.how == "value":
            return ours
        other = statistics.median(self.other)
        return ours / other if self.how == "ratio" else ours - other

    @property
    def met(self) -> bool | None:
        """None: there is no goal."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal


def in_turns(rounds: int, ours: Callable[[], float], other: Callable[[], float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Readings of both, one after the other, so often."""
    pairs = [(ours(), other()) for _ in range(rounds)]
    return tuple(a for a, _ in pairs), tuple(b for _, b in pairs)
