"""What becomes of notices until the receiver has taken them: back-off, and when one is given up. Pure.

A notice is put into the outbox together with the note that it is told (one write), sent, and taken out again. Whoever is killed in between
sends it once more; nobody sends it never.
"""

from __future__ import annotations

from collections.abc import Sequence

from infra.notices import Lost, Notice, Pending, Told
from infra.webhook import Answer

BACK_OFF = (15.0, 60.0, 300.0, 900.0)
"""Seconds to wait after the first, second, third and every later try that was in vain: a receiver that is down comes back within a quarter of an hour's delay."""

GIVE_UP = 6 * 3600.0
"""Seconds after which a notice that was not taken is given up: later it tells of a day that is over."""

MOST = 50
"""Notices of one model that wait at most; the oldest are given up for newer ones."""

KEEP = 20
"""Notices that were given up and are still shown in the record."""

PART = 2000
"""Characters of each part of a notice that are kept: a record on a cluster has room for a megabyte."""


def pause(tries: int) -> float:
    """Seconds until the next try."""
    return BACK_OFF[min(max(tries, 1), len(BACK_OFF)) - 1]


def added(told: Told, notices: Sequence[Notice], now: float) -> Told:
    """With these to be sent, after those that wait."""
    waiting = (*told.outbox, *(Pending(notice=bounded(notice), since=now) for notice in notices))
    over = waiting[: max(0, len(waiting) - MOST)]
    lost = tuple(Lost(notice=one.notice, at=now, why=f"more than {MOST} waited") for one in over)
    return told.model_copy(update={"outbox": waiting[len(over) :], "lost": (*told.lost, *lost)[-KEEP:]})


def bounded(notice: Notice) -> Notice:
    """Of long parts the beginning, of a log the end."""
    parts = {name: value[-PART:] if name == "log" else value[:PART] for name, value in notice.problem().as_dict().items() if value}
    return notice.model_copy(update=parts)


def aged(told: Told, now: float) -> Told:
    """Without those that have waited for too long. A clock that was set back gives nothing up."""
    over = tuple(one for one in told.outbox if now - one.since >= GIVE_UP)
    if not over:
        return told
    lost = tuple(Lost(notice=one.notice, at=now, why=f"not taken within {GIVE_UP / 3600:.0f} h") for one in over)
    return told.model_copy(update={"outbox": tuple(one for one in told.outbox if one not in over), "lost": (*told.lost, *lost)[-KEEP:]})


def tried(told: Told, answer: Answer, now: float) -> Told:
    """After the first one was sent: gone when it was taken or never will be, else to be tried again later."""
    first, *rest = told.outbox
    if answer.taken:
        return told.model_copy(update={"outbox": tuple(rest)})
    if answer.final:
        return told.model_copy(update={"outbox": tuple(rest), "lost": (*told.lost, Lost(notice=first.notice, at=now, why=answer.why))[-KEEP:]})
    again = first.model_copy(update={"tries": first.tries + 1, "after": now + max(pause(first.tries + 1), answer.after or 0.0)})
    return told.model_copy(update={"outbox": (again, *rest)})
