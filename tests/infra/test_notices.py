"""What is to be told of a model's records, and that it is told once."""

from __future__ import annotations

from typing import Any

import pytest

from infra.documents import Attempt, Failure, Live, Mark, ReleaseRecord, Sighting
from infra.notices import Facts, Kind, Notice, Told, due, open_

NOW, LIMIT = 100_000.0, 3600.0


def attempt(number: int = 1, result: str = "accepted", at: float = NOW - 60, **more: Any) -> Attempt:
    ended = None if result == "running" else at
    return Attempt(number=number, run=f"run-{number}", by="reconcile", why="a -> b", started=at - 42, ended=ended, result=result, **more)


def record(release: str, *attempts: Attempt, mark: Mark | None = None, heals: tuple[float, ...] = ()) -> ReleaseRecord:
    return ReleaseRecord(id=release, spec={}, revision=f"rev-{release}", manifest={}, image="i", source="hf://org/name", attempts=attempts, mark=mark, heals=heals)


def facts(*records: ReleaseRecord, live: str | None = None, since: float = NOW - 50, **more: Any) -> Facts:
    serving = Live(release=live, since=since, by="reconcile") if live else None
    return Facts(model="demo", wanted=more.pop("wanted", True), live=serving, releases={one.id: one for one in records}, **more)


def away(since: float, *, reachable: bool = False) -> Sighting:
    return Sighting(source="hf://org/name", reachable=reachable, since=since, problem=None if reachable else Failure(what="the Hub does not answer", log="ConnectTimeout"))


A, B = record("aaaa", attempt(at=NOW - 9000)), record("bbbb", attempt())
BEFORE = due(None, facts(A, live="aaaa", since=NOW - 8990), NOW - 5000, LIMIT)[1]
"""`a` serves, and all of that is old."""
PROBLEM = Failure(what="bbbb was refused at golden_answers", why="ping answered pang, not pong", log="pang")

ROWS: list[tuple[str, Facts, Kind | None, tuple[str, ...]]] = [
    ("another release is live", facts(A, B, live="bbbb"), "rolled out", ("aaaa (revision rev-aaaa) → release bbbb", "a -> b", "by reconcile", "52 s", "llm-pipeline rollback demo", "run-1")),
    ("accepted, and without traffic yet", facts(A, B, live="aaaa", since=NOW - 8990), None, ()),
    ("under way", facts(A, record("bbbb", attempt(result="running")), live="aaaa", since=NOW - 8990), None, ()),
    ("refused", facts(A, record("bbbb", attempt(result="refused", checks={"healthy": True, "golden_answers": False}, problem=PROBLEM)), live="aaaa", since=NOW - 8990),
     "refused", ("refused at golden_answers", "aaaa (revision rev-aaaa) serves on", "ping answered pang", "llm-pipeline retry demo")),
    ("refused, and nothing serves", facts(record("bbbb", attempt(result="refused", problem=PROBLEM))), "refused", ("nothing serves",)),
    ("refused when it was healed", facts(record("aaaa", attempt(at=NOW - 9000), attempt(2, "refused", problem=PROBLEM)), live="aaaa", since=NOW - 8990), "refused", ("it is the live one",)),
    ("failed, and may be tried again", facts(A, record("bbbb", attempt(result="failed", transient=True, problem=PROBLEM)), live="aaaa", since=NOW - 8990),
     "failed", ("try 1", "the loop tries it again", "llm-pipeline up demo")),
    ("failed for good", facts(A, record("bbbb", attempt(result="failed", problem=PROBLEM), mark=Mark(kind="failed", why="x", at=NOW - 60)), live="aaaa", since=NOW - 8990),
     "failed", ("left alone until", "llm-pipeline retry demo")),
    ("accepted, and the switch failed", facts(A, record("bbbb", attempt(result="failed", problem=PROBLEM)), live="aaaa", since=NOW - 8990), "failed", ("failed at try 1",)),
    ("a person ended it", facts(A, record("bbbb", attempt(result="cancelled", problem=PROBLEM)), live="aaaa", since=NOW - 8990), None, ()),
    ("it waits for a person", facts(A, record("bbbb", attempt(result="waiting")), live="aaaa", since=NOW - 8990, deadline=1_800_000_000.0),
     "awaiting approval", ("waits for approval", "llm-pipeline approve demo", "llm-pipeline reject demo", "2027-01-15 08:00 UTC")),
    ("a person said no", facts(A, record("bbbb", attempt(result="rejected", problem=Failure(what="rejected by ann"))), live="aaaa", since=NOW - 8990), "rejected", ("rejected by ann", "is removed")),
    ("given up", facts(A, record("bbbb", mark=Mark(kind="failed", why="bbbb failed 3 times", at=NOW - 60)), live="aaaa", since=NOW - 8990),
     "gave up", ("left alone", "failed 3 times", "llm-pipeline retry demo")),
    ("a person ended it, and it is left alone", facts(A, record("bbbb", mark=Mark(kind="cancelled", why="x", at=NOW - 60)), live="aaaa", since=NOW - 8990), None, ()),
    ("healed", facts(record("aaaa", attempt(at=NOW - 9000), attempt(2), heals=(NOW - 110,)), live="aaaa", since=NOW - 8990, serves=True), "healed", ("serves again", "run-2", "110 s")),
    ("healed without a start: the router was gone", facts(record("aaaa", attempt(at=NOW - 9000), heals=(NOW - 110,)), live="aaaa", since=NOW - 8990, serves=True),
     "healed", ("the endpoint did not lead to it",)),
    ("healed, and not answering yet", facts(record("aaaa", attempt(at=NOW - 9000), attempt(2), heals=(NOW - 110,)), live="aaaa", since=NOW - 8990, serves=False), None, ()),
    ("a heal under way", facts(record("aaaa", attempt(at=NOW - 9000), attempt(2, "running"), heals=(NOW - 110,)), live="aaaa", since=NOW - 8990, serves=True), None, ()),
    ("a heal that failed", facts(record("aaaa", attempt(at=NOW - 9000), attempt(2, "failed", transient=True, problem=PROBLEM), heals=(NOW - 110,)), live="aaaa", since=NOW - 8990, serves=True),
     "failed", ("try 2", "it is the live one")),
    ("a person brought it up again", facts(record("aaaa", attempt(at=NOW - 9000), attempt(2)), live="aaaa", since=NOW - 8990, serves=True), None, ()),
    ("taken down", facts(A, wanted=False), None, ()),
    ("up again after it was taken down", facts(record("aaaa", attempt(at=NOW - 9000), attempt(2)), live="aaaa"), "rolled out", ("demo: release aaaa (revision rev-aaaa) is live", "llm-pipeline chat demo")),
    ("the source is away for a moment", facts(A, live="aaaa", since=NOW - 8990, seen=away(NOW - LIMIT + 20)), None, ()),
    ("the source is away for too long", facts(A, live="aaaa", since=NOW - 8990, seen=away(NOW - LIMIT)), "source unreachable", ("the Hub does not answer", "ConnectTimeout", "llm-pipeline notify demo")),
    ("the source of what nobody wants", facts(A, wanted=False, live="aaaa", since=NOW - 8990, seen=away(NOW - LIMIT)), None, ()),
    ("the source was away for a moment", facts(A, live="aaaa", since=NOW - 8990, seen=away(NOW - 5, reachable=True)), None, ()),
    ("the clock was set back while the source is away", facts(A, live="aaaa", since=NOW - 8990, seen=away(NOW + LIMIT)), None, ()),
]  # fmt: skip


@pytest.mark.parametrize(("found", "kind", "words"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_what_happened_is_told_with_its_words_and_only_once(found: Facts, kind: Kind | None, words: tuple[str, ...]) -> None:
    """Each row against a model whose release `aaaa` was told of long ago."""
    notices, after = due(BEFORE, found, NOW, LIMIT)
    again, last = due(after, found, NOW + 15, LIMIT)

    assert [notice.kind for notice in notices] == ([kind] if kind else [])
    text = " ".join(str(value) for notice in notices for value in notice.model_dump().values())
    assert [word for word in words if word not in text] == []
    assert again == () and last == after


def test_every_notice_says_why_and_what_to_do() -> None:
    """The four parts, and a command to copy wherever there is something to do."""
    for name, found, kind, _ in ROWS:
        for notice in due(BEFORE, found, NOW, LIMIT)[0]:
            assert notice.what.startswith("demo: ") and notice.why and notice.next, name
            assert notice.commands or kind == "rolled out", name
            assert all(command.startswith("llm-pipeline ") and (command in notice.next or kind in ("refused", "source back")) for command in notice.commands), name


def test_a_first_look_tells_nothing_old_and_what_came_after_it_began_to_watch() -> None:
    """Which is which is a matter of when the watching began, not of when this model was first looked at."""
    history = facts(A, record("bbbb", attempt(), mark=Mark(kind="failed", why="x", at=NOW - 55)), record("cccc", attempt(result="refused")), live="bbbb", seen=away(NOW - 9000))

    nothing, told = due(None, history, NOW, LIMIT)
    everything, _ = due(None, history, NOW, LIMIT, since=NOW - 9500)
    some, _ = due(None, history, NOW, LIMIT, since=NOW - 57)

    assert nothing == () and due(told, history, NOW, LIMIT)[0] == ()
    assert [one.kind for one in everything] == ["source unreachable", "refused", "gave up", "rolled out"]
    assert [one.kind for one in some] == ["gave up", "rolled out"]


def test_an_outage_of_a_source_is_told_once_and_its_end_once() -> None:
    """However it flaps: shorter than the limit is nothing, and a new outage is another one."""
    told, kinds = BEFORE, []
    for at, seen in (
        (0, away(NOW)), (LIMIT - 1, away(NOW)), (LIMIT, away(NOW)), (LIMIT + 9, away(NOW)), (LIMIT + 20, away(NOW + LIMIT + 10, reachable=True)),
        (LIMIT + 40, away(NOW + LIMIT + 30)), (LIMIT + 60, away(NOW + LIMIT + 50, reachable=True)), (3 * LIMIT, away(NOW + 2 * LIMIT)),
    ):  # fmt: skip
        found, told = due(told, facts(A, live="aaaa", since=NOW - 8990, seen=seen), NOW + at, LIMIT)
        kinds += [(at, one.kind) for one in found]

    assert kinds == [(LIMIT, "source unreachable"), (LIMIT + 20, "source back"), (3 * LIMIT, "source unreachable")]


def test_what_nobody_approved_in_time_is_told_as_that() -> None:
    """By the deadline that was told, since nothing of it is stored any more when the candidate goes."""
    waits = facts(A, record("bbbb", attempt(result="waiting")), live="aaaa", since=NOW - 8990, deadline=NOW + 100)
    (_,), told = due(BEFORE, waits, NOW, LIMIT)
    gone = record("bbbb", attempt(result="rejected", at=NOW + 110, problem=Failure(what="nobody approved bbbb in time")))

    (notice,), after = due(told, facts(A, gone, live="aaaa", since=NOW - 8990), NOW + 120, LIMIT)

    assert notice.kind == "approval expired" and "in time" in notice.what and due(after, facts(A, gone, live="aaaa", since=NOW - 8990), NOW + 130, LIMIT)[0] == ()


def test_what_was_approved_is_told_as_rolled_out() -> None:
    """The same try goes on, or another one follows it."""
    _, told = due(BEFORE, facts(A, record("bbbb", attempt(result="waiting")), live="aaaa", since=NOW - 8990), NOW, LIMIT)
    for tries in ([attempt()], [attempt(result="waiting"), attempt(2)]):
        assert [one.kind for one in due(told, facts(A, record("bbbb", *tries), live="bbbb"), NOW, LIMIT)[0]] == ["rolled out"]


def test_every_failure_between_two_looks_is_told() -> None:
    """Three tries in one quarter of a minute are three."""
    tries = [attempt(n, "failed", NOW - 60 + n, transient=True, problem=PROBLEM) for n in (1, 2, 3)]
    found, told = due(BEFORE, facts(A, record("bbbb", *tries), live="aaaa", since=NOW - 8990), NOW, LIMIT)
    more, _ = due(told, facts(A, record("bbbb", *tries, attempt(4, "failed")), live="aaaa", since=NOW - 8990), NOW, LIMIT)

    assert [one.run for one in found] == ["run-1", "run-2", "run-3"] and [one.run for one in more] == ["run-4"]


def test_the_platform_is_asked_only_while_a_heal_has_no_end() -> None:
    """For most models, most of the time, records are enough."""
    begun = facts(record("aaaa", attempt(at=NOW - 9000), heals=(NOW - 110,)), live="aaaa", since=NOW - 8990)
    failed = facts(record("aaaa", attempt(at=NOW - 9000), attempt(2, "failed"), heals=(NOW - 110,)), live="aaaa", since=NOW - 8990)
    under_way = facts(record("aaaa", attempt(2, "running"), heals=(NOW - 110,)), live="aaaa", since=NOW - 8990)
    _, healed = due(BEFORE, facts(record("aaaa", attempt(2), heals=(NOW - 110,)), live="aaaa", since=NOW - 8990, serves=True), NOW, LIMIT)

    assert open_(BEFORE, begun) and not open_(BEFORE, failed) and not open_(BEFORE, under_way) and not open_(healed, begun) and not open_(None, begun)
    assert not open_(BEFORE, facts(A, live="aaaa", since=NOW - 8990))


def test_a_heal_that_was_seen_under_way_is_told_at_its_end() -> None:
    """However often it is looked at meanwhile."""
    told = BEFORE
    for record_ in (record("aaaa", attempt(at=NOW - 9000), heals=(NOW - 110,)), record("aaaa", attempt(at=NOW - 9000), attempt(2, "running"), heals=(NOW - 110,))):
        found, told = due(told, facts(record_, live="aaaa", since=NOW - 8990, serves=False), NOW, LIMIT)
        assert found == ()

    done = facts(record("aaaa", attempt(at=NOW - 9000), attempt(2), heals=(NOW - 110,)), live="aaaa", since=NOW - 8990, serves=True)
    assert [one.kind for one in due(told, done, NOW, LIMIT)[0]] == ["healed"]


def test_a_heal_that_failed_and_the_one_after_it_are_each_told() -> None:
    """The second answers: failed first, then healed."""
    first = record("aaaa", attempt(at=NOW - 9000), attempt(2, "failed", problem=PROBLEM), heals=(NOW - 110,))
    (failed,), told = due(BEFORE, facts(first, live="aaaa", since=NOW - 8990), NOW, LIMIT)
    second = record("aaaa", *first.attempts, attempt(3, at=NOW + 90), heals=(NOW - 110, NOW + 40))

    (healed,), _ = due(told, facts(second, live="aaaa", since=NOW - 8990, serves=True), NOW + 100, LIMIT)

    assert (failed.kind, healed.kind, healed.run) == ("failed", "healed", "run-3")


def test_what_is_told_survives_its_record() -> None:
    """Nothing of it is lost in JSON."""
    notices, told = due(BEFORE, ROWS[0][1], NOW, LIMIT)
    assert Told.model_validate_json(told.model_dump_json()) == told
    assert [Notice.model_validate_json(one.model_dump_json()) for one in notices] == list(notices)
