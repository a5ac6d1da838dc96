"""Somebody pushes a revision: it is seen, admitted or held with a reason, and the loop rolls it out. Asked as Dagster asks, with real records."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from infra.documents import Admitted
from infra.errors import Conflict, Transient
from infra.loop import Loop
from infra.waiting import Progress
from llm_pipeline import revisions, views
from llm_pipeline.automation import myself
from tests.assets.clone import Clone
from tests.doubles.parts import manifest_of
from tests.doubles.platform import World

KEY = dg.AssetKey(["demo", "model_revision"])


def admitted(clone: Clone, model: str = "demo") -> str:
    found = clone.decisions(model).admitted
    assert found
    return found.revision


def waits(clone: Clone) -> str:
    found = clone.decisions().seen
    assert found
    return found.waits or ""


def observed(clone: Clone) -> dg.AssetObservation:
    """The last observation of the source, as it is on the model's page."""
    (event,) = clone.instance.fetch_observations(KEY, limit=1).records
    found = event.asset_observation
    assert found
    return found


def page(clone: Clone) -> dict[str, Any]:
    return {name: value.value for name, value in observed(clone).metadata.items()}


def closed_now() -> str:
    """An hour of every day that is half a day away."""
    hour = (datetime.now(UTC).hour + 12) % 24
    return f"{hour:02}:00-{(hour + 1) % 24:02}:00 UTC"


def test_a_new_revision_is_admitted_and_the_loop_rolls_it_out(clone: Clone, world: World) -> None:
    """Nobody says `up`: the look launches nothing, the loop does."""
    clone.serve()
    clone.looks()
    world.source["demo"] = "v2"

    seen = clone.looks()
    (request,) = clone.tick().run_requests or ()

    assert not seen.run_requests and admitted(clone) == "v2" and "v1 -> v2 (weights) is admitted" in str(seen.skip_reason)
    assert clone.obey(request).success and clone.record(clone.live() or "").revision == "v2"
    assert not clone.looks().asset_events and not clone.tick().run_requests


def test_its_page_says_what_changed_and_takes_the_data_version_of_what_was_admitted(clone: Clone, world: World) -> None:
    """Both revisions, what an engine sees of it, how many bytes; and the stages after it are out of date."""
    clone.serve()
    clone.looks()
    world.source["demo"] = "v2"

    clone.looks()

    assert page(clone) | {"before": "v1", "revision": "v2", "changed": "weights", "bytes": 4_000_000} == page(clone)
    assert (observed(clone).tags or {})["dagster/data_version"] == manifest_of("v2").digest


def test_where_nothing_moved_only_a_glance_is_taken_and_nothing_is_written(clone: Clone, world: World) -> None:
    """This is what happens every minute for years."""
    clone.serve()
    clone.looks()
    world.looks.clear()
    before = clone.world.records.list("demo")

    again = clone.looks()

    assert world.looks == [("glance", "demo")] and not again.asset_events
    assert clone.world.records.list("demo") == before and "nothing new at the sources of 1 model" in str(again.skip_reason)


def test_a_commit_that_changes_no_file_of_the_engine_rolls_out_nothing(clone: Clone, world: World) -> None:
    """It is shown with its name; the release is the same, and so is the moment of its admission."""
    live = clone.serve()
    clone.looks()
    before = clone.decisions().admitted
    world.source["demo"] = "v1+readme"

    clone.looks()

    after = clone.decisions().admitted
    assert before and after and (after.revision, after.at) == ("v1+readme", before.at) and page(clone)["changed"] == "README only"
    assert not clone.tick().run_requests and clone.live() == live


def test_outside_the_hours_it_waits_and_says_until_when(clone: Clone, world: World) -> None:
    """In the record, in `status` and on the page; inside of them the same look admits it, though the source has not moved since."""
    hours = closed_now()
    clone.declare(updates={"hours": hours})
    clone.serve()
    world.source["demo"] = "v2"
    clone.looks()
    row = views.model_row("demo")

    assert admitted(clone) == "v1" and (row["revision"], row["newest_revision"], row["state"]) == ("v1", "v2", "serving")
    assert row["waits"]["why"].startswith(f"v2 waits: outside {hours}") and datetime.fromisoformat(row["waits"]["until"]).timestamp() > time.time()
    assert page(clone)["admitted"] is False and (observed(clone).tags or {})["dagster/data_version"] == manifest_of("v1").digest
    world.looks.clear()
    clone.declare()
    clone.looks()
    assert admitted(clone) == "v2" and world.looks == [("glance", "demo")] and not waits(clone)


def test_soon_after_a_rollout_the_next_one_waits(clone: Clone, world: World) -> None:
    """From the moment when the last one went live."""
    clone.declare(updates={"min_interval": "2h"})
    clone.serve()
    world.source["demo"] = "v2"
    clone.looks()

    found, live = clone.decisions().seen, clone.decisions().live
    assert found and live and "less than 2 h ago" in waits(clone) and found.until == live.since + 7200


def test_what_a_person_releases_is_shown_and_waits_for_a_person_who_names_it(clone: Clone, world: World) -> None:
    """`up` alone keeps what was admitted; the first of all needs no name."""
    clone.declare(updates={"policy": "manual"})
    assert clone.up().success
    world.source["demo"] = "v2"

    clone.looks()
    held = waits(clone)
    kept = clone.up()
    after_up = admitted(clone)
    named = clone.up(revision="v2")

    assert "waits for a person" in held and kept.success and after_up == "v1"
    assert named.success and clone.record(clone.live() or "").revision == "v2" and clone.decisions().pin is None


def test_a_source_that_can_not_be_reached_is_a_fact_with_since_when(clone: Clone, world: World) -> None:
    """On the page and in `status`, once and not every minute; what serves is not touched; the next answer ends it."""
    clone.serve()
    clone.looks()
    world.source_error = Transient("the Hub limits our rate (429), in 57 s")
    clone.looks()
    first, row = clone.decisions().seen, views.model_row("demo")
    told = page(clone)
    world.source_error = Transient("the Hub limits our rate (429), in 3 s")
    again = clone.looks()

    assert first and first.problem and not first.reachable and clone.decisions().seen == first and not again.asset_events
    assert row["source"]["reachable"] is False and row["source"]["since"] == views.utc(first.since) and row["state"] == "serving"
    assert told["reachable"] is False and "limits our rate" in told["problem"] and admitted(clone) == "v1"
    world.source_error = None
    world.source["demo"] = "v2"
    clone.looks()
    found = clone.decisions().seen
    assert found and found.reachable and found.problem is None and admitted(clone) == "v2" and page(clone)["reachable"] is True


def test_one_model_that_fails_does_not_stop_the_others(clone: Clone, world: World) -> None:
    """Neither a source that is away nor a record that can not be read."""
    for name in ("broken", "other"):
        clone.declare(name, served_name=name)
        clone.serve(name)
    clone.serve()
    (world.records.root / "broken" / "admitted.json").write_text("{")

    def away(name: str) -> None:
        if name == "demo":
            raise OSError(5, "Input/output error")

    world.on_look = away
    world.source |= {"demo": "v2", "broken": "v2", "other": "v2"}

    seen = clone.looks()

    assert admitted(clone, "other") == "v2" and admitted(clone) == "v1"
    assert "Input/output error" in str(clone.decisions().seen) and "broken: cannot tell" in str(seen.skip_reason)


def test_the_source_of_a_model_that_nobody_wants_is_not_asked(clone: Clone, world: World) -> None:
    """Neither before the first `up` nor after `down`; what is declared no more is nobody's."""
    clone.declare("other", served_name="other")
    clone.serve("other")
    clone.serve()
    clone.down("other")
    clone.forget("demo")
    world.looks.clear()

    clone.looks()

    assert world.looks == []


def test_a_source_that_hangs_never_counts_as_unchanged(clone: Clone, world: World) -> None:
    """The tick ends in time and says so."""
    clone.serve()
    clone.looks()
    end = threading.Event()
    world.on_look = lambda _: end.wait(600)
    watched, _ = revisions.wanted(Loop(myself(clone.instance), None), lambda: clone.instance)
    try:
        ((_, answer),) = revisions.asked(watched, seconds=1)
    finally:
        end.set()

    assert answer is None or (answer.problem and "did not answer within 1 s" in answer.problem.problem.what)


def test_what_a_person_admits_while_a_source_is_asked_is_not_overwritten(clone: Clone, world: World) -> None:
    """The person may have seen something newer than the glance that came back late: the next look tells."""
    clone.serve()
    clone.looks()
    world.source["demo"] = "v2"
    (one,) = revisions.wanted(Loop(myself(clone.instance), None), lambda: clone.instance)[0]
    late = revisions.ask(one, Progress(60))
    world.source["demo"] = "v3"
    assert clone.up().success

    with pytest.raises(Conflict):
        revisions.conclude(one, late)

    assert admitted(clone) == "v3"
    clone.looks()
    assert admitted(clone) == "v3" and not clone.tick().run_requests


def test_a_person_who_names_an_older_one_is_not_overruled_by_the_next_look(clone: Clone, world: World) -> None:
    """The pin stands before the revision is admitted."""
    clone.serve()
    world.source["demo"] = "v2"
    assert clone.up(revision="v1").success

    clone.looks()

    assert admitted(clone) == "v1" and "pinned" in waits(clone)


def test_another_address_in_the_yaml_is_looked_at_afresh(clone: Clone, world: World) -> None:
    """What was seen of the old one says nothing about the new one."""
    clone.serve()
    clone.looks()
    clone.declare(weights="file://others")
    world.looks.clear()

    clone.looks()

    found = clone.decisions().seen
    assert world.looks == [("glance", "demo"), ("look", "demo")] and found and found.source == "file://others"


def test_what_was_admitted_before_this_version_is_read_as_it_is(clone: Clone) -> None:
    """No record `seen` yet: the first look makes it and admits nothing anew."""
    clone.serve()
    before = clone.decisions().read(Admitted, "admitted")

    clone.looks()

    assert clone.decisions().read(Admitted, "admitted") == before and clone.decisions().seen
