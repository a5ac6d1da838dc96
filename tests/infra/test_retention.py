"""What may go and why the rest stays, as a pure function: facts in, reasons out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from infra.documents import Admitted, Attempt, Claim, Pin, ReleaseRecord, RunPlan
from infra.retention import DAY, KEEP_DAYS, KEEP_RUNS, Facts, Kept, RunRow, judge, needed, old_plans, old_runs, reasons
from infra.states import Held
from infra.weights import File, Manifest

NOW = 1_000_000_000.0


def manifest(word: str) -> Manifest:
    """Weights that differ by a word; the config is the same for all."""
    return Manifest((File("config.json", 10, "sha256:" + "1" * 64), File("w", 1_000, "sha256:" + word.encode().hex().rjust(64, "0"))))


def record(name: str, days_ago: float, result: str = "accepted", **keys: Any) -> ReleaseRecord:
    """A release with one attempt, so many days ago; its id is its name, its weights and its image are its own."""
    at = NOW - days_ago * DAY
    attempt = Attempt(number=1, run=f"run-{name}", by="ann", why="up", started=at, ended=None if result == "running" else at + 60, result=result)  # type: ignore[arg-type]
    return ReleaseRecord(
        id=name, spec={"release": {"keep_previous": 1}}, revision=name, manifest=manifest(name).to_dict(), image=f"local:{name}", source="file://w",
        first_seen=at, **{"attempts": (attempt,), **keys},
    )  # fmt: skip


def facts(*records: ReleaseRecord, keep: int = 1, **keys: Any) -> Facts:
    return Facts("demo", keep, {one.id: one for one in records}, **keys)


HISTORY = (record("a", 9), record("b", 8), record("c", 7), record("d", 6))


@pytest.mark.parametrize(("keep", "left"), [(0, "d"), (1, "cd"), (2, "bcd"), (20, "abcd")])
def test_so_many_accepted_ones_before_the_live_one_stay(keep: int, left: str) -> None:
    """The newest ones; each with its number."""
    found = reasons(facts(*HISTORY, keep=keep, live="d"), NOW)

    assert "".join(sorted(found)) == left
    assert found["d"] == "it serves"
    assert keep != 2 or found["b"] == "for a rollback (2 of release.keep_previous 2)"


def test_what_was_refused_or_failed_is_no_way_back() -> None:
    """It does not take the place of one that was accepted."""
    found = reasons(facts(record("a", 9), record("b", 8, "refused"), record("c", 7, "failed"), record("d", 6), live="d"), NOW)

    assert set(found) == {"a", "d"}


def test_after_a_rollback_the_one_that_was_left_stays() -> None:
    """It was accepted last before."""
    rolled_back = record("b", 8, attempts=(*record("b", 8).attempts, *record("b", 1).attempts))

    assert set(reasons(facts(HISTORY[0], rolled_back, *HISTORY[2:], live="b"), NOW)) == {"b", "d"}


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"running": frozenset("a")}, "it runs"), ({"desired": "a"}, "it should serve"),
        ({"pin": Pin(release="a", until="unpinned", by="ann", why="by hand", at=1)}, "pinned: by hand"),
        ({"pin": Pin(revision="a", until="unpinned", by="ann", why="by hand", at=1)}, "pinned: by hand"),
        ({"claim": Claim(run="r", release="a", until=NOW + 9)}, "it is being brought up"),
        ({"plans": {"12345678-9": RunPlan(release="a", by="ann", why="up", at=NOW - 60)}}, "run 12345678 works on it"),
    ],
)  # fmt: skip
def test_what_somebody_works_with_or_wants_stays(keys: dict[str, Any], why: str) -> None:
    """Whatever `keep_previous` says."""
    assert reasons(facts(*HISTORY, keep=0, live="d", **keys), NOW)["a"] == why


def test_a_run_that_ended_holds_nothing() -> None:
    """Its plan is known, and so is its end: by its attempt, by Dagster, or because a day is long enough."""
    plan = {"run-a": RunPlan(release="a", by="ann", why="up", at=NOW - 60)}
    dead = record("a", 0.1, "running")
    old = record("a", 2, "running")

    assert "a" not in reasons(facts(*HISTORY, record("e", 0), keep=0, live="d", plans=plan), NOW)
    assert reasons(facts(dead, HISTORY[3], record("e", 0), keep=0, live="d"), NOW)["a"] == "run run-a works on it"
    assert "a" not in reasons(facts(dead, HISTORY[3], record("e", 0), keep=0, live="d", over=frozenset({"run-a"})), NOW)
    assert "a" not in reasons(facts(old, HISTORY[3], record("e", 0), keep=0, live="d"), NOW)


def test_the_one_tried_last_stays_even_when_it_failed() -> None:
    """Its image took minutes to build, and the loop or a person will try it again."""
    assert reasons(facts(HISTORY[3], record("e", 1, "failed"), live="d"), NOW)["e"] == "it was tried last"


def test_a_model_that_is_down_keeps_its_last_accepted_one_and_as_many_before() -> None:
    """`down` keeps what `up` needs, and what a rollback needs then."""
    assert set(reasons(facts(*HISTORY), NOW)) == {"c", "d"}


def test_what_is_admitted_keeps_its_weights_and_no_image() -> None:
    """It may come up at any moment."""
    admitted = Admitted(revision="x", source="file://w", manifest=manifest("x").to_dict(), by="ann", at=1, why="newest")
    (*_, found) = needed(facts(*HISTORY, live="d", admitted=admitted), NOW, "/other")

    assert found == Kept(manifest("x"), None, "demo in /other: admitted")


def held(word: str, part: str = "model_weights", **keys: Any) -> Held:
    name = manifest(word).digest[:16] if part == "model_weights" else f"local:{word}"
    blobs = {"config": 10, word: 1_000} if part == "model_weights" else {}
    return Held(part, name, word, sum(blobs.values()) or 500, blobs, **keys)


def test_what_no_release_needs_goes_and_the_rest_says_why_it_stays() -> None:
    """Bytes that something else leads to don't get free."""
    kept = needed(facts(*HISTORY, live="d"), NOW)

    found = judge([*(held(word) for word in "abcd"), *(held(word, "image") for word in "abcd")], kept, ["demo"])

    assert [(one.held.part, one.held.what) for one in found.goes] == [("model_weights", "a"), ("model_weights", "b"), ("image", "a"), ("image", "b")]
    assert {one.why for one in found.stays} == {"demo-d: it serves", "demo-c: for a rollback (1 of release.keep_previous 1)"}
    assert found.bytes == 2 * 1_000 + 2 * 500
    assert found.stored == 10 + 4 * 1_000 + 4 * 500


def test_what_two_models_need_stays_for_either() -> None:
    """Equal weights are one revision."""
    one = needed(facts(record("a", 1), live="a"), NOW)
    other = needed(replace(facts(record("a", 2), record("b", 1), live="b", keep=0), model="other"), NOW)

    assert judge([held("a")], [*one, *other], []).goes == ()
    assert judge([held("a")], other, []).stays == ()


def test_what_can_not_be_told_is_in_use() -> None:
    """A home that can not be read may need everything; what is broken by itself goes all the same."""
    found = judge([held("a"), held("b", "image"), held("c", spent="a build that was interrupted")], [], [], "home /x can not be read")

    assert [one.held.what for one in found.goes] == ["c"]
    assert {one.why for one in found.stays} == {"it can not be told whether it is used: home /x can not be read"}


def test_bytes_of_a_download_stay_for_who_goes_on_with_it() -> None:
    """By the content's key; those of nothing that is wanted go."""
    wanted = manifest("a").files[1].key
    kept = needed(facts(record("a", 1), live="a"), NOW)

    found = judge([Held("partial", wanted, "", 5), Held("partial", "f" * 40, "", 7)], kept, [])

    assert [one.held.bytes for one in found.goes] == [7]


def test_logs_go_with_the_last_memory_of_their_model() -> None:
    """A model that was purged."""
    found = judge([Held("log", "/l/demo", "", 5, model="demo"), Held("log", "/l/gone", "", 7, model="gone")], [], ["demo"])

    assert [one.held.id for one in found.goes] == ["/l/gone"]


def test_plans_of_long_ago_go() -> None:
    """What became of them is in the release's attempts."""
    plans = {name: RunPlan(release="a", by="ann", why="up", at=NOW - days * DAY) for name, days in (("old", KEEP_DAYS + 1), ("young", KEEP_DAYS - 1))}

    assert old_plans(facts(plans=plans), NOW) == ("old",)


def test_old_runs_go_but_the_last_ones_of_each_model_and_those_that_go_on() -> None:
    """And those whose results the assets' pages show."""
    ages = [KEEP_DAYS + 10 + number for number in range(KEEP_RUNS + 3)]
    rows = [RunRow(f"demo-{days}", "demo", NOW - days * DAY, NOW - days * DAY + 60) for days in ages]
    rows += [RunRow("other", "other", 0, 60), RunRow("demo-endless", "demo", 0, None)]
    young = [RunRow(f"new-{number}", "new", NOW - number, NOW) for number in range(KEEP_RUNS + 3)]

    found = old_runs([*rows, *young], NOW, needed=frozenset({f"demo-{ages[-1]}"}))

    assert found == tuple(f"demo-{days}" for days in ages[KEEP_RUNS:-1])
