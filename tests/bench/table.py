"""The page of the benchmarks: one row a figure, medians and spread, what was missed and why."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from tests.bench.frame import Figure

HEAD = """# Benchmarks

Written by `make bench`, never by hand: one run on one machine, ours and what it is compared with in turns. Columns are medians, with the
smallest and largest reading in brackets. What other pages tell of durations: [measurements](measurements.md).

"""


def render(figures: Sequence[Figure], machine: Mapping[str, str], minutes: float) -> str:
    """The whole page."""
    facts = "".join(f"- {name}: {value}\n" for name, value in machine.items())
    rows = "".join(row(figure) for figure in figures)
    told = "".join(f"- **{figure.name}**: {figure.why}\n" for figure in figures if figure.why)
    compared = "".join(f"- {name}\n" for name in dict.fromkeys(f"{figure.name.split(':')[0].split(',')[0]}: against {figure.of}" for figure in figures if figure.of))
    return (
        f"{HEAD}{facts}- the run took {minutes:.0f} minutes\n\n| what | ours | other | figure | goal | |\n|---|---|---|---|---|---|\n{rows}"
        f"\n## What `other` is\n\n{compared}\n## To read the rows\n\n{told}"
    )


def amend(page: str, figures: Sequence[Figure], name: str, machine: Mapping[str, str]) -> str:
    """The page with these rows in place of those of the same names: one benchmark that was run again by itself, and says so."""
    fresh = {f"| {figure.name} |": row(figure).rstrip("\n") for figure in figures} | {f"- **{figure.name}**:": f"- **{figure.name}**: {figure.why}" for figure in figures if figure.why}
    lines = [line for line in page.splitlines() if not line.startswith((f"| {name}: broke off", f"- **{name}: broke off", f"- {name}: again on"))]
    for start, text in fresh.items():
        place = next((n for n, line in enumerate(lines) if line.startswith(start)), None)
        if place is not None:
            lines[place] = text
        elif start.startswith("|"):
            lines.insert(max(n for n, line in enumerate(lines) if line.startswith("| ")) + 1, text)
        else:
            lines.append(text)
    again = f"- {name}: again on {machine['date']}, load before {machine['load before']}"
    lines.insert(max(n for n, line in enumerate(lines[: lines.index("| what | ours | other | figure | goal | |")]) if line.startswith("- ")) + 1, again)
    return "\n".join(lines) + "\n"


def row(figure: Figure) -> str:
    """One line of the table."""
    goal = "" if figure.goal is None else f"{'≥' if figure.at_least else '≤'} {figure.goal:g}"
    verdict = "" if figure.met is None else "met" if figure.met else "**missed**"
    sign = {"ratio": f"× {figure.value:.3f}", "more": f"{figure.value:+.3g} {figure.unit}", "value": f"{figure.value:.3g} {figure.unit}"}[figure.how]
    return f"| {figure.name} | {spread(figure.ours, figure.unit)} | {spread(figure.other, figure.unit)} | {sign.strip()} | {goal} | {verdict} |\n"


def spread(readings: Sequence[float], unit: str) -> str:
    """Median, and from smallest to largest."""
    if not readings:
        return ""
    middle = f"{statistics.median(readings):.3g} {unit}".strip()
    return middle if len(readings) == 1 else f"{middle} ({min(readings):.3g} to {max(readings):.3g})"
