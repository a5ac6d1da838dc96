"""What is missing and how to get it, for everything that the declared platforms need. Reads only, and ends within seconds.

lines      a line, and a clock that was seen in passing
asking     all questions at once, under one deadline
machine    Python, packages, disks, folders, memory      engine    libraries, limits, GPUs: what engines on this machine need
dagster    webserver, daemon, ports                      network   proxies, the Hub, AWS, every model's weights, our clock
clusters   those elsewhere, and the rights to ask for    settings  declarations, the store's limit, where each setting comes from
screen     how it is shown
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import psutil

from infra.settings import Settings
from llm_pipeline import components
from llm_pipeline.doctor import asking, clusters, dagster, engine, machine, network, settings
from llm_pipeline.doctor.asking import Question
from llm_pipeline.doctor.clusters import rbac
from llm_pipeline.doctor.lines import Clock, Line
from llm_pipeline.doctor.settings import fullness

__all__ = ["Line", "examine", "fullness", "rbac"]

SECONDS = 4.0
"""For everything that is looked at, all at once."""

WHOLE, LEAST = 4.6, 2.0
"""Seconds for a whole command, from the start of its process; and what the looks get however long that took to load."""

PATIENCE = 3.5
"""For a single answer over a network: a little less than for all, so that silence is told by who knows what it means."""


def examine(found: Settings, seconds: float = SECONDS) -> list[Line]:
    """All lines, by place."""
    answers = asking.together(tuple(questions(found, min(PATIENCE, seconds * 0.9))), seconds)
    lines = [one for one in answers if isinstance(one, Line)]
    lines.append(network.clock([one for one in answers if isinstance(one, Clock)]))
    places = list(dict.fromkeys(line.group for line in lines))
    return sorted(lines, key=lambda line: places.index(line.group))


def left() -> float:
    """What this process has left of the seconds of a whole command."""
    return max(LEAST, min(SECONDS, WHOLE - (time.time() - psutil.Process().create_time())))


def questions(found: Settings, patience: float) -> Iterator[Question]:
    """Everything that there is to ask, of what the declared platforms need."""
    declared = components.declared()
    local = [name for name, cluster in declared.clusters.items() if cluster.spec.platform == "local"]
    yield from machine.questions(found, engines=bool(local))
    if local:
        yield from engine.questions(found, {model: count for name in local for model, count in clusters.gpus_of(declared, name).items()})
    yield from dagster.questions(found, engines=bool(local))
    yield from network.questions(found, declared, patience)
    yield from clusters.questions(declared, patience)
    yield from settings.questions(found, declared)
