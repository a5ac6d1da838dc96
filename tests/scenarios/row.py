"""What a row of the table is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.scenarios.scene import Scene

Story = Callable[[Scene], None]
"""Plays a row on a scene. Its docstring says what must hold."""


@dataclass(frozen=True)
class Rule:
    """A row of the tables of the pure functions: `admit` in tests/infra/test_policy_admission.py, `decide` in tests/infra/test_policy.py.

    They are asked there, facts in and verdict out; here it is said which of them carry a story.
    """

    function: Literal["admit", "decide"]
    case: str


@dataclass(frozen=True)
class Elsewhere:
    """A story that is a test of its own, with the same sensors and instance: nothing is proved twice."""

    test: Callable[..., None]


@dataclass(frozen=True)
class Row:
    """One scenario.

    name    what happens, in words
    pure    which cases of the pure functions carry it; or why none does
    play    the story with both sensors and a Dagster instance; or the test that is it already; or why it is not played
    real    the part of tests/life/test_updates.py that plays it with a daemon and a real engine; empty: none
    """

    name: str
    pure: tuple[Rule, ...] | str
    play: Story | Elsewhere | str
    real: str = ""

    @property
    def then(self) -> str:
        """What must hold."""
        if isinstance(self.play, str):
            return self.play
        told = self.play.test if isinstance(self.play, Elsewhere) else self.play
        return " ".join((told.__doc__ or "").split())


def admit(*cases: str) -> tuple[Rule, ...]:
    return tuple(Rule("admit", case) for case in cases)


def decide(*cases: str) -> tuple[Rule, ...]:
    return tuple(Rule("decide", case) for case in cases)
