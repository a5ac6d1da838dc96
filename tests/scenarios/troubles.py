"""What goes wrong meanwhile: the daemon, Dagster's storage, a run, a start, the clock, another Dagster."""

from __future__ import annotations

from infra.errors import Transient
from tests.scenarios.edits import SHORTER
from tests.scenarios.row import Row, admit, decide
from tests.scenarios.scene import DAY, HERE, HOUR, Scene


def daemon_down_for_an_hour(scene: Scene) -> None:
    """Nobody looked while three were pushed: the first looks afterwards roll out the last, once."""
    for newer in ("v2", "v3", "v4"):
        scene.push(newer)
        scene.passes(HOUR / 3)

    assert scene.settle() == ["v4"] and scene.serving == "v4" and scene.starts == ["v4"]


def daemon_down_between_look_and_loop(scene: Scene) -> None:
    """It was admitted an hour ago, and something newer came meanwhile: only that one is started."""
    scene.push("v2")
    scene.look()
    scene.passes(HOUR)
    scene.push("v3")

    assert scene.settle() == ["v3"] and scene.starts == ["v3"]


def storage_lost(scene: Scene) -> None:
    """Records and platform know it all: nothing restarts, the counters go on, and the next revision comes once."""
    scene.push("v2")
    scene.settle()
    scene.forget()
    assert scene.settle() == [] and scene.serving == "v2"
    scene.push("v3")
    scene.look()
    scene.forget()

    assert scene.settle() == ["v3"] and scene.starts == ["v2", "v3"] and scene.settle() == []


def storage_lost_during_a_rollout(scene: Scene) -> None:
    """The run and its process are gone, and nobody can tell: for a minute it may still come, then the rollout begins again."""
    scene.push("v2")
    scene.look()
    scene.crash(scene.queue(scene.asked()))
    scene.forget()
    assert scene.settle() == [] and "a run was asked for" in scene.said
    scene.passes(61)

    assert scene.settle() == ["v2"] and scene.serving == "v2"


def run_crashed(scene: Scene) -> None:
    """Its process is gone: the next look ends the run, the try has an end in the history, and another one brings it up."""
    scene.push("v2")
    scene.look()
    scene.crash(scene.queue(scene.asked()))

    assert scene.settle() == ["v2"] and scene.serving == "v2"
    tries = scene.clone.record(scene.clone.live() or "").attempts
    assert [attempt.result for attempt in tries] == ["failed", "accepted"]


def run_crashed_and_taken_back(scene: Scene) -> None:
    """Its candidate is up when the run is killed, and then the edit is taken back: nobody is to try it again, and it does not run on for ever."""
    live = scene.clone.live()
    scene.declare(engine=SHORTER)
    scene.crash(scene.queue(scene.asked()))
    left = set(scene.world.running) - {f"demo-{live}"}
    scene.declare()
    scene.settle()

    assert len(left) == 1 and list(scene.world.running) == [f"demo-{live}"] and scene.clone.live() == live and scene.settle() == []


def fails_once(scene: Scene) -> None:
    """It is tried again after a minute, and not before; then it is live."""
    scene.push("v2")
    scene.world.start_errors = [Transient("no network")]
    assert scene.settle() == ["v2"] and scene.serving == "v1"
    scene.passes(50)
    assert scene.settle() == [] and "next try in" in scene.said
    scene.passes(11)

    assert scene.settle() == ["v2"] and scene.serving == "v2"


def fails_once_and_something_newer_comes(scene: Scene) -> None:
    """The newer one waits for nobody's pause."""
    scene.push("v2")
    scene.world.start_errors = [Transient("no network")]
    scene.settle()
    scene.push("v3")

    assert scene.settle() == ["v3"] and scene.serving == "v3" and scene.starts == ["v3"]


def fails_thrice(scene: Scene) -> None:
    """Given up with its reason: no fourth try on any later day; the next revision comes."""
    scene.push("v2")
    scene.world.start_errors = [Transient("no network") for _ in range(3)]
    for _ in range(3):
        assert scene.settle() == ["v2"]
        scene.passes(HOUR)
    assert scene.settle() == [] and "failed 3 times" in scene.said
    scene.passes(DAY)
    assert scene.settle() == [] and scene.serving == "v1"
    scene.push("v3")

    assert scene.settle() == ["v3"] and scene.serving == "v3" and scene.starts == ["v3"]


def never_ready(scene: Scene) -> None:
    """Each start ends at its deadline; after the third it is given up, and what serves was never touched."""
    scene.push("v2")
    scene.world.never_ready = True
    for _ in range(3):
        assert scene.settle() == ["v2"] and scene.serving == "v1"
        scene.passes(HOUR)
    scene.world.never_ready = False

    assert scene.settle() == [] and scene.starts == [] and "failed 3 times" in scene.said


def two_dagsters(scene: Scene) -> None:
    """Both look, one acts. When it is silent the other one takes over, and rolls out only what is not live yet."""
    scene.push("v2")
    scene.look()
    run = scene.queue(scene.asked())
    scene.elsewhere("there:/clone")
    assert f"{HERE} acts on local" in scene.look()
    assert scene.ask() is None and f"{HERE} acts on local" in scene.said
    assert scene.clone.execute(run).success
    scene.push("v3")
    scene.look()
    assert scene.ask() is None and f"{HERE} acts on local" in scene.said
    scene.passes(100)
    assert scene.settle() == ["v3"] and scene.starts == ["v2", "v3"]
    scene.elsewhere(HERE)
    scene.push("v4")
    scene.look()

    assert scene.ask() is None and "there:/clone acts on local" in scene.said


def clock_forward(scene: Scene) -> None:
    """Set forward by a year in the middle of a pause after a failure: it is over, and nothing else happens."""
    scene.push("v2")
    scene.world.start_errors = [Transient("no network")]
    scene.settle()
    scene.passes(365 * DAY)

    assert scene.settle() == ["v2"] and scene.serving == "v2" and scene.settle() == []


def clock_back(scene: Scene) -> None:
    """Set back by a year after a failure and within the pause between two rollouts: nobody waits a year."""
    scene.declare(updates={"min_interval": "2h"})
    scene.passes(3 * HOUR)
    scene.push("v2")
    scene.world.start_errors = [Transient("no network")]
    scene.settle()
    scene.passes(-365 * DAY)
    assert scene.settle() == ["v2"] and scene.serving == "v2"
    scene.passes(-365 * DAY)
    scene.push("v3")

    assert scene.settle() == ["v3"] and scene.serving == "v3"


def dies_while_one_waits(scene: Scene) -> None:
    """What is live is healed as it was; what waits for its hour waits on."""
    scene.declare(updates={"hours": "22:00-23:00 UTC"})
    live = scene.clone.live()
    scene.push("v2")
    scene.look()
    scene.world.kill(f"demo-{live}")

    assert scene.settle() == ["v1"] and scene.clone.live() == live and "outside" in scene.waits


def dies_when_one_is_admitted(scene: Scene) -> None:
    """The new one is brought up, and nobody heals what it replaces."""
    scene.push("v2")
    scene.look()
    scene.world.kill(f"demo-{scene.clone.live()}")

    assert scene.settle() == ["v2"] and scene.serving == "v2" and scene.starts == ["v2"]


def dies_when_the_next_one_is_bad(scene: Scene) -> None:
    """The bad one is refused, then what served is healed: nobody is left without an answer for it."""
    scene.push("bad", bad=True)
    scene.look()
    scene.world.kill(f"demo-{scene.clone.live()}")

    assert scene.settle() == ["bad", "v1"] and scene.serving == "v1"


def no_room(scene: Scene) -> None:
    """Without room for two a bad one takes the outage and is refused; the loop brings back what served."""
    scene.world.fits = False
    scene.push("bad", bad=True)

    assert scene.settle() == ["bad", "v1"] and scene.serving == "v1" and scene.settle() == []


ROWS = (
    Row("the daemon was down for an hour", (*admit("two between two looks: only the last is seen"), *decide("edited")), daemon_down_for_an_hour, real="daemon_down"),
    Row("the daemon was down between the look and the loop", decide("edited"), daemon_down_between_look_and_loop),
    Row("Dagster's storage is lost", decide("all is well", "edited"), storage_lost),
    Row("Dagster's storage is lost during a rollout", decide("edited"), storage_lost_during_a_rollout),
    Row("a run crashes", decide("edited"), run_crashed),
    Row("a run crashes, and the edit is taken back", decide("all is well, and what a killed run left runs on"), run_crashed_and_taken_back),
    Row("a transient failure", decide("edited, failed a moment ago", "edited, failed a minute ago"), fails_once),
    Row("a transient failure, and something newer", (*decide("edited, failed a moment ago"), *admit("a new revision")), fails_once_and_something_newer_comes),
    Row("a transient failure thrice", (*decide("edited, failed three times"), *admit("it failed for reasons that might pass, too often")), fails_thrice),
    Row("a candidate is never ready", decide("edited, failed three times"), never_ready),
    Row("two Dagsters", "who acts is decided before anybody is asked: infra/loop.py", two_dagsters),
    Row("the clock is set forward", admit("the clock was set forward since"), clock_forward),
    Row("the clock is set back", admit("the clock was set back since the last rollout"), clock_back),
    Row("the engine dies while a revision waits", (*decide("the engine died"), *admit("outside the hours")), dies_while_one_waits),
    Row("the engine dies when a revision is admitted", decide("edited while the live one is dead"), dies_when_one_is_admitted),
    Row("the engine dies when a bad revision is admitted", decide("edited while the live one is dead", "edited, refused before, the live one died"), dies_when_the_next_one_is_bad),
    Row("a bad revision without room for two", decide("edited, refused before, the live one died"), no_room),
)
