"""On which machines of the catalogue a release would run, and what they cost: the key `capacity` of `plan`. Nothing is reserved or made."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from assets.step import Model
from infra import engine, pricing
from infra.errors import ConfigError
from infra.fitting import OUTLINE_SECONDS
from infra.planner import Choice, Prices, Wish, catalogue, choose, read_architecture, read_arguments, stored
from infra.planner.catalogue import OLD
from infra.platform import Release
from infra.settings import Settings
from infra.waiting import Progress
from infra.weights import Outline

REGION = "us-east-1"
"""The one for which the snapshot has most prices."""

DEARER = re.compile(r".* cost .* USD per hour, the ceiling is .*")
"""A reason that has another number for every type, and is one reason for people."""

SHAPE = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")


@dataclass(frozen=True)
class Terms:
    """What a person asked for: only this GPU, at most so many USD per hour, in this region."""

    gpu: str | None = None
    most_usd: float | None = None
    region: str = REGION


def terms(gpu: str | None, most_usd: float | None, region: str | None) -> Terms | None:
    """None: nobody asked. Raises ConfigError for a GPU that the catalogue does not have, and for what is no price and no region."""
    if gpu is None and most_usd is None and region is None:
        return None
    if gpu is not None and catalogue().gpu(gpu) is None:
        raise ConfigError(f"{gpu} is not a GPU of the catalogue", why=f"it has {', '.join(one.name for one in catalogue().gpus)}", next="--gpu with one of these")
    if most_usd is not None and not 0 < most_usd < float("inf"):
        raise ConfigError(f"{most_usd:g} is no ceiling", why="--max-usd-per-hour is a number above 0", next="--max-usd-per-hour 2.50")
    if region is not None and not SHAPE.fullmatch(region):
        raise ConfigError(f"{region} is not the name of a region of AWS", why="they are written like us-east-1 or eu-central-1", next=f"--region {REGION}")
    return Terms(gpu, most_usd, region or REGION)


def document(model: Model, release: Release, asked: Terms, settings: Settings) -> dict[str, Any]:
    """Every instance type of the catalogue: candidates, the cheapest first, and the others with their reason. Raises what the source raises."""
    today = datetime.now(UTC).date()
    outline = model.platform.model_weights.outline(release, Progress(OUTLINE_SECONDS))
    return as_dict(choose(wish(release, outline, asked), today, pricing.current(asked.region, settings, today), asked.region), asked, today)


def wish(release: Release, outline: Outline, asked: Terms) -> Wish:
    """The release as the choice takes it. One that is written for CPUs is asked about as if it had a GPU: that is the question."""
    made, spec = read_architecture(outline.config), release.spec
    given = {**engine.arguments(release), **({} if release.needs_gpu else {"enforce_eager": spec.engine.extra.get("enforce_eager", False)})}
    parallel = spec.engine.tensor_parallel_size
    return Wish(
        made, read_arguments(given), stored(outline.headers, made) if outline.headers else None, replicas=spec.replicas.min,
        parallel=parallel if parallel > 1 else None, gpu=asked.gpu, most_usd=asked.most_usd,
    )  # fmt: skip


def as_dict(found: Choice, asked: Terms, today: date) -> dict[str, Any]:
    """As JSON. Bytes; USD per hour; `margin` is the share of the cache beyond what is wanted."""
    candidates = [
        {
            "instance": one.instance, "gpu": one.gpu, "count": one.count, "gpus": one.parallel, "tensor_parallel_size": one.parallel, "usd_per_hour": one.usd,
            "margin": one.plan.margin, "requests": {"gpu": one.requests.gpus, "cpu": one.requests.cpus, "memory": one.requests.memory, "ephemeral_storage": one.requests.scratch},
            "disk": {"bytes": one.disk.size, "local": one.disk.local},
        }
        for one in found.candidates
    ]  # fmt: skip
    return {
        "asked": {"gpu": asked.gpu, "max_usd_per_hour": asked.most_usd, "region": asked.region}, "candidates": candidates,
        "rejected": [{"instance": one.instance, "why": one.why} for one in found.rejected], "prices": prices(found.prices, today), "warnings": list(found.warnings), "problem": None,
    }  # fmt: skip


def prices(found: Prices, today: date) -> dict[str, Any]:
    """Where they are from, and how old they are (days)."""
    return {"region": found.region, "day": str(found.day), "age_days": found.age(today), "source": found.source, "note": found.note or None}


FIRST = 10
"""Lines of each table on a screen; `--json` has all."""


def lines(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """For people in 80 columns: text and style."""
    if found["problem"]:
        yield f"on which machines it would run can not be told: {found['problem']['what']}", "busy"
        return
    age, many = found["prices"], found["candidates"]
    asked = [text for text in (found["asked"]["gpu"], f"at most {found['asked']['max_usd_per_hour']:g} USD per hour" if found["asked"]["max_usd_per_hour"] else "") if text]
    yield f"machines of AWS in {age['region']}{' (' + ', '.join(asked) + ')' if asked else ''}: {len(many)} would do", "good" if many else "busy"
    if age["age_days"] <= OLD:  # else a warning says so
        yield f"prices: {age['source']} of {age['day']}, {age['age_days']} days old", "quiet"
    yield from ((text, "busy") for text in found["warnings"])
    if many:
        yield f"{'USD/h':>9}  {'machines':<22}{'GPUs of a replica':<20}{'TP':>2}  margin of the cache", "quiet"
    for one in many[:FIRST]:
        usd = "not known" if one["usd_per_hour"] is None else f"{one['usd_per_hour']:.2f}"
        margin = "not known" if one["margin"] is None else f"{one['margin']:.0%}" if one["margin"] < 10 else "over 999%"
        machines, gpus = f"{one['count']} x {one['instance']}", f"{one['gpus']} x {one['gpu']}"
        yield f"{usd:>9}  {machines:<22}{gpus:<20}{one['tensor_parallel_size']:>2}  {margin}", ""
    if len(many) > FIRST:
        yield f"and {len(many) - FIRST} {'more' if many[-1]['usd_per_hour'] is None else 'dearer ones'}", "quiet"
    yield from rejected([row for row in found["rejected"] if not row["why"].endswith(" is asked for")])


def rejected(rows: list[dict[str, str]]) -> Iterator[tuple[str, str]]:
    """By reason: the first type, how many more there are, and why. Without those that only have another GPU than the one asked for."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        reasons.setdefault(DEARER.sub("it is dearer than the ceiling", row["why"]), []).append(row["instance"])
    if rows:
        yield "not taken", "quiet"
    for why, types in list(reasons.items())[:FIRST]:
        more = f"and {len(types) - 1} more" if len(types) > 1 else ""
        yield f"  {types[0]:<16}{more:<13}{why}", "quiet"
    if rest := sum(len(types) for types in list(reasons.values())[FIRST:]):
        yield f"  and {rest} more for other reasons; --json has all", "quiet"
