"""What `plan` shows, and `up` before it asks: the verdict, each part that changes with its fields, then time, outage, room and money. 80 columns."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

from infra.errors import Problem
from infra.plan import MEASURED
from llm_pipeline import console, machines

WIDTH = 79
INDENT = 15
"""Columns of the first word of a line."""

WORDS = {"in_place": "in place", "new_release": "new release", None: "not known"}
"""Actions that people read otherwise than programs do."""

LONGEST = 30
"""Characters of a value; `--json` has it whole."""

REVISION = 10
"""Letters of a revision that tell it from others."""

Line = tuple[str, str]


def show(found: dict[str, Any]) -> None:
    """On standard output, and what to type next."""
    for text, style in lines(found):
        console.line(text, style)
    if found["problem"]:
        console.card(Problem(**found["problem"]))
    elif found["result"] == "unchanged":
        console.following(f"llm-pipeline status {found['model']}")
    elif not hopeless(found):
        console.following(f"llm-pipeline up {found['model']}")


def hopeless(found: dict[str, Any]) -> bool:
    """Whether the rollout would fail, as its lines say: nobody is sent into that."""
    return bool(found["release"]) and (found["room"]["strategy"] == "fail" or found["fits"]["verdict"] == "refused")


def lines(found: dict[str, Any]) -> Iterator[Line]:
    """Text and style, line by line."""
    yield from _wrapped("", verdict(found), STYLES[found["result"]])
    for note in found["notes"]:
        yield from _wrapped("", note, "busy")
    if found["result"] not in ("refused", "unchanged") and found["release"]:
        yield from _parts(found)
    if found["result"] == "unknown":
        told = [name for name, part in found["parts"].items() if part["action"]]
        yield from _wrapped("known", ", ".join(f"{name}: {WORDS.get(found['parts'][name]['action'], found['parts'][name]['action'])}" for name in told) or "nothing", "quiet")
    if found["release"]:
        yield from _facts(found)
    if found["counted"]:
        yield from _wrapped("without a run", ", ".join(changed(one) for one in found["counted"]), "quiet")
    if found["capacity"]:
        yield "", ""
        yield from ((text, style) for whole, style in machines.lines(found["capacity"]) for text in _folded(whole))


STYLES = {"unchanged": "good", "changes": "busy", "asleep": "quiet", "refused": "bad", "unknown": "busy"}


def verdict(found: dict[str, Any]) -> str:
    """The first line."""
    model, release, live = found["model"], found["release"], found["live"]
    match found["result"]:
        case "unchanged":
            return f"{model}: `up` would change nothing; release {release} serves as declared"
        case "unknown":
            return f"{model}: what `up` would change can not be told"
        case "refused":
            return f"{model}: `up` would not begin"
        case "asleep":
            return f"{model} sleeps, and a bare `up` leaves it asleep; llm-pipeline up {model} would wake it"
    service = found["parts"]["ray_service"]["action"]
    if service == "recreate":
        return f"{model}: {live} would go before {release} comes"
    if service == "new_release":
        return f"{model}: release {release} would take over from {live}"
    if service == "create":
        return f"{model}: release {release} would be {'started again' if live == release else 'started'}"
    return f"{model}: release {release} stays, and is changed in place" if service else f"{model}: release {release}; not all of it can be told"


def changed(one: dict[str, Any]) -> str:
    """`engine.max_model_len 512 -> 256`; a revision by its first letters, as `history` shows it."""
    before, after = (value[:REVISION] if one["field"] == "revision" and isinstance(value, str) else value for value in (one["from"], one["to"]))
    return f"{one['field']} {_short(before)} -> {_short(after)}"


# ---------------------------------------------------------------- private


def _parts(found: dict[str, Any]) -> Iterator[Line]:
    """Those that change with their fields; the others in one line."""
    quiet = [name for name, part in found["parts"].items() if part["action"] == "none"]
    for name, part in found["parts"].items():
        if part["action"] != "none":
            took = "" if part["seconds"] is None else f", about {console.ago(part['seconds'])}"
            fields = "; ".join(changed(one) for one in part["changes"]) or part["why"] or ""
            yield from _wrapped(name, f"{WORDS.get(part['action'], part['action'])}{took}{': ' if fields else ''}{fields}", "")
    for name in found["removes"]:
        yield from _wrapped("removes", f"{name}: neither declared nor live", "")
    if quiet:
        yield from _wrapped("unchanged", ", ".join(quiet), "quiet")


def _facts(found: dict[str, Any]) -> Iterator[Line]:
    """Time, outage, room, whether it fits at all, money, sleep."""
    if found["result"] in ("changes", "asleep"):
        yield from _wrapped("takes", _takes(found), "")
        yield from _wrapped("outage", _outage(found), "busy" if found["outage_s"] != 0 else "")
        if found["room"]["strategy"] == "fail":
            yield from _wrapped("room", f"none, so the rollout would fail: {found['room']['why']}", "bad")
        else:
            yield from _wrapped("room", found["room"]["why"], "")
    if found["result"] != "unchanged":
        fits = found["fits"]
        word = f"{fits['verdict']}{' on ' + fits['hardware'] if fits['hardware'] else ''}{', so the rollout would fail' if fits['verdict'] == 'refused' else ''}"
        told = f"{word}: {fits['why']}" + (f"; {fits['next']}" if fits["next"] else "")
        yield from _wrapped("planner", told, "bad" if fits["verdict"] == "refused" else "")
    usd = found["usd_per_hour"]
    told = f"{_usd(usd['before'])} -> {_usd(usd['after'])}" if usd["before"] != usd["after"] else _usd(usd["after"])
    yield from _wrapped("USD per hour", f"{told}: {usd['why']}" if usd["why"] else told, "")
    if asleep := found["asleep"]:
        bridged = "a client with two retries waits that long" if asleep["bridged"] else "longer than a client with two retries waits"
        yield from _wrapped("asleep", f"{asleep['rung']}; waking takes about {console.ago(asleep['wake_seconds'])}: {bridged}", "quiet" if asleep["bridged"] else "busy")


def _takes(found: dict[str, Any]) -> str:
    """What was measured once says nothing of a hundred; what can not be told is not what was never measured."""
    seconds, parts = found["seconds"], found["parts"]
    if seconds["median"] is not None:
        most = "" if seconds["p95"] == seconds["median"] else f"; 95 of 100 take {console.ago(seconds['p95'])} at most"
        return f"about {console.ago(seconds['median'])}{most}"
    new = [name for name in MEASURED if parts[name]["action"] not in (None, "none") and parts[name]["seconds"] is None]
    return f"not known: {', '.join(new)} {'was' if len(new) == 1 else 'were'} never measured here" if new else "not known: not all of it can be told"


def _outage(found: dict[str, Any]) -> str:
    if found["outage_s"] is None:
        known = found["parts"]["ray_service"]["action"]
        return "nothing answers until it is up; no start of it was measured yet" if known else "not known"
    if found["outage_s"]:
        return f"nothing answers for about {console.ago(found['outage_s'])}"
    if found["room"]["strategy"] == "blue_green":
        return "none: both stand until the switch"
    return "none: it waits until there is room for both" if found["room"]["strategy"] == "wait" else "none"


def _wrapped(name: str, text: str, style: str) -> Iterator[Line]:
    """A word and what belongs to it, as wide as a terminal; without a word at the margin."""
    first, rest = (f"{name:<{INDENT}}", " " * INDENT) if name else ("", "  ")
    yield from ((line, style) for line in textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False) or [first.rstrip()])


def _folded(text: str) -> list[str]:
    """A line that is too wide goes on below itself; one of the table below its last column."""
    below = " " * 31 if text.startswith("  ") else "  "
    return textwrap.wrap(text, WIDTH, subsequent_indent=below, break_on_hyphens=False) if len(text) > WIDTH else [text]


def _usd(value: float | None) -> str:
    return "not known" if value is None else f"{value:.2f}"


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    told = value if isinstance(value, str) else json.dumps(value, default=str)
    return told if len(told) <= LONGEST else f"{told[: LONGEST - 1]}…"
