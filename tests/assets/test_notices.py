"""What happens to a model is told to a webhook: once, late rather than never, and nothing ever waits for it. With real records, over HTTP."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from infra.documents import Approval, Deployment, Live, ReleaseRecord
from infra.errors import CapacityError, Transient
from infra.loop import Turn
from infra.notices import Told, utc
from infra.outbox import GIVE_UP
from infra.policy import ATTEMPTS
from llm_pipeline import automation, notices, views
from tests.assets.clone import Clone
from tests.doubles.parts import Behaviour
from tests.doubles.platform import World
from tests.doubles.webhook import SECRET, Receiver


class Telling:
    """The sensor, tick by tick, with what it remembers."""

    def __init__(self, clone: Clone) -> None:
        self.clone, self.cursor, self.last, self.now = clone, None, "", 0.0

    def tick(self) -> str:
        """One tick, as a daemon makes it; what it said."""
        with dg.build_sensor_context(instance=self.clone.instance, cursor=self.cursor) as context:
            (sensor,) = notices.build().sensors or ()
            found = sensor(context)
        assert isinstance(found, dg.SensorResult) and found.skip_reason
        self.cursor, self.last, self.events = found.cursor, str(found.skip_reason.skip_message), list(found.asset_events)
        return self.last

    def told(self, model: str = "demo") -> Told:
        found = self.clone.decisions(model).read(Told, "told")
        assert found
        return found


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """It takes everything, and finds nothing wrong with it. It has as much time as it needs."""
    monkeypatch.setattr(notices, "ANSWER", 300.0)
    monkeypatch.setattr(notices, "SECONDS", 600.0)
    with Receiver() as made:
        monkeypatch.setenv("LLM_PIPELINE_WEBHOOK_URL", made.url)
        yield made
        assert made.wrong == []


@pytest.fixture
def telling(clone: Clone, receiver: Receiver) -> Telling:
    """The model serves, and that is old."""
    clone.serve()
    made = Telling(clone)
    assert made.tick() == "nothing to tell"
    return made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The sensor's clock stands still: so many seconds ahead."""
    ahead, base = [0.0], time.time()

    class Clock:
        @staticmethod
        def time() -> float:
            return base + ahead[0]

    monkeypatch.setattr(notices, "time", Clock)
    yield ahead


def push(clone: Clone, world: World, revision: str) -> None:
    world.source["demo"] = revision
    clone.looks()


def rolled_out(clone: Clone, world: World, revision: str) -> None:
    """What a rollout leaves, without its run."""
    world.source["demo"] = revision
    clone.serve()


def follow(clone: Clone) -> bool:
    """The loop acts once."""
    (request,) = clone.tick().run_requests or ()
    return clone.obey(request).success


def test_a_rollout_is_told_once_with_both_releases_and_how_to_undo_it(clone: Clone, world: World, telling: Telling, receiver: Receiver) -> None:
    """From which to which, by whom, in how long, the run; and nothing at the next ticks."""
    old = clone.live()
    push(clone, world, "v2")
    assert follow(clone)
    run = clone.newest().attempts[-1].run

    said = [telling.tick(), telling.tick()]

    assert said == ["demo: told of rolled out", "nothing to tell"] and receiver.kinds == ["rolled out"]
    for word in (f"{old} (revision v1) → release {clone.live()} (revision v2) is live", "by reconcile", " s\n", "llm-pipeline rollback demo", f"/runs/{run}"):
        assert word in receiver.texts[0]


def test_a_bad_revision_is_told_as_refused_with_the_check_its_reason_and_what_serves_on(clone: Clone, world: World, telling: Telling, receiver: Receiver) -> None:
    """And how to try it again."""
    world.behave["bad"] = Behaviour(answers={"ping": "pang"})
    push(clone, world, "bad")
    assert not follow(clone)

    telling.tick()

    assert receiver.kinds == ["refused"] and telling.tick() == "nothing to tell"
    for word in ("refused at golden_answers", "pang", f"{clone.live()} (revision v1) serves on", "llm-pipeline retry demo"):
        assert word in receiver.texts[0]


def test_what_fails_again_and_again_is_told_each_time_and_then_that_it_is_given_up(clone: Clone, world: World, telling: Telling, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason of the last try."""
    monkeypatch.setattr("infra.policy.BACK_OFF", (0.0,))
    world.start_errors = [CapacityError("no room for it", why="needs 4 GiB", log="the last line") for _ in range(ATTEMPTS)]
    push(clone, world, "v2")
    for _ in range(ATTEMPTS):
        assert not follow(clone)
        telling.tick()
    assert not clone.tick().run_requests
    telling.tick()

    assert receiver.kinds == ["failed"] * ATTEMPTS + ["gave up"] and telling.tick() == "nothing to tell"
    assert all(word in receiver.texts[0] for word in ("try 1", "no room for it: needs 4 GiB", "the loop tries it again", "the last line"))
    assert all(word in receiver.texts[-1] for word in ("left alone", "no room for it", "llm-pipeline retry demo"))


def test_a_heal_is_told_when_it_has_succeeded(clone: Clone, world: World, telling: Telling, receiver: Receiver) -> None:
    """Not when it begins, and not while nothing answers."""
    world.kill(f"demo-{clone.live()}")
    (request,) = clone.tick().run_requests or ()
    assert telling.tick() == "nothing to tell"
    assert clone.obey(request).success

    telling.tick()

    assert receiver.kinds == ["healed"] and "was down and serves again" in receiver.texts[0] and telling.tick() == "nothing to tell"


def test_a_heal_of_the_router_alone_is_told_too(clone: Clone, world: World, telling: Telling, receiver: Receiver) -> None:
    """Nothing was started for it: that the model answers again is seen on the platform."""
    route = world.routes.pop("demo")
    (request,) = clone.tick().run_requests or ()
    assert route and request.tags["llm/lifecycle"] == "heal" and telling.tick() == "nothing to tell"
    assert clone.obey(request).success

    telling.tick()

    assert receiver.kinds == ["healed"] and telling.tick() == "nothing to tell"


def test_a_heal_that_fails_is_told_as_failed(clone: Clone, world: World, telling: Telling, receiver: Receiver) -> None:
    """And the next one, which succeeds, as healed."""
    world.kill(f"demo-{clone.live()}")
    world.start_errors = [CapacityError("no room for it")]
    assert not follow(clone)
    telling.tick()
    world.dead.clear()
    world.running.clear()
    assert clone.loop("heal", clone.live() or "").success
    live = clone.live()
    clone.decisions().change(ReleaseRecord, f"release/{live}", lambda old: old.model_copy(update={"heals": (*old.heals, old.attempts[-1].started)}))

    telling.tick()

    assert receiver.kinds == ["failed", "healed"] and "no room for it" in receiver.texts[0]


def test_a_source_that_is_away_for_too_long_is_told_once_and_its_return_once(clone: Clone, world: World, telling: Telling, receiver: Receiver, clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """After as long as the setting says."""
    monkeypatch.setenv("LLM_PIPELINE_SOURCE_LIMIT", "600")
    clone.looks()
    world.source_error = Transient("the Hub does not answer", log="ConnectTimeout")
    clone.looks()
    seen = clone.decisions().seen
    assert seen
    quiet = telling.tick()
    clock[0] = 700.0
    loud, again = telling.tick(), telling.tick()
    world.source_error = None
    clone.looks()
    back = telling.tick()

    assert (quiet, loud, again, back) == ("nothing to tell", "demo: told of source unreachable", "nothing to tell", "demo: told of source back")
    assert all(word in receiver.texts[0] for word in (views.utc(seen.since)[:10], "the Hub does not answer", "ConnectTimeout", "llm-pipeline notify demo"))


@pytest.fixture
def waits(clone: Clone, world: World, telling: Telling) -> str:
    """v1 serves, v2 passed and waits for a person. The id of its release."""
    clone.declare(updates={"policy": "approve", "approve_within": 600})
    push(clone, world, "v2")
    assert follow(clone)
    found = clone.decisions().approval
    assert found
    return found.release


def test_a_candidate_that_waits_for_a_person_is_told_with_both_commands_and_the_deadline(clone: Clone, waits: str, telling: Telling, receiver: Receiver) -> None:
    """And then that a person said no, with the reason."""
    found = clone.decisions().approval
    telling.tick()
    assert clone.say(approve=False, why="not today").success and follow(clone)
    telling.tick()

    assert found and receiver.kinds == ["awaiting approval", "rejected"] and telling.tick() == "nothing to tell"
    for word in (waits, "llm-pipeline approve demo", "llm-pipeline reject demo", utc(found.until), f"{clone.live()} (revision v1) serves on"):
        assert word in receiver.texts[0]
    assert all(word in receiver.texts[1] for word in (waits, "rejected by eve: not today", "llm-pipeline retry demo"))


def test_what_was_approved_is_told_as_rolled_out(clone: Clone, waits: str, telling: Telling, receiver: Receiver) -> None:
    """When it has its traffic."""
    telling.tick()
    assert clone.say(approve=True).success and telling.tick() == "nothing to tell" and follow(clone)
    telling.tick()

    assert receiver.kinds == ["awaiting approval", "rolled out"] and f"→ release {waits}" in receiver.texts[1] and "approved by eve" in receiver.texts[1]


def test_what_nobody_approved_in_time_is_told_as_that(clone: Clone, waits: str, telling: Telling, receiver: Receiver) -> None:
    """When it is removed."""
    decisions = clone.decisions()
    decisions.change(Approval, "approval", lambda old: old.model_copy(update={"until": old.since + 0.001}))
    telling.tick()
    assert follow(clone)
    telling.tick()

    assert receiver.kinds == ["awaiting approval", "approval expired"] and "nobody approved release" in receiver.texts[1]


def test_the_first_up_of_a_model_is_told_though_it_was_never_looked_at(clone: Clone, receiver: Receiver) -> None:
    """Who watched before it began tells of it; what was there before the watching began is old."""
    telling = Telling(clone)
    telling.tick()
    clone.serve()
    first = telling.tick()
    late = Telling(clone)
    clone.world.records.delete("demo", "told")

    assert first == "demo: told of rolled out" and late.tick() == "nothing to tell" and receiver.kinds == ["rolled out"]


def test_the_loss_of_dagsters_storage_tells_nothing_twice_and_loses_nothing(clone: Clone, world: World, telling: Telling, receiver: Receiver) -> None:
    """What was told is kept beside what happened."""
    rolled_out(clone, world, "v2")
    telling.tick()
    rolled_out(clone, world, "v3")
    telling.cursor = None

    assert telling.tick() == "demo: told of rolled out" and receiver.kinds == ["rolled out"] * 2 and telling.tick() == "nothing to tell"


def test_without_an_address_nothing_is_sent_kept_or_told_later(clone: Clone, world: World, telling: Telling, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens while nobody listens is never told."""
    address = receiver.url
    monkeypatch.delenv("LLM_PIPELINE_WEBHOOK_URL")
    said = [telling.tick()]
    rolled_out(clone, world, "v2")
    said.append(telling.tick())
    kept = clone.decisions().read(Told, "told")
    monkeypatch.setenv("LLM_PIPELINE_WEBHOOK_URL", address)

    assert telling.tick() == "nothing to tell" and kept is None and receiver.asked == 0
    assert said == ["LLM_PIPELINE_WEBHOOK_URL is not set: nobody is told"] * 2


def test_a_receiver_that_is_down_gets_everything_later_in_its_order(clone: Clone, world: World, telling: Telling, receiver: Receiver, clock: list[float]) -> None:
    """It is asked ever more rarely; nothing but the notices waits."""
    receiver.answers = ["drop", "drop"]
    rolled_out(clone, world, "v2")
    down, rests = telling.tick(), telling.tick()
    clock[0] = 16.0
    down_again = telling.tick()
    clock[0] = 32.0
    still = telling.tick()
    rolled_out(clone, world, "v3")
    clock[0] = 100.0
    telling.tick()

    assert "could not tell of rolled out: it can not be reached" in down and "could not tell" in down_again
    assert "1 notice wait" in rests and "left alone" in still and receiver.asked == 4
    assert receiver.kinds == ["rolled out"] * 2 and "(revision v2) is live" in receiver.texts[0] and "(revision v3) is live" in receiver.texts[1]


def test_a_receiver_that_limits_the_rate_is_asked_after_as_long_as_it_said(clone: Clone, world: World, telling: Telling, receiver: Receiver, clock: list[float]) -> None:
    """Retry-After holds for all that waits."""
    receiver.answers = [(429, "120")]
    rolled_out(clone, world, "v2")
    said = []
    for clock[0] in (0.0, 100.0, 125.0):
        said.append(telling.tick())

    assert "limits the rate" in said[0] and "left alone" in said[1] and receiver.asked == 2 and receiver.kinds == ["rolled out"]


def test_one_notice_that_the_receiver_chokes_on_holds_up_no_other_models(clone: Clone, world: World, telling: Telling, receiver: Receiver, clock: list[float]) -> None:
    """It is tried again behind theirs."""
    clone.declare("other", served_name="other")
    clone.serve("other")
    clone.serve()
    receiver.answers = [200, 500]
    rolled_out(clone, world, "v2")

    telling.tick()
    first = list(receiver.kinds)
    clock[0] = 20.0
    telling.tick()

    assert first == ["rolled out"] and sorted(text.split(": ")[1] for text in receiver.texts) == ["demo", "other"]


def test_what_was_tried_in_vain_comes_after_what_was_not(clone: Clone, world: World, telling: Telling, receiver: Receiver, clock: list[float]) -> None:
    """A notice on which the receiver hangs each time is never the only one that it is sent."""
    clone.declare("other", served_name="other")
    clone.serve("other")
    receiver.answers = ["drop"]
    rolled_out(clone, world, "v2")

    first = telling.tick()
    clock[0] = 20.0
    telling.tick()

    tried = first.partition(":")[0]
    assert "could not tell" in first and [text.split(": ")[1] for text in receiver.texts] == [name for name in ("demo", "other") if name != tried] + [tried]


def test_what_the_receiver_never_takes_is_given_up_at_once_and_said(clone: Clone, world: World, telling: Telling, receiver: Receiver) -> None:
    """In the tick, in the record, and on the page of the endpoint."""
    receiver.answers = [404]
    rolled_out(clone, world, "v2")

    said = telling.tick()
    (event,) = telling.events

    assert said == "demo: gave up telling of rolled out: it answered 404" and telling.tick() == "nothing to tell" and not telling.events
    assert telling.told().lost[0].why == "it answered 404" and telling.told().outbox == ()
    assert event.asset_key == dg.AssetKey(["demo", "endpoint"]) and "is live" in str(event.metadata["text"].value)


def test_what_nobody_takes_for_hours_is_given_up_and_said(clone: Clone, world: World, telling: Telling, receiver: Receiver, clock: list[float]) -> None:
    """An old notice tells of a day that is over."""
    receiver.answers = ["drop"]
    rolled_out(clone, world, "v2")
    telling.tick()
    clock[0] = GIVE_UP + 60
    said = telling.tick()

    assert "1 notice given up: not taken within 6 h" in said and receiver.taken == [] and telling.told().lost and telling.events


def test_who_is_killed_between_sending_and_noting_tells_it_once_more_and_never_less(clone: Clone, world: World, telling: Telling, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it was sent the same: it is in the record already."""

    class Killed(BaseException):
        """A SIGKILL at this point."""

    def killed(*_: Any) -> None:
        raise Killed

    rolled_out(clone, world, "v2")
    with monkeypatch.context() as before:
        before.setattr(notices, "post", killed)
        with pytest.raises(Killed):
            telling.tick()
    with monkeypatch.context() as after:
        after.setattr(notices, "tried", killed)
        with pytest.raises(Killed):
            telling.tick()
    told = len(receiver.taken)
    telling.tick()

    assert told == 1 and receiver.kinds == ["rolled out"] * 2 and telling.tick() == "nothing to tell"


def test_of_two_dagsters_only_the_one_that_acts_tells(clone: Clone, world: World, telling: Telling, receiver: Receiver) -> None:
    """When it takes over, it tells what the other did not."""
    rolled_out(clone, world, "v2")
    found = clone.world.records.get("local", "loop")
    clone.world.records.put("local", "loop", Turn(holder="elsewhere:/x", at=time.time()).model_dump(), found.version if found else None)
    other = telling.tick()
    found = clone.world.records.get("local", "loop")
    clone.world.records.put("local", "loop", Turn(holder=automation.myself(clone.instance), at=time.time()).model_dump(), found.version if found else None)

    assert other == "demo: elsewhere:/x acts on local, and tells" and telling.tick() == "demo: told of rolled out" and len(receiver.taken) == 1


def test_two_that_write_at_once_do_not_both_tell(clone: Clone, world: World, telling: Telling, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second finds the record changed, and leaves it to the first."""
    rolled_out(clone, world, "v2")
    second = Telling(clone)
    second.cursor = telling.cursor
    real, asked = notices.due, []

    def meanwhile(*given: Any) -> Any:
        if not asked:
            asked.append(1)
            second.tick()
        return real(*given)

    monkeypatch.setattr(notices, "due", meanwhile)

    assert telling.tick() == "demo: somebody else tells" and len(receiver.taken) == 1


def test_what_was_taken_down_just_now_is_told_to_its_end_and_then_no_more(clone: Clone, world: World, telling: Telling, receiver: Receiver) -> None:
    """A refusal a moment before a `down` is news; a model that nobody has wanted for long is not looked at."""
    world.behave["bad"] = Behaviour(answers={"ping": "pang"})
    push(clone, world, "bad")
    assert not follow(clone)
    clone.down()
    told = telling.tick()
    clone.decisions().write("deployment", Deployment(wanted=False, since=time.time() - notices.JUST - 1, by="ann"))
    clone.decisions().write("live", Live(release=clone.newest().id, since=time.time(), by="ann"))

    assert told == "demo: told of refused" and telling.tick() == "nothing to tell" and receiver.kinds == ["refused"]


def test_one_model_whose_records_can_not_be_read_stops_no_other(clone: Clone, world: World, telling: Telling, receiver: Receiver) -> None:
    """It is said in the tick. So is one of another version."""
    for name in ("broken", "strange"):
        clone.declare(name, served_name=name)
        clone.serve(name)
    clone.serve()
    rolled_out(clone, world, "v2")
    (world.records.root / "broken" / "live.json").write_text("{")
    (world.records.root / "strange" / "live.json").write_text('{"version": 1, "value": {}}')

    said = telling.tick()

    assert "broken: cannot tell" in said and "strange: cannot tell: the record live of strange can not be read by this version" in said and "demo: told of rolled out" in said


def test_a_rollout_goes_on_whatever_the_receiver_does(clone: Clone, world: World, telling: Telling, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hangs: the tick ends, and the loop acts as ever."""
    monkeypatch.setattr(notices, "ANSWER", 1.0)
    receiver.answers = ["hang"]
    rolled_out(clone, world, "v2")

    said = telling.tick()

    assert "no answer within 1 s" in said and clone.record(clone.live() or "").revision == "v2" and not clone.tick().run_requests


@pytest.mark.parametrize("answer", [200, 404, 500, "drop", (429, "5")])
def test_the_address_is_in_no_record_event_log_or_message(answer: Any, clone: Clone, world: World, telling: Telling, receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the receiver does."""
    caplog.set_level(logging.DEBUG)
    receiver.answers = [answer]
    rolled_out(clone, world, "v2")
    said = telling.tick()

    written = "".join(path.read_text(errors="replace") for path in Path(clone.root).rglob("*") if path.is_file())
    assert receiver.asked == 1
    for text in (said, str(telling.cursor), str(telling.events), caplog.text, written, str(receiver.texts)):
        assert SECRET not in text and "in-the-clear" not in text and "/services/" not in text


def test_where_nothing_happened_nothing_is_written(clone: Clone, telling: Telling, receiver: Receiver) -> None:
    """This is every quarter of a minute for years."""
    before = clone.world.records.list("demo")
    telling.tick()

    assert clone.world.records.list("demo") == before and receiver.asked == 0
