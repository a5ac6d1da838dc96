"""What arrives at the source: revisions one after the other, at once, bad, known, none."""

from __future__ import annotations

import dagster as dg

from infra.errors import Transient
from tests.scenarios.row import Row, admit, decide
from tests.scenarios.scene import DAY, HOUR, Scene


def pushed(scene: Scene) -> None:
    """Nobody says `up`: one run brings it up, it answers, and the next looks ask for nothing."""
    scene.push("v2")

    assert scene.settle() == ["v2"] and scene.serving == "v2"
    assert scene.settle() == [] and scene.starts == ["v2"]


def during_a_rollout(scene: Scene) -> None:
    """The rollout under way ends with what it began; what came meanwhile follows it."""
    scene.push("v2")
    scene.look()
    run = scene.queue(scene.asked())
    scene.push("v3")
    scene.look()
    assert scene.ask() is None and "is under way" in scene.said

    assert scene.clone.execute(run).success and scene.serving == "v2"
    assert scene.settle() == ["v3"] and scene.serving == "v3"


def two_in_one_tick(scene: Scene) -> None:
    """Of two between two looks only the last is ever seen."""
    scene.push("v2")
    scene.push("v3")

    assert scene.settle() == ["v3"] and scene.serving == "v3"


def only_the_newest(scene: Scene) -> None:
    """Three are seen while one rolls out: the two in the middle are never started, only the newest admitted is."""
    scene.push("v2")
    scene.look()
    run = scene.queue(scene.asked())
    for newer in ("v3", "v4", "v5"):
        scene.push(newer)
        scene.look()

    assert scene.clone.execute(run).success
    assert scene.settle() == ["v5"] and scene.serving == "v5" and scene.starts == ["v2", "v5"]


def bad_then_good(scene: Scene) -> None:
    """The bad one is tried once, refused, and gets no request; the good one after it goes live."""
    scene.push("bad", bad=True)
    assert scene.settle() == ["bad"] and scene.serving == "v1"
    scene.passes(DAY)
    assert scene.settle() == [] and scene.serving == "v1"
    scene.push("v3")

    assert scene.settle() == ["v3"] and scene.serving == "v3" and scene.starts == ["bad", "v3"]


def bad_while_another_rolls_out(scene: Scene) -> None:
    """A good one rolls out, a bad and then a good one arrive: the bad one is never started."""
    scene.push("v2")
    scene.look()
    run = scene.queue(scene.asked())
    scene.push("bad", bad=True)
    scene.look()
    scene.push("v3")

    assert scene.clone.execute(run).success
    assert scene.settle() == ["v3"] and scene.starts == ["v2", "v3"]


def bad_again(scene: Scene) -> None:
    """The branch is forced back to what was refused: it is held with that reason, and what serves serves on."""
    scene.push("bad", bad=True)
    scene.settle()
    scene.push("v3")
    scene.settle()
    scene.push("bad")

    assert scene.settle() == [] and scene.serving == "v3" and "tried before: refused" in scene.waits


def same_again(scene: Scene) -> None:
    """The source is asked with a glance alone, nothing is written, nothing is launched."""
    scene.push("v2")
    scene.settle()
    before = scene.world.records.list("demo")
    scene.push("v2")
    scene.world.looks.clear()

    assert scene.settle() == [] and scene.world.looks == [("glance", "demo")]
    assert scene.world.records.list("demo") == before


def forced_back(scene: Scene) -> None:
    """What the source holds now counts, not which of the two is older: it goes live again, by the whole way of a candidate."""
    scene.push("v2")
    scene.settle()
    scene.push("v1")

    assert scene.settle() == ["v1"] and scene.serving == "v1" and scene.starts == ["v2", "v1"]


def there_and_back_within_a_rollout(scene: Scene) -> None:
    """v2 rolls out when the branch is back at v1 already: both run once, and in the end what the source holds is live."""
    scene.push("v2")
    scene.look()
    run = scene.queue(scene.asked())
    scene.push("v1")
    scene.look()

    assert scene.clone.execute(run).success
    assert scene.settle() == ["v1"] and scene.serving == "v1"


def readme_only(scene: Scene) -> None:
    """A commit that changes no file of the engine is shown by its name; the release, and the moment of its admission, stay."""
    before = scene.clone.decisions().admitted
    scene.push("v1+readme")

    assert scene.settle() == [] and scene.starts == []
    after = scene.clone.decisions().admitted
    assert before and after and (after.revision, after.at) == ("v1+readme", before.at)


def outside_hours(scene: Scene) -> None:
    """Pushed in the night it waits, with its reason and its time; at nine it goes live, though the source has not moved since."""
    scene.declare(updates={"hours": "Mon-Fri 09:00-17:00 Europe/Berlin"})
    scene.passes(8 * HOUR)
    scene.push("v2")
    assert scene.settle() == [] and "next at Tue 2026-01-06 09:00 Europe/Berlin" in scene.waits
    scene.passes(13 * HOUR - 60)
    assert scene.settle() == [] and scene.serving == "v1"
    scene.passes(61)

    assert scene.settle() == ["v2"] and scene.serving == "v2"


def only_the_newest_of_the_night(scene: Scene) -> None:
    """Three are pushed outside the hours: in the morning there is one rollout, of the last."""
    scene.declare(updates={"hours": "Mon-Fri 09:00-17:00 Europe/Berlin"})
    scene.passes(8 * HOUR)
    for newer in ("v2", "v3", "v4"):
        scene.push(newer)
        assert scene.settle() == []
    scene.passes(14 * HOUR)

    assert scene.settle() == ["v4"] and scene.starts == ["v4"]


def soon_after_a_rollout(scene: Scene) -> None:
    """It waits until the pause is over, counted from when the last one went live; then it comes by itself."""
    scene.declare(updates={"min_interval": "2h"})
    scene.passes(2 * HOUR)
    scene.push("v2")
    assert scene.settle() == ["v2"]
    scene.push("v3")
    scene.passes(2 * HOUR - 60)
    assert scene.settle() == [] and "less than 2 h ago" in scene.waits
    scene.passes(61)

    assert scene.settle() == ["v3"] and scene.serving == "v3"


def source_away(scene: Scene) -> None:
    """What serves is not touched and is healed all the same; what is new goes live when the source answers again."""
    scene.world.source_error = Transient("the Hub was not reached")
    scene.push("v2")
    assert scene.settle() == []
    seen = scene.clone.decisions().seen
    assert seen and not seen.reachable
    scene.world.kill(f"demo-{scene.clone.live()}")
    assert scene.settle() == ["v1"] and scene.serving == "v1"
    scene.world.source_error = None

    assert scene.settle() == ["v2"] and scene.serving == "v2"


def source_away_at_a_rollout(scene: Scene) -> None:
    """What was admitted is rolled out: the loop asks no source."""
    scene.push("v2")
    scene.look()
    scene.world.source_error = Transient("the Hub was not reached")

    assert scene.settle() == ["v2"] and scene.serving == "v2"


def its_page_is_up_to_date(scene: Scene) -> None:
    """The observation on the model's page has the data version of what was admitted, so what comes after it is out of date."""
    scene.push("v2")
    scene.settle()

    (event,) = scene.clone.instance.fetch_observations(dg.AssetKey(["demo", "model_revision"]), limit=1).records
    live = scene.clone.record(scene.clone.live() or "").release
    assert event.asset_observation and (event.asset_observation.tags or {})["dagster/data_version"] == live.manifest.digest


ROWS = (
    Row("a revision is pushed", (*admit("a new revision"), *decide("edited", "all is well")), pushed, real="pushed"),
    Row("a revision during a rollout", (*decide("edited, a run is under way", "edited"), *admit("a new revision")), during_a_rollout, real="during_a_rollout"),
    Row("two revisions in one tick", admit("two between two looks: only the last is seen"), two_in_one_tick),
    Row("of several admitted revisions only the newest is rolled out", (*admit("a new revision"), *decide("edited, a run is under way")), only_the_newest),
    Row("a bad revision, then a good one", (*decide("edited, refused before"), *admit("a bad one, then a good one")), bad_then_good, real="bad_then_good"),
    Row("a bad one and a good one during a rollout", admit("two between two looks: only the last is seen"), bad_while_another_rolls_out),
    Row("the bad revision again", admit("the bad one again"), bad_again, real="bad_again"),
    Row("the same sha again", (*admit("the same one again"), *decide("all is well")), same_again, real="same_again"),
    Row("the branch is forced back to an older sha", admit("the branch was forced back"), forced_back, real="forced_back"),
    Row("the branch goes on and back within one rollout", (*admit("the branch was forced back"), *decide("edited, a run is under way")), there_and_back_within_a_rollout),
    Row("a commit that changes the README alone", admit("the same one again"), readme_only, real="readme_only"),
    Row("a revision outside the hours", admit("outside the hours", "inside the hours"), outside_hours),
    Row("several revisions outside the hours", admit("outside the hours", "inside the hours"), only_the_newest_of_the_night),
    Row("a revision soon after a rollout", admit("soon after the last rollout", "long after the last rollout"), soon_after_a_rollout),
    Row("the source is unreachable", decide("nothing can be told of the source", "the engine died"), source_away),
    Row("the source is unreachable once the revision was admitted", decide("edited"), source_away_at_a_rollout),
    Row("what Dagster shows of a pushed revision", "an observation is no verdict", its_page_is_up_to_date),
    Row("a revision while the model is asleep", "nothing sleeps in this version: no fact says so", "Nothing sleeps in this version; the row is played once something does."),
)
