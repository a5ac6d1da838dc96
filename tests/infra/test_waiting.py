"""Waiting: a deadline, a reason to stop, and phases that add up."""

from __future__ import annotations

import time

import pytest

from infra.errors import Conflict, Timeout, Withdrawn
from infra.waiting import Phase, Progress, Transfer, retry


def test_a_phase_is_reported_once_and_its_news_at_most_once_a_second() -> None:
    """A page gets one row per phase, not one per look."""
    told: list[Phase] = []
    progress = Progress(report=told.append)

    for count in range(50):
        progress.phase("weights", f"{count} MB")
    progress.phase("image")

    assert [phase.name for phase in told] == ["weights", "image"]
    assert [(phase.name, phase.detail) for phase in progress.phases] == [("weights", "49 MB"), ("image", "")]


def test_a_phase_may_have_begun_earlier_but_never_before_the_one_ahead_of_it() -> None:
    """A log says when; two clocks may disagree by a little."""
    progress = Progress()
    now = time.time()
    progress.phase("first", started=now - 10)
    progress.phase("second", started=now - 4)
    progress.phase("third", started=now - 7)

    seconds = progress.seconds()

    assert seconds["first"] == pytest.approx(6, abs=0.01)
    assert seconds["second"] == 0
    assert seconds["third"] == pytest.approx(4, abs=0.1)


def test_seconds_of_a_phase_that_comes_twice_are_added() -> None:
    """And what lies between is its neighbour's."""
    progress, now = Progress(), time.time()
    for name, ago in (("a", 9), ("b", 6), ("a", 5)):
        progress.phase(name, started=now - ago)

    assert progress.seconds() == {"a": pytest.approx(8, abs=2), "b": pytest.approx(1, abs=0.01)}


def test_what_comes_after_the_end_belongs_to_nobody() -> None:
    """A second end changes nothing, and the next phase begins by itself, also when it has the same name."""
    progress, now = Progress(), time.time()
    progress.phase("start", started=now - 5)
    progress.end()
    took = progress.seconds()["start"]
    time.sleep(0.05)
    progress.end()

    assert progress.seconds()["start"] == took
    again = time.time()
    progress.phase("start")
    time.sleep(0.02)
    assert len(progress.phases) == 2
    assert took + 0.02 <= progress.seconds()["start"] <= took + time.time() - again + 0.001
    assert Progress().seconds() == {}


def test_a_wait_ends_at_its_deadline_with_the_phase_that_was_waited_for() -> None:
    """Not before, and not much later."""
    progress = Progress(0.15)
    progress.phase("weights", "3 of 9 MB")
    began = time.monotonic()

    with pytest.raises(Timeout) as told:
        progress.until(lambda: None, every=60)

    assert 0.15 <= time.monotonic() - began < 30
    assert "weights" in told.value.problem.what
    assert "3 of 9 MB" in (told.value.problem.why or "")


def test_a_last_look_is_taken_at_the_deadline() -> None:
    """What arrived during the last pause is not thrown away."""
    progress = Progress(0.1)
    began = time.monotonic()

    assert progress.until(lambda: "here" if time.monotonic() - began > 0.1 else None, every=60) == "here"


def test_even_a_long_pause_hears_of_a_reason_to_stop() -> None:
    """A `down` ends every wait within two seconds, also one that a server asked to last a minute."""
    began = time.monotonic()

    def stop() -> None:
        if time.monotonic() - began > 0.2:
            raise Withdrawn("taken down")

    with pytest.raises(Withdrawn):
        Progress(stop=stop).sleep(60)

    assert time.monotonic() - began < 30


def test_the_reason_to_stop_is_asked_for_at_most_once_a_second() -> None:
    """It reads a record, which may lie far away."""
    asked: list[float] = []
    progress = Progress(stop=lambda: asked.append(time.monotonic()))

    for _ in range(100):
        progress.check()

    assert len(asked) == 1


def test_an_answer_that_is_false_is_an_answer() -> None:
    """Only None means "not yet"."""
    assert Progress().until(lambda: False) is False


def test_retry_pauses_longer_each_time_and_lets_the_last_error_out() -> None:
    """Only for the errors that were named; what the server asks for counts more than our own pause."""
    calls: list[float] = []
    asked = Conflict("busy")
    asked.retry_after = 0.001

    def call() -> None:
        calls.append(time.monotonic())
        raise asked

    with pytest.raises(Conflict):
        retry(call, attempts=4, pause=10, on=(Conflict,), progress=Progress())
    with pytest.raises(KeyError):
        retry(lambda: dict[str, int]()["x"], attempts=4, pause=10, on=(Conflict,), progress=Progress())

    assert len(calls) == 4


def test_a_transfer_tells_how_long_it_will_take() -> None:
    """In words for people; without a rate nothing is promised."""
    assert str(Transfer(500_000_000, 1_500_000_000, 50e6)) == "500 of 1,500 MB, 50 MB/s, about 20 s"
    assert str(Transfer(0, 1_000_000, 0)) == "0 of 1 MB"
    assert Transfer(0, 1, 0).eta is None
