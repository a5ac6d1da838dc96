"""asset://: another asset makes the weights, in any code location; what it wrote last is seen, admitted, rolled out, and kept for a rollback."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

import infra.local
from assets.upstream import SCHEME, givens
from infra import settings
from infra.local.model_weights import LocalWeights
from infra.waiting import Progress
from infra.weights import Access, folder, look, parse
from llm_pipeline import components, revisions
from tests.assets.clone import Clone
from tests.assets.test_revisions import closed_now
from tests.doubles.model import model_files

KEY = dg.AssetKey(["team", "tuned"])
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class Team:
    """The code location of others, on the same instance: one asset that writes weights."""

    def __init__(self, clone: Clone) -> None:
        self.clone, self.runs = clone, list[str]()

    def write(self, words: int, name: str | None = None) -> Path:
        """A model in a folder: a new one, or one that is written over. Another number of rows is another model."""
        path = self.clone.root / "team" / (name or str(words))
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        for file, content in model_files(rows=words).items():
            if "/" not in file:
                (path / file).write_bytes(content)
        return path

    def materialise(self, **metadata: Any) -> str:
        """One run of the asset. Its id."""

        @dg.asset(key=KEY)
        def tuned() -> dg.MaterializeResult[Any]:
            return dg.MaterializeResult(metadata=metadata)

        done = dg.materialize([tuned], instance=self.clone.instance, run_config=QUIET)
        self.runs.append(done.run_id)
        return done.run_id

    def tune(self, words: int, name: str | None = None) -> Path:
        """Writes and tells."""
        path = self.write(words, name)
        self.materialise(path=str(path))
        return path


def digest(path: Path) -> str:
    return look(parse(f"file://{path}", Path("/")), Access(settle_seconds=0), Progress(60)).manifest.digest


@pytest.fixture
def team(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> Team:
    """The model follows the asset; its files go into a real store."""
    part = LocalWeights(settings.load(home=clone.root / "home", cache=clone.root / "cache"))
    part._access = replace(part._access, settle_seconds=0.0)
    platform = replace(clone.world.platform, model_weights=part)
    monkeypatch.setattr(infra.local, "platform", lambda *_: platform)
    clone.declare(weights=f"{SCHEME}team/tuned")
    return Team(clone)


def served(clone: Clone) -> str:
    """The revision that serves."""
    return clone.record(clone.live() or "").revision


def problem(clone: Clone) -> str:
    """What `status` says of the source."""
    found = clone.decisions().seen
    assert found and not found.reachable and found.problem and found.problem.why and found.problem.next
    return found.problem.problem().text()


def test_what_an_asset_writes_goes_live_by_itself(clone: Clone, team: Team) -> None:
    """Materialised in one location: a glance sees it, policy admits it, the loop rolls it out."""
    first = team.tune(10)
    assert clone.up().success and served(clone) == digest(first)
    clone.looks()
    second = team.tune(20)

    seen = clone.looks()
    (request,) = clone.tick().run_requests or ()

    assert "(weights, config) is admitted: the newest at the source" in str(seen.skip_reason)
    assert clone.obey(request).success and served(clone) == digest(second)
    assert clone.record(clone.live() or "").source == f"file://{second}"
    assert not clone.looks().asset_events and not clone.tick().run_requests


def test_the_revision_leads_to_the_run_that_made_it(clone: Clone, team: Team) -> None:
    """Who reads the model's page finds the fine-tune with one click."""
    team.tune(10)
    clone.up()
    team.tune(20)

    (event,) = clone.looks().asset_events

    assert str(event.metadata["link"].value).endswith(f"/runs/{team.runs[-1]}")


def test_a_rollback_needs_nothing_of_the_asset(clone: Clone, team: Team) -> None:
    """It wrote over its folder and then lost it: the earlier weights lie in the store."""
    first = digest(team.tune(10, "same"))
    clone.up()
    old = clone.live()
    path = team.tune(20, "same")
    clone.looks()
    for request in clone.tick().run_requests or ():
        clone.obey(request)
    assert served(clone) == digest(path) != first
    shutil.rmtree(path)

    ran = clone.rollback(old or "")

    assert ran.success and clone.live() == old and served(clone) == first and ran.changed["model_weights"] is False
    clone.looks()
    assert not clone.tick().run_requests and "nothing is at" in problem(clone)


def test_a_folder_that_is_written_over_is_seen_without_a_new_materialisation(clone: Clone, team: Team) -> None:
    """As with file://: its times and sizes moved."""
    team.tune(10, "same")
    clone.up()
    clone.looks()
    path = team.write(20, "same")

    clone.looks()

    found = clone.decisions().admitted
    assert found and found.revision == digest(path)


def test_the_same_weights_again_roll_out_nothing(clone: Clone, team: Team) -> None:
    """Another run, another folder, the same bytes: the release is what it was."""
    team.tune(10)
    clone.up()
    live, path = clone.live(), team.tune(10, "copy")

    clone.looks()

    found = clone.decisions().seen
    assert not clone.tick().run_requests and clone.live() == live and found and found.source == f"file://{path}" and found.run == team.runs[-1]


def test_where_nothing_was_materialised_no_file_is_read(clone: Clone, team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """This is what happens every minute for years: one question to the storage, one stat per file, no record written."""
    team.tune(10)
    clone.up()
    clone.looks()
    monkeypatch.setattr(folder.Folder, "look", None)
    before = clone.world.records.list("demo")

    assert not clone.looks().asset_events and clone.world.records.list("demo") == before


def test_many_models_are_one_question_to_the_storage(clone: Clone, team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many models follow assets, a tick asks once."""
    path = team.tune(10)
    for number in range(5):
        clone.declare(f"other_{number}", weights=f"{SCHEME}team/tuned")
    asked: list[int] = []
    real = clone.instance.get_asset_records
    monkeypatch.setattr(clone.instance, "get_asset_records", lambda keys: asked.append(len(keys)) or real(keys))
    everything = components.declared()

    found = givens([components.model_stage(one, everything) for one in everything.models.values()], lambda: clone.instance)

    assert asked == [1] and {one.spec.weights for one in found.values()} == {f"file://{path}"}  # type: ignore[union-attr]


def test_a_declaration_without_an_asset_asks_no_dagster(clone: Clone) -> None:
    """`generate` of a plain folder opens no storage."""
    everything = components.declared()

    (found,) = givens([components.model_stage(everything.models["demo"], everything)], lambda: pytest.fail("it was asked")).values()

    assert found.spec is everything.models["demo"].spec  # type: ignore[union-attr]


@pytest.mark.parametrize(("policy", "admitted"), [({"policy": "manual"}, False), ({"hours": "closed"}, False), ({}, True)])
def test_the_next_materialisation_is_no_new_source(clone: Clone, team: Team, policy: dict[str, str], admitted: bool) -> None:
    """It lies in another folder, and yet it is held as any new revision is, for a person's `up` too."""
    clone.declare(weights=f"{SCHEME}team/tuned", updates={**policy, **({"hours": closed_now()} if "hours" in policy else {})})
    first = digest(team.tune(10))
    clone.up()
    team.tune(20)

    clone.looks()
    if "policy" in policy:
        clone.up()

    assert (served(clone) == first) and bool(clone.tick().run_requests) is admitted


def test_another_asset_is_a_new_source(clone: Clone, team: Team) -> None:
    """Where updates are manual, the first of it is taken with the `up` that names no revision: the line was edited by a person."""
    clone.declare(updates={"policy": "manual"}, weights=f"{SCHEME}team/tuned")
    team.tune(10)
    clone.up()
    path = team.write(20)
    clone.instance.report_runless_asset_event(dg.AssetMaterialization(["team", "merged"], metadata={"path": str(path)}))
    clone.declare(updates={"policy": "manual"}, weights=f"{SCHEME}team/merged")

    assert clone.up().success and served(clone) == digest(path)


def test_it_stands_upstream_in_the_graph(clone: Clone, team: Team) -> None:
    """A person sees where the weights come from."""
    graph = clone.defs.resolve_asset_graph()

    assert KEY in graph.get(dg.AssetKey(["demo", "model_weights"])).parent_keys


def test_a_digest_that_fits_is_fine(clone: Clone, team: Team) -> None:
    """The manifest's hash, as this product computes it."""
    path = team.write(10)
    team.materialise(path=str(path), digest=digest(path))

    assert clone.up().success and served(clone) == digest(path)


def test_a_digest_that_disagrees_with_the_content_is_refused_with_both_values(clone: Clone, team: Team) -> None:
    """Somebody wrote over what the asset promised: nothing of it is admitted, what serves stays, and `status` says so."""
    good = digest(team.tune(10))
    clone.up()
    path = team.write(20)
    team.materialise(path=str(path), digest="0" * 64)

    clone.looks()
    ran = clone.up()

    assert "0" * 64 in problem(clone) and digest(path) in problem(clone)
    assert "promised other weights" in ran.problem.what and "0" * 64 in (ran.problem.why or "") and served(clone) == good
    assert clone.decisions().admitted and clone.decisions().admitted.revision == good  # type: ignore[union-attr]


def test_a_promise_is_kept_at_every_look(clone: Clone, team: Team) -> None:
    """Right when it was made, written over afterwards: the promise was about something else."""
    path = team.write(10)
    team.materialise(path=str(path), digest=digest(path))
    clone.up()
    clone.looks()
    team.write(20, "10")

    clone.looks()

    assert "promised other weights" in problem(clone)


def test_the_same_folder_told_anew_is_looked_at_anew(clone: Clone, team: Team) -> None:
    """No file moved; what the new materialisation promises of them did."""
    path = team.tune(10)
    clone.up()
    clone.looks()
    team.materialise(path=str(path), digest="0" * 64)

    clone.looks()

    assert "promised other weights" in problem(clone)


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "no path": ({"rows": 3}, "does not say where its weights are", "it has rows"),
    "no metadata": ({}, "does not say where its weights are", "it has nothing"),
    "a number": ({"path": 3}, "does not say where its weights are", "it has path"),
    "relative": ({"path": "out/run1"}, "means another one for everyone", "does not begin with /"),
    "gone": ({"path": "/nowhere/at/all"}, "are not there", "nothing is at /nowhere/at/all"),
    "another asset": ({"path": "asset://team/tuned"}, "names another asset", "asset://team/tuned"),
    "no address": ({"path": "ftp://host/x"}, "is not an address of weights", "ftp"),
    "digest": ({"path": "/tmp", "digest": 7}, "has a digest that is no text", "7"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_materialisation_that_can_not_be_followed_is_told(clone: Clone, team: Team, wrong: str) -> None:
    """At `up` with what to do; and in `status`, where what serves stays."""
    metadata, what, why = WRONG[wrong]
    team.tune(10)
    clone.up()
    live = clone.live()
    team.materialise(**metadata)

    clone.looks()
    ran = clone.up()

    assert what in ran.problem.what and why in (ran.problem.why or "") and ran.problem.next
    assert what in problem(clone) and clone.live() == live and not clone.tick().run_requests


def test_an_asset_that_was_never_materialised_is_named_with_the_nearest_key(clone: Clone, team: Team) -> None:
    """A typo in the key looks the same: both are told."""
    clone.declare(weights=f"{SCHEME}team/tunde")
    team.tune(10)

    ran = clone.up()

    assert "asset team/tunde" in ran.problem.what and "never materialised" in ran.problem.what
    assert ran.problem.next == "materialise team/tunde in Dagster, then the same command again; or did you mean asset://team/tuned ?"


def test_one_that_only_failed_was_never_materialised(clone: Clone, team: Team) -> None:
    """Dagster knows its key, and nothing that it made."""

    @dg.asset(key=KEY)
    def tuned() -> None:
        raise dg.Failure("out of memory", allow_retries=False)

    dg.materialize([tuned], instance=clone.instance, run_config=QUIET, raise_on_error=False)

    assert "never materialised" in clone.up().problem.what


def test_a_folder_that_is_still_being_written_is_waited_for_and_not_taken(clone: Clone, team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was admitted stays; the next look tells."""
    good = digest(team.tune(10))
    clone.up()
    path, ticks = team.tune(20), iter(range(10_000))
    scan = folder.Folder._scan

    def moving(self: folder.Folder) -> Any:
        (path / "config.json").touch()
        (path / f"part-{next(ticks)}").touch()
        return scan(self)

    with monkeypatch.context() as patch:
        patch.setattr(folder.Folder, "_scan", moving)
        clone.looks()
        assert "does not come to rest" in problem(clone)
        assert clone.up().success and served(clone) == good

    clone.looks()
    assert clone.decisions().admitted.revision == digest(path)  # type: ignore[union-attr]


def test_a_storage_that_does_not_answer_keeps_no_other_model_waiting(clone: Clone, team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said of the one that follows an asset; never taken for unchanged."""
    team.tune(10)
    clone.up()
    clone.looks()
    clone.declare("plain", weights="file://weights")
    clone.decisions("plain").want(True, "ann")
    with monkeypatch.context() as patch:
        patch.setattr(clone.instance, "get_asset_records", lambda _: 1 / 0)
        said = str(clone.looks().skip_reason)

    assert "demo: not reached: Dagster's storage does not answer" in said and "plain: not reached: file://weights is not a folder" in said
    assert "ZeroDivisionError" in problem(clone)
    clone.looks()
    assert clone.decisions().seen.reachable  # type: ignore[union-attr]


def test_notify_goes_the_same_way(clone: Clone, team: Team) -> None:
    """CI after a fine-tune: what it wrote is admitted now."""
    team.tune(10)
    clone.up()
    path = team.tune(20)
    everything = components.declared()

    news = revisions.look_at(components.model_stage(everything.models["demo"], everything), lambda: clone.instance, 60)

    assert news.verdict and news.verdict.admitted and news.sighting.revision == digest(path)


def test_observing_the_revision_by_hand_goes_the_same_way(clone: Clone, team: Team) -> None:
    """The button Observe of the page."""
    path = team.tune(10)
    found = clone.defs.resolve_asset_graph().get(dg.AssetKey(["demo", "model_revision"])).assets_def

    dg.Definitions([found]).resolve_implicit_global_asset_job_def().execute_in_process(instance=clone.instance, run_config=QUIET)

    (event,) = clone.instance.fetch_observations(dg.AssetKey(["demo", "model_revision"]), limit=1).records
    assert event.asset_observation and event.asset_observation.metadata["revision"].value == digest(path)


def test_a_tick_over_fifty_models_that_follow_assets_is_cheap(clone: Clone, team: Team) -> None:
    """It asks every source, reads no byte and writes nothing; its processor time is printed."""
    for number in range(50):
        path = team.write(10 + number, f"many{number}")
        clone.instance.report_runless_asset_event(dg.AssetMaterialization(["many", str(number)], metadata={"path": str(path)}))
        clone.declare(f"m{number}", weights=f"{SCHEME}many/{number}")
        clone.decisions(f"m{number}").want(True, "ann")
    for _ in range(2):
        clone.looks()
    began = time.process_time()

    said = clone.looks()

    spent = time.process_time() - began
    print(f"a tick over 50: {spent:.3f} s of processor")
    assert "nothing new at the sources of 50 models" in str(said.skip_reason)
