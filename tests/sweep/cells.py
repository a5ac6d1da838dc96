"""One cell: a story is begun, somebody is killed at one point of it, and what `up` and `down` make of that is looked at."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from assets.teardown import leftovers
from infra import local
from tests.sweep.points import Point
from tests.sweep.stand import Done, Stand, suicide

BAD = {"max_model_len": 128, "extra": {"answers": "{}"}}
"""An engine that answers every golden question wrongly."""


@dataclass(frozen=True)
class Story:
    """`before` makes the scene, `act` is what is disturbed."""

    name: str
    before: Callable[[Stand], object]
    act: Callable[..., Done]


def serve(stand: Stand) -> None:
    """The first release is up."""
    done = stand.up()
    assert done.value and done.value["result"] == "serving", done.value


def serve_another(stand: Stand) -> None:
    """The first release was replaced by a second one."""
    serve(stand)
    stand.declare(engine={"max_model_len": 256})
    serve(stand)


STORIES = {
    story.name: story
    for story in (
        Story("first up", lambda _: None, Stand.up),
        Story("version change", lambda stand: (serve(stand), stand.declare(engine={"max_model_len": 256})), Stand.up),
        Story("rollback", serve_another, Stand.rollback),
        Story("refused candidate", lambda stand: (serve(stand), stand.declare(engine=BAD)), Stand.up),
        Story("down", serve, Stand.down),
    )
}



def kill_candidates(stand: Stand) -> None:
    """Every release that is not live."""
    for state in stand.platform.ray_service.running("demo"):
        if state.release != f"demo-{stand.live}":
            stand.kill("ray_service", state.release)


VICTIMS: dict[str, Callable[[Stand], None]] = {
    "run": suicide,
    "router": lambda stand: stand.kill("endpoint", "router"),
    "live engine": lambda stand: stand.kill("ray_service", f"demo-{stand.live}"),
    "candidate": kill_candidates,
}
"""Who is killed. `run` is the step and its run worker: one process here, two in tests/sweep/test_dagster.py."""


def cells(story: str) -> Iterator[tuple[Point, str]]:
    """Every cell of a story: the run at each point; the others where a stage or a phase begins, while they are there."""
    serves = story != "first up"
    for point in points_of(story):
        yield point, "run"
        if not point.what.startswith(("begin", "phase", "push")):
            continue
        services = sum(mark.startswith("ray_service") for mark in point.there)
        if "endpoint:router" in point.there:
            yield point, "router"
        if serves and services:
            yield point, "live engine"
        if services > serves:
            yield point, "candidate"


@dataclass
class Outcome:
    """A row of the table."""

    story: str
    point: Point
    victim: str
    run: str = ""
    healed: str = ""
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not self.wrong


@cache
def points_of(story: str) -> tuple[Point, ...]:
    """What an undisturbed run of the story passes."""
    stand = fresh()
    try:
        STORIES[story].before(stand)
        done = STORIES[story].act(stand)
        assert done.code == 0
        return tuple(done.points)
    finally:
        stand.close()


def fresh() -> Stand:
    """A clone on which nothing was done yet; in memory where that is possible, since Dagster's storage waits for the disk at each event."""
    memory = "/dev/shm"
    return Stand(Path(tempfile.mkdtemp(prefix="sweep-", dir=memory if os.access(memory, os.W_OK) else None)))


def cell(story: str, point: Point, victim: str = "run") -> Outcome:
    """Plays one cell, and leaves nothing of it."""
    stand, out = fresh(), Outcome(story, point, victim)
    try:
        STORIES[story].before(stand)
        before = {(record.id, attempt.run) for record in stand.decisions.releases().values() for attempt in record.attempts}
        done = STORIES[story].act(stand, at=point, strike=None if victim == "run" else VICTIMS[victim])
        out.run = "killed" if done.code == -9 else told(done)
        if point not in done.points:
            out.wrong.append("this point was not reached")
        heal(stand, out, before)
        gone(stand, out)
    except Exception as error:
        out.wrong.append(f"{type(error).__name__}: {error}"[:500])
    finally:
        stand.close()
    return out


def heal(stand: Stand, out: Outcome, before: set[tuple[str, str]]) -> None:
    """`up` in a new process; one word of a person, or two where the first one's answer says so."""
    began = time.monotonic()
    done = stand.up()
    out.seconds = round(time.monotonic() - began, 1)
    out.healed = told(done)
    refused = out.story == "refused candidate"
    if refused != (out.healed == "refused") and not (out.healed in ("serving", "unchanged") and not refused):
        out.wrong.append(f"up ended as {out.healed}: {done.value}"[:400])
    out.wrong += whole(stand)
    for record in stand.decisions.releases().values():
        for attempt in record.attempts:
            if attempt.result == "running":
                out.wrong.append(f"attempt {attempt.number} of {record.id} is still running in the history")
    tries = {(record.id, attempt.run) for record in stand.decisions.releases().values() for attempt in record.attempts}
    if refused and not tries - before:
        out.wrong.append("the refused candidate is not in the history")


def whole(stand: Stand) -> list[str]:
    """What is not as it should be while one release serves."""
    wrong, live = [], stand.live
    if (found := stand.ask()) != (200, f"demo-{live}"):
        wrong.append(f"a question was answered by {found}, live is {live}")
    if (there := stand.processes()) != {"endpoint:router": 1, f"ray_service:demo-{live}": 2}:
        wrong.append(f"these processes are there: {there}")
    folders = {path.name for path in (stand.settings.home / "services").iterdir()}
    sessions = {path.name for path in local.temp_dir(stand.settings).iterdir()}
    if (folders, sessions) != ({f"demo-{live}"}, {live}):
        wrong.append(f"these folders are there: {folders} {sessions}")
    if found := leftovers(stand.platform, "local"):
        wrong.append(f"left over: {found}")
    if claim := stand.decisions.claim(0):
        wrong.append(f"the rollout is still claimed: {claim}")
    pin = stand.decisions.pin
    if pin and pin.release and pin.release != live:
        wrong.append(f"pinned to {pin.release}, live is {live}")
    return wrong


def gone(stand: Stand, out: Outcome) -> None:
    """`down`, and a look of our own that believes nobody."""
    done = stand.down()
    if done.code != 0 or not done.value or done.value.get("left") != []:
        out.wrong.append(f"down ended with {done.code}: {done.value}"[:400])
    if there := stand.processes():
        out.wrong.append(f"after down these processes are there: {there}")
    left = [path for path in (local.temp_dir(stand.settings), stand.settings.home / "router", *(stand.settings.home / "services").glob("*")) if path.exists()]
    left += [found.id for found in stand.platform.inventory.find() if not found.data]  # type: ignore[misc]
    if left:
        out.wrong.append(f"after down these are there: {left}")
    out.wrong += litter(stand)
    if stand.live or stand.decisions.wanted or stand.decisions.claim(0):
        out.wrong.append("after down the records still say that it serves")


def litter(stand: Stand) -> list[str]:
    """Files that were begun by somebody who died. The next write in their folder removes them; after a `down` there was one in each."""
    found = [str(p.relative_to(stand.root)) for p in stand.settings.home.rglob(".*.json.*")] + [str(p.relative_to(stand.root)) for p in stand.settings.home.rglob(".*.who.*")]
    return [f"half-written files stay: {found}"] if found else []


def told(done: Done) -> str:
    """How a verb ended, in a word."""
    value: Any = done.value or {}
    if done.code:
        return f"ended with {done.code}"
    if "error" in value:
        return f"{value['error']}: {value['what']}"
    return str(value.get("result") or ("down" if value.get("left") == [] else value))
