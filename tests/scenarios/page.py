"""docs/scenarios.md, made from the table. `python -m tests.scenarios.page` writes it anew."""

from __future__ import annotations

from pathlib import Path

from tests.infra.test_policy import SCENARIOS
from tests.infra.test_policy_admission import ROWS as ADMISSIONS
from tests.scenarios.row import Row, Rule
from tests.scenarios.table import ROWS, THEMES

PAGE = Path(__file__).parents[2] / "docs" / "scenarios.md"

VERDICTS: dict[Rule, str] = {Rule("decide", case): action for case, _, action, _ in SCENARIOS} | {
    Rule("admit", case): "admitted" if admitted else "held" for case, _, admitted, _, _ in ADMISSIONS
}
"""What the pure functions answer in each of their cases."""

HEAD = """# Scenarios

Made from the table in `tests/scenarios` by `python -m tests.scenarios.page`; never edited by hand. {rows} rows.

A model serves, and something happens: what becomes of it. Each row is a test with both sensors, a Dagster instance and real records, on a platform whose
engines are scripted; *decided by* names the cases of the two pure functions that carry it: `admit` says whether a revision may go live, `decide` what the loop
does next ([architecture.md](architecture.md#one-loop)). Rows with a star are also played in one life with a daemon and a real engine
(`tests/life/test_updates.py`), {real} of them. v1, v2 … are revisions; a bad one answers the golden questions wrongly.

What holds in any order of such things is looked for by a machine that plays them at random (`tests/scenarios/test_machine.py`): nothing that was not accepted
ever gets a request, no release is rolled out twice, what is admitted and good is live when time passes, and what a person took down stays down.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD.format(rows=len(ROWS), real=sum(bool(row.real) for row in ROWS))]
    for theme, rows in THEMES.items():
        parts.append(f"## {theme}\n\n| when | then | decided by |\n|---|---|---|\n" + "".join(f"{line(row)}\n" for row in rows))
    return "\n".join(parts)


def line(row: Row) -> str:
    """One row of the page."""
    return f"| {row.name}{' *' if row.real else ''} | {row.then} | {decided(row)} |".replace("<", "&lt;")


def decided(row: Row) -> str:
    """The cases of the pure functions with their verdicts, or why there is none."""
    if isinstance(row.pure, str):
        return row.pure
    return "; ".join(f"`{rule.function}`: {rule.case} → {VERDICTS[rule]}" for rule in row.pure)


if __name__ == "__main__":
    PAGE.write_text(page())
