"""Which revision may go live by itself, when, and why not yet."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.hours import parse
from infra.policy import Admission, Rules, admit

OFFICE = parse("Mon-Fri 09:00-17:00 Europe/Berlin")
MONDAY_NOON, MONDAY_NIGHT, TUESDAY_NINE = (
    datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Europe/Berlin")).timestamp() for text in ("2026-11-23 12:00", "2026-11-23 20:00", "2026-11-24 09:00")
)
KNOWN = frozenset({"m1", "m2"})
MANUAL, APPROVE, IN_HOURS, SLOWLY = Rules("manual"), Rules("approve"), Rules(hours=OFFICE), Rules(min_interval=7200)

ROWS: list[tuple[str, dict[str, Any], bool, str, float | None]] = [
    # what happened                                what is known beside seen m3, admitted m2, at noon                     admitted  in the reason          until
    ("a new revision", {}, True, "the newest", None),
    ("the same one again", {"seen": "m2"}, True, "as admitted before", None),
    ("two between two looks: only the last is seen", {"seen": "m4"}, True, "the newest", None),
    ("a bad one, then a good one", {"admitted": "bad"}, True, "the newest", None),
    ("the bad one again", {"mark": "refused: golden_answers"}, False, "refused: golden_answers", None),
    ("the bad one, which was admitted", {"seen": "m2", "mark": "refused: x"}, True, "as admitted before", None),
    ("the bad one, and a person said up", {"mark": "refused: x", "person": True}, True, "the newest", None),
    ("the branch was forced back", {"seen": "m1", "known": KNOWN}, True, "the newest", None),
    ("a run of it was cancelled by hand", {"mark": "cancelled: a person ended the run"}, False, "a person ended the run", None),
    ("it failed for reasons that might pass, too often", {"mark": "failed: 3 times"}, False, "failed: 3 times", None),
    ("nothing was admitted yet", {"admitted": None}, True, "the newest", None),
    ("inside the hours", {"rules": IN_HOURS}, True, "the newest", None),
    ("outside the hours", {"rules": IN_HOURS, "now": MONDAY_NIGHT}, False, "outside Mon-Fri 09:00-17:00 Europe/Berlin; next at Tue 2026-11-24 09:00", TUESDAY_NINE),
    ("outside the hours, and it is the admitted one", {"seen": "m2", "rules": IN_HOURS, "now": MONDAY_NIGHT}, True, "as admitted before", None),
    ("outside the hours, and a person said up", {"rules": IN_HOURS, "now": MONDAY_NIGHT, "person": True}, True, "the newest", None),
    ("outside the hours, and a person named it", {"rules": IN_HOURS, "now": MONDAY_NIGHT, "asked": True}, True, "named", None),
    ("soon after the last rollout", {"rules": SLOWLY, "last": MONDAY_NOON - 600}, False, "less than 2 h ago", MONDAY_NOON + 6600),
    ("long after the last rollout", {"rules": SLOWLY, "last": MONDAY_NOON - 7200}, True, "the newest", None),
    ("the clock was set back since the last rollout", {"rules": SLOWLY, "last": MONDAY_NOON + 9e6}, True, "the newest", None),
    ("the clock was set forward since", {"rules": SLOWLY, "last": MONDAY_NOON - 9e6}, True, "the newest", None),
    ("soon after the last rollout, when the pause ends after the hours",
     {"rules": Rules(hours=OFFICE, min_interval=8 * 3600), "last": MONDAY_NOON - 600}, False, "outside Mon-Fri", TUESDAY_NINE),
    ("updates are manual", {"rules": MANUAL}, False, "manual", None),
    ("updates are manual, and a person said up", {"rules": MANUAL, "person": True}, False, "manual", None),
    ("updates are manual, and a person named it", {"rules": MANUAL, "asked": True}, True, "named", None),
    ("updates are manual, and it is the first", {"rules": MANUAL, "person": True, "first": True, "admitted": None}, True, "the first", None),
    ("updates are manual, it is the first, and nobody said up", {"rules": MANUAL, "first": True, "admitted": None}, False, "manual", None),
    ("updates need approval", {"rules": APPROVE}, True, "the newest at the source", None),
    ("updates need approval, outside the hours", {"rules": Rules("approve", OFFICE), "now": MONDAY_NIGHT}, False, "outside", TUESDAY_NINE),
    ("updates need approval, and a person named it", {"rules": APPROVE, "asked": True}, True, "named", None),
    ("a person's pin", {"pin_until": "unpinned"}, False, "pinned until", None),
    ("a rollback's pin, and what it left", {"seen": "m2", "pin_until": "newer", "known": KNOWN}, False, "something newer", None),
    ("a rollback's pin, and something newer", {"pin_until": "newer", "known": KNOWN}, True, "newer than", None),
    ("a rollback's pin, something newer, outside the hours", {"pin_until": "newer", "known": KNOWN, "rules": IN_HOURS, "now": MONDAY_NIGHT}, False, "outside", TUESDAY_NINE),
    ("a rollback's pin, something newer, updates are manual", {"pin_until": "newer", "known": KNOWN, "rules": MANUAL}, False, "manual", None),
]  # fmt: skip


def ask(**known: Any) -> Admission:
    return admit(**{"seen": "m3", "admitted": "m2", "now": MONDAY_NOON, **known})


@pytest.mark.parametrize(("known", "admitted", "reason", "until"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_each_situation_is_let_through_or_held_with_a_reason_and_a_time(known: dict[str, Any], admitted: bool, reason: str, until: float | None) -> None:
    """The table is the specification."""
    found = ask(**known)

    assert (found.admitted, reason in found.why, found.until) == (admitted, True, until), found


def test_what_needs_approval_says_so() -> None:
    """The candidate may come up; the traffic is a person's to give, also when one named the revision. Nothing waits where nothing was admitted before."""
    assert ask(rules=APPROVE).approval and ask(rules=APPROVE, asked=True).approval and ask(rules=APPROVE, person=True).approval
    assert not ask().approval and not ask(rules=APPROVE, admitted=None, first=True, person=True).approval


def test_what_is_held_keeps_the_pin_of_a_rollback() -> None:
    """Else the model would follow its declaration again before what is newer may come."""
    assert not ask(pin_until="newer", known=KNOWN, rules=IN_HOURS, now=MONDAY_NIGHT).ends_pin
    assert ask(pin_until="newer", known=KNOWN, rules=IN_HOURS).ends_pin


POLICIES: st.SearchStrategy[Literal["auto", "approve", "manual"]] = st.sampled_from(["auto", "approve", "manual"])
RULES = st.builds(Rules, POLICIES, st.sampled_from([None, OFFICE, parse("Sat 02:00-04:00 America/New_York"), parse("22:00-06:00 UTC")]), st.floats(0, 1e6))
FACTS = st.fixed_dictionaries({
    "seen": st.sampled_from(["m1", "m2", "m3"]), "admitted": st.sampled_from([None, "m1", "m2"]), "known": st.frozensets(st.sampled_from(["m1", "m2"])),
    "pin_until": st.sampled_from([None, "newer", "unpinned"]), "asked": st.booleans(), "person": st.booleans(), "first": st.booleans(),
    "mark": st.sampled_from([None, "refused: x"]), "rules": RULES, "last": st.none() | st.floats(1.7e9, 1.9e9), "now": st.floats(1.7e9, 1.9e9),
})  # fmt: skip


@given(FACTS)
def test_what_is_marked_never_comes_by_itself(facts: dict[str, Any]) -> None:
    """A person may try it again; automation may only keep what it had."""
    found = admit(**facts)

    if found.admitted and facts["mark"] and not (facts["person"] or facts["asked"]):
        assert facts["seen"] == facts["admitted"] and not found.ends_pin


@given(FACTS)
def test_what_nothing_forbids_is_admitted_in_the_end(facts: dict[str, Any]) -> None:
    """Whoever asks again at `until` gets it; what has no `until` is held by a person's word or a mark, not by the time."""
    found = admit(**facts)

    if found.until is not None:
        assert not found.admitted and found.until > facts["now"]
        again = admit(**{**facts, "now": found.until})
        assert again.admitted, again
    elif not found.admitted:
        assert facts["pin_until"] or facts["mark"] or facts["rules"].policy != "auto"


@given(FACTS, st.randoms())
def test_the_order_of_what_is_known_never_matters(facts: dict[str, Any], chance: Any) -> None:
    """Only what the source holds now counts, not the way there; the reason is always told."""
    shuffled = list(facts.items())
    chance.shuffle(shuffled)

    assert admit(**facts) == admit(**dict(shuffled)) == admit(**{**facts, "known": frozenset(sorted(facts["known"], reverse=True))})
    assert admit(**facts).why


@given(FACTS)
def test_outside_hours_and_pause_nothing_comes_without_a_person(facts: dict[str, Any]) -> None:
    """Whatever else is so."""
    found, rules = admit(**facts), facts["rules"]

    if found.admitted and facts["seen"] != facts["admitted"] and not (facts["person"] or facts["asked"]):
        assert rules.hours is None or rules.hours.open_at(facts["now"])
        assert facts["last"] is None or facts["last"] > facts["now"] or facts["now"] - facts["last"] >= rules.min_interval - 1e-3
