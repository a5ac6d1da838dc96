"""The table of scenarios: what may happen while a model serves, and what becomes of it. docs/scenarios.md is made from it."""

from __future__ import annotations

from tests.scenarios import approvals, arrivals, edits, people, troubles

THEMES = {
    "What arrives at the source": arrivals.ROWS, "What is edited": edits.ROWS, "What people say": people.ROWS, "What waits for a person's approval": approvals.ROWS,
    "What goes wrong": troubles.ROWS,
}  # fmt: skip

ROWS = tuple(row for rows in THEMES.values() for row in rows)
