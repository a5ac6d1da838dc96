"""When something may happen: the wall clock of a zone, also on the days on which it is changed."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.hours import AHEAD, parse

BERLIN = "Europe/Berlin"
OFFICE = f"Mon-Fri 09:00-17:00 {BERLIN}"


def at(text: str, fold: int = 0, zone: str = BERLIN) -> float:
    """`2026-11-23 09:00` on a clock there; `fold` 1: the second time that it shows this."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


@pytest.mark.parametrize(
    ("hours", "moment", "is_open"),
    [
        (OFFICE, "2026-11-23 08:59:59", False),  # a Monday
        (OFFICE, "2026-11-23 09:00", True),
        (OFFICE, "2026-11-23 16:59:59", True),
        (OFFICE, "2026-11-23 17:00", False),
        (OFFICE, "2026-11-22 12:00", False),
        (f"09:00-17:00 {BERLIN}", "2026-11-22 12:00", True),
        (f"Fri-Mon 09:00-17:00 {BERLIN}", "2026-11-22 12:00", True),
        (f"Fri-Mon 09:00-17:00 {BERLIN}", "2026-11-24 12:00", False),
        (f"mon 09:00-17:00 {BERLIN}", "2026-11-23 12:00", True),
        (f"Fri 22:00-06:00 {BERLIN}", "2026-11-27 23:00", True),
        (f"Fri 22:00-06:00 {BERLIN}", "2026-11-28 05:59", True),
        (f"Fri 22:00-06:00 {BERLIN}", "2026-11-28 06:00", False),
        (f"Fri 22:00-06:00 {BERLIN}", "2026-11-27 05:59", False),
        (f"Sun 22:00-06:00 {BERLIN}", "2026-11-23 05:00", True),
        (f"Sat 00:00-24:00 {BERLIN}", "2026-11-28 23:59:59", True),
        (f"Sat 00:00-24:00 {BERLIN}", "2026-11-29 00:00", False),
        (f"Fri 22:00-00:00 {BERLIN}", "2026-11-27 23:59:59", True),
        (f"Fri 22:00-00:00 {BERLIN}", "2026-11-28 00:00", False),
        (f"Mon 09:00-10:00, Tue 11:00-12:00 {BERLIN}", "2026-11-24 11:30", True),
        (f"Mon 09:00-10:00, Tue 11:00-12:00 {BERLIN}", "2026-11-24 09:30", False),
        (f"Thu 09:00-17:00 {BERLIN}", "2024-02-29 12:00", True),
    ],
)
def test_it_is_open_when_the_clock_there_shows_it(hours: str, moment: str, is_open: bool) -> None:
    """From the first second of a stretch, and not at its last minute's end."""
    assert parse(hours).open_at(at(moment)) == is_open


@pytest.mark.parametrize(
    ("hours", "moment", "opens"),
    [
        (OFFICE, at("2026-11-23 08:00"), at("2026-11-23 09:00")),
        (OFFICE, at("2026-11-27 17:00"), at("2026-11-30 09:00")),
        (OFFICE, at("2026-11-23 12:00"), None),
        (f"Thu 09:00-17:00 {BERLIN}", at("2024-02-28 12:00"), at("2024-02-29 09:00")),
        (f"00:00-01:00 {BERLIN}", at("2024-02-29 12:00"), at("2024-03-01 00:00")),
        # the night of 2026-03-29 has no 02:00 to 03:00
        (f"02:00-03:00 {BERLIN}", at("2026-03-29 01:30"), at("2026-03-30 02:00")),
        (f"Sun 02:00-03:00 {BERLIN}", at("2026-03-29 01:30"), at("2026-04-05 02:00")),
        (f"02:30-05:00 {BERLIN}", at("2026-03-29 01:30"), at("2026-03-29 03:00")),
        (f"09:00-17:00 {BERLIN}", at("2026-03-28 18:00"), at("2026-03-29 09:00")),
        # the night of 2026-10-25 has it twice
        (f"02:30-02:45 {BERLIN}", at("2026-10-25 01:00"), at("2026-10-25 02:30")),
        (f"02:30-02:45 {BERLIN}", at("2026-10-25 02:50"), at("2026-10-25 02:30", fold=1)),
        (f"01:00-02:30 {BERLIN}", at("2026-10-25 02:45"), at("2026-10-25 02:00", fold=1)),
        ("23:30-23:45 America/Havana", at("2026-10-31 23:50", zone="America/Havana"), at("2026-11-01 23:30", zone="America/Havana")),
        ("Fri 09:00-17:00 Pacific/Apia", at("2011-12-29 12:00", zone="Pacific/Apia"), at("2012-01-06 09:00", zone="Pacific/Apia")),
    ],
)  # fmt: skip
def test_it_says_when_it_opens_next(hours: str, moment: float, opens: float | None) -> None:
    """Also over the nights on which the clock is changed, a leap day, and a day that a zone left out."""
    assert parse(hours).opens_after(moment) == opens


def test_the_doubled_hour_is_open_both_times() -> None:
    """Whoever reads the clock sees no difference."""
    hours = parse(f"02:00-03:00 {BERLIN}")

    assert hours.open_at(at("2026-10-25 02:30")) and hours.open_at(at("2026-10-25 02:30", fold=1))
    assert not hours.open_at(at("2026-10-25 03:00"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "must be days, times and a zone"),
        ("always", "must be days, times and a zone"),
        ("Mon-Fri 09:00-17:00", "IANA name"),
        ("Mon-Fri 09:00-17:00 europe/berlin", "did you mean Europe/Berlin?"),
        ("Mon-Fri 09:00-17:00 Europe/Berlim", "did you mean Europe/Berlin?"),
        ("Mon-Fri 09:00-17:00 Europe", "IANA name"),
        ("Mon-Fri 09:00-17:00 ../../etc/passwd", "IANA name"),
        ("Mo-Fr 09:00-17:00 UTC", "has the day 'Mo'; days are Mon Tue"),
        ("Mon-Fri 9-17 UTC", "no stretch of hours; write them as in"),
        ("Mon-Fri UTC", "no stretch of hours"),
        ("Mon-Fri 09:00-17:60 UTC", "from 00:00 to 24:00"),
        ("Mon-Fri 24:00-06:00 UTC", "from 00:00 to 24:00"),
        ("Mon-Fri 09:00-09:00 UTC", "a whole day is 00:00-24:00"),
        ("Mon-Fri 09:00-12:00, 13:00-17:00 UTC", "the days of each stretch, or of none"),
        ("Mon-Fri 09:00-12:00, UTC", "no stretch of hours"),
    ],
)
def test_what_can_not_be_read_is_told_with_what_would_be_right(text: str, told: str) -> None:
    """Nothing is guessed at."""
    with pytest.raises(ValueError, match=r".") as caught:
        parse(text)

    assert told in str(caught.value)


DAYS = st.sampled_from(["", "Mon-Fri ", "Sat ", "Sat-Mon ", "Sun "])
TIMES = st.tuples(st.integers(0, 23), st.sampled_from([0, 15, 30]), st.integers(0, 24)).filter(lambda found: (found[0], found[1]) != (found[2], 0))
ZONES = st.sampled_from([BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia", "America/Havana", "Antarctica/Troll", "UTC"])


@given(DAYS, TIMES, ZONES, st.integers(1_300_000_000, 1_900_000_000))
@settings(max_examples=150, deadline=None)
def test_it_opens_at_the_first_moment_that_is_open(days: str, times: tuple[int, int, int], zone: str, moment: int) -> None:
    """Not a minute later, whatever the zone does to its clock meanwhile."""
    hours = parse(f"{days}{times[0]:02}:{times[1]:02}-{times[2]:02}:00 {zone}")

    opens = hours.opens_after(moment)

    if opens is None:
        assert hours.open_at(moment)
        return
    assert hours.open_at(opens) and moment < opens <= moment + AHEAD * 86_400
    minutes = range(moment // 60 * 60, int(opens), 900)
    assert not any(hours.open_at(at) for at in minutes if at >= moment) and not hours.open_at(opens - 1)
