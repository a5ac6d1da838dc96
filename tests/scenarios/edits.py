"""What is edited: the declaration, the lock, the code location, the file itself."""

from __future__ import annotations

from infra.errors import Transient
from tests.scenarios.row import Row, admit, decide
from tests.scenarios.scene import Scene

SHORTER = {"max_model_len": 256, "max_num_seqs": 4, "dtype": "bfloat16"}


def spec_edit(scene: Scene) -> None:
    """The same weights with the new engine are another release, which goes live by itself."""
    before = scene.clone.live()
    scene.declare(engine=SHORTER)

    assert scene.settle() == ["v1"] and scene.clone.live() != before
    assert scene.clone.record(scene.clone.live() or "").release.spec.engine.max_model_len == 256


def spec_edit_during_a_rollout(scene: Scene) -> None:
    """The rollout ends with the release that its verdict named; the edit is the next one."""
    scene.push("v2")
    scene.look()
    run = scene.queue(scene.asked())
    scene.declare(engine=SHORTER)

    assert scene.clone.execute(run).success
    assert scene.clone.record(scene.clone.live() or "").release.spec.engine.max_model_len == 512
    assert scene.settle() == ["v2"]
    assert scene.clone.record(scene.clone.live() or "").release.spec.engine.max_model_len == 256


def edit_and_back(scene: Scene) -> None:
    """Edited and edited back before anybody looked: nothing is to be done."""
    scene.declare(engine=SHORTER)
    scene.declare()

    assert scene.settle() == [] and scene.starts == []


def lock_edit(scene: Scene) -> None:
    """Another lock is another image and so another release, of the same weights."""
    scene.world.image = "local:" + "1" * 16

    assert scene.settle() == ["v1"] and scene.clone.record(scene.clone.live() or "").image == scene.world.image


def same_image_again(scene: Scene) -> None:
    """Removed and built again, the image has the same digest: nothing restarts."""
    scene.world.images.clear()
    assert scene.settle() == []
    assert scene.up().success

    assert scene.world.images == {scene.world.image} and scene.starts == [] and scene.settle() == []


def several_changes_at_once(scene: Scene) -> None:
    """Revision, engine and image in one release, by one run."""
    scene.push("v2")
    scene.declare(engine=SHORTER)
    scene.world.image = "local:" + "1" * 16

    assert scene.settle() == ["v2"] and scene.starts == ["v2"]
    record = scene.clone.record(scene.clone.live() or "")
    assert (record.revision, record.image, record.release.spec.engine.max_model_len) == ("v2", scene.world.image, 256)


def edit_before_a_look(scene: Scene) -> None:
    """The loop is the first that sees the edit, and nobody has looked at the source yet: it looks, and both are one release."""
    scene.push("v2")
    scene.declare(engine=SHORTER)
    run = scene.queue(scene.asked())

    assert scene.clone.execute(run).success and scene.starts == ["v2"] and scene.settle() == []
    assert scene.clone.record(scene.clone.live() or "").release.spec.engine.max_model_len == 256


def edit_before_a_look_at_nothing(scene: Scene) -> None:
    """The source does not answer when the loop looks before a rollout: the edit is rolled out with what was admitted."""
    scene.world.source_error = Transient("no network")
    scene.declare(engine=SHORTER)

    assert scene.clone.execute(scene.queue(scene.asked())).success and scene.serving == "v1"
    assert scene.clone.record(scene.clone.live() or "").release.spec.engine.max_model_len == 256


def several_changes_while_one_waits(scene: Scene) -> None:
    """Updates are manual: the edit goes live with the admitted weights, and what is new at the source waits on."""
    scene.declare(updates={"policy": "manual"}, engine=SHORTER)
    scene.push("v2")

    assert scene.settle() == ["v1"] and "manual" in scene.waits


def bad_edit_and_correction(scene: Scene) -> None:
    """A release that was refused is left alone; the corrected declaration is another one."""
    live = scene.clone.live()
    scene.declare(engine=SHORTER, acceptance={"golden": [{"prompt": "ping", "answer": "something else"}]})
    assert scene.settle() == ["v1"] and scene.clone.live() == live and scene.settle() == []
    scene.declare(engine={**SHORTER, "max_model_len": 128})

    assert scene.settle() == ["v1"] and scene.clone.live() != live


def location_reloaded(scene: Scene) -> None:
    """Between the look and the loop, and between the verdict and its run: nothing is lost, nothing comes twice."""
    scene.push("v2")
    scene.look()
    scene.clone.reload()
    request = scene.asked()
    scene.clone.reload()

    assert scene.obey(request).success and scene.serving == "v2"
    scene.clone.reload()
    assert scene.settle() == [] and scene.starts == ["v2"]


def yaml_deleted(scene: Scene) -> None:
    """It serves on and follows nothing; declared again, it goes on with the newest."""
    scene.clone.forget("demo")
    scene.push("v2")
    assert scene.settle() == [] and scene.serving == "v1"
    scene.declare()

    assert scene.settle() == ["v2"] and scene.serving == "v2"


def yaml_deleted_during_a_rollout(scene: Scene) -> None:
    """A run that waits in the queue can not begin without its stages; what serves is not touched."""
    scene.push("v2")
    scene.look()
    scene.asked()
    scene.clone.forget("demo")

    assert scene.settle() == [] and scene.serving == "v1" and scene.starts == []


def another_address(scene: Scene) -> None:
    """Another repository in the YAML is looked at afresh, and what it holds goes live."""
    scene.push("v2")
    scene.declare(weights="file://elsewhere")

    assert scene.settle() == ["v2"]
    assert scene.clone.record(scene.clone.live() or "").source == "file://elsewhere"


ROWS = (
    Row("a spec edit", decide("edited"), spec_edit),
    Row("a spec edit during a rollout", decide("edited, a run is under way", "edited"), spec_edit_during_a_rollout),
    Row("a spec edit that is taken back", decide("all is well"), edit_and_back),
    Row("a refused spec edit, then its correction", decide("edited, refused before", "edited"), bad_edit_and_correction),
    Row("a lock edit", decide("edited"), lock_edit),
    Row("the image is rebuilt to the same digest", decide("all is well"), same_image_again),
    Row("revision, spec and image at once", (*admit("a new revision"), *decide("edited")), several_changes_at_once),
    Row("a spec edit, and a revision that nobody has looked at yet", (*admit("a new revision"), *decide("edited")), edit_before_a_look),
    Row("a spec edit while the source is unreachable", decide("edited"), edit_before_a_look_at_nothing),
    Row("a spec edit while the revision waits for a person", (*admit("updates are manual"), *decide("edited")), several_changes_while_one_waits),
    Row("the code location is reloaded", decide("edited", "all is well"), location_reloaded),
    Row("the model is deleted from YAML", decide("no YAML any more, it died"), yaml_deleted),
    Row("the model is deleted from YAML before its run begins", "nobody is asked about what no YAML declares", yaml_deleted_during_a_rollout),
    Row("another address in the YAML", admit("a new revision"), another_address),
)
