"""The scenarios, one after the other; and that their table is whole."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.life import test_updates
from tests.scenarios.page import PAGE, VERDICTS, page
from tests.scenarios.row import Row
from tests.scenarios.scene import Scene
from tests.scenarios.table import ROWS

PLAYED = [row for row in ROWS if callable(row.play)]

NOT_PLAYED = {"a revision while the model is asleep"}
"""What this version can not do. A row that is left out needs a line here."""


@pytest.mark.parametrize("row", PLAYED, ids=[row.name for row in PLAYED])
def test_a_scenario_ends_as_the_table_says(scene: Scene, row: Row) -> None:
    """With both sensors, a Dagster instance and real records; what must hold is the story's docstring."""
    assert callable(row.play)
    row.play(scene)


def test_every_row_says_what_must_hold_and_what_decides_it() -> None:
    """A sentence for people; cases of the pure functions that exist, or why there is none."""
    for row in ROWS:
        assert row.then, f"{row.name}: its story has no docstring"
        assert row.pure, f"{row.name}: which cases of the pure functions carry it?"
        missing = [rule for rule in row.pure if rule not in VERDICTS] if isinstance(row.pure, tuple) else []
        assert not missing, f"{row.name}: no such case: {missing}"


def test_no_row_is_there_twice_and_none_is_left_out() -> None:
    """A story that two rows play proves one of them."""
    assert len(ROWS) >= 30
    for what in (Counter(row.name for row in ROWS), Counter(row.play for row in ROWS)):
        assert set(what.values()) == {1}, what
    assert {row.name for row in ROWS if isinstance(row.play, str)} == NOT_PLAYED


def test_the_rows_of_the_real_life_are_those_that_it_plays() -> None:
    """A star in the table is a promise."""
    assert {row.real for row in ROWS if row.real} == {part.__name__ for part in test_updates.PARTS}


def test_the_page_is_that_of_the_table() -> None:
    """`python -m tests.scenarios.page` writes it anew."""
    assert PAGE.read_text() == page()
