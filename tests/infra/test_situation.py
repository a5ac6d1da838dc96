"""How a model stands: read from platform and records, and told in one word with the first thing that is wrong."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.decisions import Decisions
from infra.documents import Admitted, Attempt, Claim, Deployment, Failure, Live, Mark, Pin, ReleaseRecord
from infra.errors import ConfigError, Problem
from infra.local import startup
from infra.local.records import LocalRecords
from infra.platform import Release
from infra.policy import decide
from infra.situation import Situation, desired, facts, look, state_of
from infra.states import EndpointState, Route, ServiceState
from infra.waiting import Progress
from tests.doubles.releases import release
from tests.platform.conftest import LocalStand

NOW = 1_000_000.0
OLD, NEW = release(), release(engine={"max_model_len": 64})
REFUSED = Mark(kind="refused", why="golden_answers failed", at=NOW)
FAILED = Mark(kind="failed", why="healed 3 times", at=NOW)


def record(of: Release, **more: Any) -> ReleaseRecord:
    """What is remembered of a release."""
    plain: dict[str, Any] = {"spec": of.spec.model_dump(mode="json"), "source": of.source, "revision": of.revision, "manifest": of.manifest.to_dict()}
    return ReleaseRecord(id=of.id, image=of.image, **plain, **more)


def attempt(result: str, ended: float, **more: Any) -> Attempt:
    """A try that ended."""
    return Attempt.model_validate({"number": 1, "run": "r", "by": "me", "why": "up", "started": 0.0, "ended": ended, "result": result, **more})


def serving(**more: Any) -> Situation:
    """A model that serves as it should; keywords change what is seen."""
    found = Situation(
        "demo", Deployment(wanted=True, since=1.0, by="me"), OLD, "", record(OLD), record(OLD), NOW - 100,
        ServiceState(OLD.name, "demo", "ready", ("127.0.0.1", 1)), "", (), EndpointState("http://x/v1", healthy=True, release=OLD.name), "",
        None, None, None,
    )  # fmt: skip
    return replace(found, **more)


NOT_WANTED = Deployment(wanted=False, since=2.0, by="me")
DEAD = ServiceState(OLD.name, "demo", "dead", problem=Problem("its processes are gone", why="Killed"))
OTHER = ServiceState(NEW.name, "demo", "starting")
NOTHING = {"live": None, "service": None, "endpoint": None}

WORDS: list[tuple[str, dict[str, Any], str, str]] = [
    ("all is well", {}, "serving", ""),
    ("nobody wants it and nothing is left", {"deployment": NOT_WANTED, "service": None}, "absent", ""),
    ("nobody ever wanted it", {"deployment": None, **NOTHING}, "absent", ""),
    ("nobody wants it and it still runs", {"deployment": NOT_WANTED}, "stopping", ""),
    ("nobody wants it and a candidate is left", {"deployment": NOT_WANTED, "service": None, "others": (OTHER,)}, "stopping", ""),
    ("edited and not rolled out", {"desired": NEW, "desired_record": None}, "degraded", "is declared"),
    ("edited and refused", {"desired": NEW, "desired_record": record(NEW, mark=REFUSED)}, "degraded", "was refused"),
    ("the source is unknown", {"desired": None, "unknown": "no YAML declares it any more"}, "degraded", "can not be told"),
    ("wanted and nothing there", {**NOTHING}, "failed", "nothing of it serves"),
    ("wanted and claimed", {**NOTHING, "claim": Claim(run="r", release="x", until=NOW)}, "starting", ""),
    ("dead", {"service": DEAD}, "failed", "processes are gone"),
    ("the first try failed", {**NOTHING, "desired_record": record(OLD, attempts=(attempt("failed", NOW, problem=Failure(what="no network")),))}, "failed", "no network"),
    ("it does not answer in time", {"service": None, "service_unknown": "no answer in 2 s"}, "failed", "does not answer"),
    ("the router sends it elsewhere", {"endpoint": EndpointState("http://x/v1", healthy=True, release=NEW.name)}, "failed", "the router sends it to"),
]


@pytest.mark.parametrize(("seen", "word", "problem"), [row[1:] for row in WORDS], ids=[row[0] for row in WORDS])
def test_each_situation_has_its_word_and_names_what_is_wrong(seen: dict[str, Any], word: str, problem: str) -> None:
    """And whoever is told of a problem is told what to do."""
    said, told = state_of(serving(**seen))

    assert said == word
    assert (told is None) == (problem == "")
    assert told is None or (problem in told.what and (told.next or told.why or problem == "no network"))


def test_a_run_under_way_is_starting_or_serving_and_never_failed() -> None:
    """Somebody works on it."""
    assert state_of(serving(**NOTHING), busy=True) == ("starting", None)
    assert state_of(serving(desired=NEW), busy=True) == ("serving", None)


def test_what_is_seen_becomes_what_decide_needs() -> None:
    """Dead is False, not seen is None; nothing live is neither."""
    well, dead = facts(serving(), now=NOW), facts(serving(service=DEAD), now=NOW)
    gone = facts(serving(service=None), now=NOW)
    unseen = facts(serving(service=None, service_unknown="slow", endpoint=None, endpoint_unknown="slow"), now=NOW)
    first = facts(serving(**NOTHING), now=NOW)

    assert (well.live_healthy, well.router_healthy, well.live, well.desired) == (True, True, OLD.id, OLD.id)
    assert (dead.live_healthy, gone.live_healthy, unseen.live_healthy, first.live_healthy) == (False, False, None, None)
    assert (unseen.router_healthy, first.router_healthy, first.live) == (None, False, None)
    assert "Killed" in dead.live_problem
    assert gone.live_problem == "nothing of it runs"
    assert [decide(found).action for found in (well, dead, gone, unseen, first)] == ["in step", "heal", "heal", "wait", "redeploy"]


def test_failures_count_from_the_last_success_or_retry() -> None:
    """Else `retry` would be given up at once, having failed three times before."""
    tries = (attempt("failed", 10.0, transient=True), attempt("accepted", 20.0), attempt("failed", 30.0, transient=True), attempt("failed", 40.0), attempt("failed", 50.0, transient=True))

    counted = facts(serving(desired_record=record(OLD, attempts=tries)), now=NOW)
    fresh = facts(serving(desired_record=record(OLD, attempts=tries, retried=30.0)), now=NOW)

    assert counted.failures == (30.0, 50.0)
    assert fresh.failures == (50.0,)


def test_retry_really_starts_afresh(tmp_path: Path) -> None:
    """Through the records: three failures and a mark, then `retry`, then the loop tries again."""
    decisions = Decisions(LocalRecords(tmp_path), "demo")
    decisions.remember(OLD)
    for run in "abc":
        decisions.begin(OLD.id, run, "reconcile", "redeploy")
        decisions.finish(OLD.id, run, "failed", Problem("no network"), transient=True)
    before = decide(facts(serving(**NOTHING, desired_record=decisions.release(OLD.id)), now=time.time()))

    decisions.unmark(OLD.id)

    after = decide(facts(serving(**NOTHING, desired_record=decisions.release(OLD.id)), now=time.time()))
    assert (before.action, after.action) == ("give up", "redeploy")


def test_only_a_failed_mark_stops_healing() -> None:
    """A live release whose later edition was refused is still healed."""
    assert facts(serving(live=record(OLD, mark=REFUSED)), now=NOW).live_mark is None
    assert facts(serving(live=record(OLD, mark=FAILED)), now=NOW).live_mark


# ---------------------------------------------------------------- looking


@pytest.fixture
def stand(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalStand]:
    monkeypatch.setattr(startup, "POLL", 0.05)
    monkeypatch.setattr(startup, "HEALTH_SECONDS", 0.3)
    made = LocalStand(tmp_path, tmp_path_factory.getbasetemp() / "sources")
    yield made
    made.close()


@pytest.fixture
def live(stand: LocalStand) -> Callable[[str], Release]:
    """Brings a release up and makes it live."""

    def bring(scripted: str = "") -> Release:
        made, platform = stand.release(scripted), stand.platform
        decisions = Decisions(platform.records, "demo")
        decisions.want(True, "me")
        decisions.remember(made)
        decisions.write("admitted", Admitted(revision=made.revision, source=made.source, manifest=made.manifest.to_dict(), by="me", at=1.0, why="new"))
        state = platform.ray_service.apply(made, Progress(20))
        assert state.address
        platform.endpoint.apply(Route("demo", "demo", made.name, state.address), Progress(10))
        decisions.write("live", Live(release=made.id, since=time.time(), by="me"))
        return made

    return bring


def test_a_model_that_serves_is_in_step_with_what_is_declared(stand: LocalStand, live: Callable[[str], Release]) -> None:
    """Nothing is to be done; an edit is seen at once."""
    made = live("")

    seen = look(stand.platform, "demo", made.spec, stand.sources)
    edited = look(stand.platform, "demo", made.spec.model_copy(update={"served_name": "other"}), stand.sources)
    undeclared = look(stand.platform, "demo", None, stand.sources)

    assert state_of(seen) == ("serving", None)
    assert state_of(edited)[0] == "degraded"
    assert undeclared.unknown == "no YAML declares it any more"
    assert undeclared.serves


def test_a_live_release_that_does_not_answer_is_a_situation_and_no_crash(stand: LocalStand, live: Callable[[str], Release]) -> None:
    """The loop must be able to say "cannot tell" for one model and go on with the next."""
    made = live("deaf")

    def ask() -> None:
        with contextlib.suppress(httpx.HTTPError):
            httpx.post(f"{stand.platform.endpoint.url('demo')}/chat/completions", json={"model": "demo", "messages": []}, trust_env=False, timeout=5)

    asking = threading.Thread(target=ask)
    asking.start()
    Progress(5).until(lambda: stand.platform.endpoint.in_flight(made.name) or None, every=0.02)

    seen = look(stand.platform, "demo", made.spec, stand.sources)

    assert seen.service is None
    assert "does not answer" in seen.service_unknown
    assert decide(facts(seen, now=time.time())).action == "wait"
    stand.close()
    asking.join(5)


def test_nothing_at_all_is_a_situation_too(stand: LocalStand) -> None:
    """Looking makes nothing."""
    seen = look(stand.platform, "demo", release().spec, stand.sources)

    assert state_of(seen) == ("absent", None)
    assert "no revision of demo was admitted" in seen.unknown
    assert not stand.settings.home.exists()


# ---------------------------------------------------------------- what should be live


def test_what_should_be_live_is_named_or_pinned_or_declared(stand: LocalStand) -> None:
    """In this order; a name or a pin brings the whole recorded release back, not today's YAML with old weights."""
    decisions = Decisions(stand.platform.records, "demo")
    for made in (OLD, NEW):
        decisions.remember(made)
    today = release(engine={"max_model_len": 32}).spec
    decisions.write("admitted", Admitted(revision="r9", source="file:///w", manifest=OLD.manifest.to_dict(), by="me", at=1.0, why="new"))

    def ask(named: str | None = None) -> Release:
        return desired(decisions, stand.platform, today, Path("/base"), Progress(5), named)

    declared = ask()
    decisions.write("pin", Pin(release=OLD.id, until="newer", by="me", why="rolled back", at=1.0))

    assert (declared.spec, declared.revision, declared.image, declared.base) == (today, "r9", stand.image, "/base")
    assert ask() == OLD
    assert ask(NEW.id) == NEW
    with pytest.raises(ConfigError, match="has no release ffffffffff"):
        ask("ffffffffff")
