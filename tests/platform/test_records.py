"""`records` on every platform: small documents that are compared before they are written, and locks that die with their holders."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.errors import Conflict, Timeout, Transient, Withdrawn
from infra.platform import Platform, Records
from infra.waiting import Progress
from tests.platform.conftest import Stand


def test_a_document_is_what_was_put(platform: Platform) -> None:
    """Absent first; a put answers with the version that the next one must name."""
    assert platform.records.get("demo", "pin") is None

    first = platform.records.put("demo", "pin", {"release": "a"}, None)
    second = platform.records.put("demo", "pin", {"release": "b"}, first.version)

    assert platform.records.get("demo", "pin") == second
    assert second.value == {"release": "b"}
    assert second.version != first.version


@given(
    value=st.dictionaries(
        st.text(max_size=8), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3), max_leaves=5), max_size=4
    )
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_json_comes_back_as_it_was(platform: Platform, value: dict[str, Any]) -> None:
    """Other alphabets, deep nesting, large numbers, empty names."""
    before = platform.records.get("demo", "x")

    platform.records.put("demo", "x", value, before.version if before else None)

    found = platform.records.get("demo", "x")
    assert found
    assert found.value == value


@pytest.mark.parametrize("version", [None, 7])
def test_a_put_on_another_version_is_a_conflict_and_changes_nothing(platform: Platform, version: int | None) -> None:
    """Neither "there is none" nor a version that passed."""
    platform.records.put("demo", "pin", {"release": "a"}, None)

    with pytest.raises(Conflict):
        platform.records.put("demo", "pin", {"release": "b"}, version)

    found = platform.records.get("demo", "pin")
    assert found
    assert found.value == {"release": "a"}


def test_a_put_on_something_that_is_gone_is_a_conflict(platform: Platform) -> None:
    """Somebody deleted it: the writer has to look again."""
    stored = platform.records.put("demo", "pin", {}, None)
    platform.records.delete("demo", "pin")

    with pytest.raises(Conflict):
        platform.records.put("demo", "pin", {}, stored.version)


def test_lists_are_by_owner_and_prefix(platform: Platform) -> None:
    """Names with a slash are found below their first word; other owners are never seen."""
    for name in ("release/a", "release/b", "attempt/1", "live"):
        platform.records.put("demo", name, {"name": name}, None)
    platform.records.put("other", "release/c", {}, None)

    assert sorted(platform.records.list("demo")) == ["attempt/1", "live", "release/a", "release/b"]
    assert {name: row.value for name, row in platform.records.list("demo", "release/").items()} == {
        "release/a": {"name": "release/a"}, "release/b": {"name": "release/b"},
    }  # fmt: skip
    assert platform.records.list("nobody") == {}
    assert platform.records.owners() == ("demo", "other")


def test_what_is_deleted_or_purged_is_absent_twice_over(platform: Platform) -> None:
    """Without an error, and without touching other owners; who has no document left is no owner."""
    for owner in ("demo", "other", "third"):
        platform.records.put(owner, "release/a", {}, None)

    for _ in range(2):
        platform.records.delete("third", "release/a")
        platform.records.purge("demo")

    assert platform.records.get("third", "release/a") is None
    assert platform.records.list("demo") == {}
    assert platform.records.owners() == ("other",)


def test_records_that_are_read_at_once_are_written_as_strictly(platform: Platform) -> None:
    """What is written through them is seen from then on; what somebody else wrote meanwhile is a conflict, and seen after it."""
    stored = platform.records.put("demo", "pin", {"n": 1}, None)
    platform.records.put("other", "release/a", {}, None)
    seen = platform.records.at_once()

    assert (seen.get("demo", "pin"), seen.owners(), list(seen.list("other", "release/"))) == (stored, ("demo", "other"), ["release/a"])
    theirs = platform.records.put("demo", "pin", {"n": 2}, stored.version)
    with pytest.raises(Conflict):
        seen.put("demo", "pin", {"n": 3}, stored.version)
    assert seen.get("demo", "pin") == theirs
    ours = seen.put("demo", "pin", {"n": 4}, theirs.version)
    assert platform.records.get("demo", "pin") == ours == seen.get("demo", "pin")
    seen.delete("demo", "pin")
    assert platform.records.get("demo", "pin") is None
    assert seen.get("demo", "pin") is None


def test_of_many_writers_each_number_is_written_once(stand: Stand) -> None:
    """Threads and processes at once: compare and write are one."""

    def count(records: Records, times: int) -> None:
        for _ in range(times):
            while True:
                found = records.get("demo", "acts")
                try:
                    records.put("demo", "acts", {"n": found.value["n"] + 1 if found else 1}, found.version if found else None)
                    break
                except Conflict:
                    continue

    context = multiprocessing.get_context("fork")
    workers: list[Any] = [context.Process(target=count, args=(stand.again().records, 30)) for _ in range(2)]
    workers += [threading.Thread(target=count, args=(stand.again().records, 30)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(250)

    found = stand.platform.records.get("demo", "acts")
    assert found
    assert found.value == {"n": 120}


def test_a_reader_never_sees_half_a_document(stand: Stand) -> None:
    """Documents change whole; a reader takes no lock and still never fails."""
    records, seen = stand.platform.records, set()
    records.put("demo", "big", {"text": "a" * 50_000}, None)
    done = threading.Event()

    def write() -> None:
        for letter in "bcdefghij" * 5:
            found = records.get("demo", "big")
            records.put("demo", "big", {"text": letter * 50_000}, found.version if found else None)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        found = records.get("demo", "big")
        assert found
        seen.add(len(found.value["text"]))
        assert len(set(found.value["text"])) == 1
    writer.join()

    assert seen == {50_000}


def test_a_lock_is_held_by_one_and_the_waiting_hear_who(stand: Stand) -> None:
    """Who waits says for whom; a deadline or a `down` ends the wait, and the lock is free afterwards."""
    mine, told = stand.again().records, []

    with stand.platform.records.lock("demo.ray_service", "run 1234", Progress(250)):
        with pytest.raises(Timeout), mine.lock("demo.ray_service", "me", Progress(0.3, report=lambda phase: told.append(phase.detail))):
            raise AssertionError("both hold the lock")
        with pytest.raises(Withdrawn), mine.lock("demo.ray_service", "me", Progress(250, stop=_down)):
            raise AssertionError("both hold the lock")
        with mine.lock("demo.endpoint", "me", Progress(250)):
            pass

    assert "run 1234" in told[0]
    with mine.lock("demo.ray_service", "me", Progress(250)):
        pass


def test_a_lock_dies_with_its_holder(stand: Stand) -> None:
    """A killed worker must not block its model until somebody removes a file."""
    context = multiprocessing.get_context("fork")
    held = context.Event()

    def hold() -> None:
        with stand.again().records.lock("demo.ray_service", "run 1", Progress(250)):
            held.set()
            signal.pause()

    holder = context.Process(target=hold)
    holder.start()
    assert held.wait(60)
    os.kill(holder.pid or 0, signal.SIGKILL)
    holder.join(60)

    with stand.platform.records.lock("demo.ray_service", "run 2", Progress(250)):
        pass


def test_a_record_that_can_not_be_read_is_not_taken_for_absent(stand: Stand) -> None:
    """Absent would mean "nobody wants it" and take a model down; the error names it."""
    stand.platform.records.put("demo", "deployment", {"wanted": True}, None)
    stand.damage("demo", "deployment")

    with pytest.raises(Transient) as told:
        stand.platform.records.get("demo", "deployment")

    assert "deployment" in told.value.problem.what


def _down() -> None:
    raise Withdrawn("taken down")
