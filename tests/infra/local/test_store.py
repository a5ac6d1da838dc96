"""The store of weights and images of this machine: seen one by one, removed one by one; and what several homes share of it.

On a cluster nothing is shared: each claim is one revision of one declaration. The contract itself: tests/platform/test_inventory.py.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from assets.collect import collect
from assets.step import Cluster, Run
from assets.teardown import TeardownConfig, leftovers, take_cluster_down
from infra.decisions import Decisions
from infra.documents import Live
from infra.platform import Platform, Release
from infra.states import Held, Route
from infra.waiting import Progress
from infra.weights import sweep
from tests.platform.conftest import LocalStand

BOB = Run("run-down", 2.0, "bob", "down", "teardown", None)


def serve(platform: Platform, release: Release) -> None:
    """The release is wanted, accepted and live, by record."""
    decisions = Decisions(platform.records, release.model)
    decisions.want(True, "ann")
    decisions.remember(release)
    decisions.begin(release.id, f"run-{release.id}", "ann", "up")
    decisions.finish(release.id, f"run-{release.id}", "accepted")
    decisions.write("live", Live(release=release.id, since=1.0, by="ann"))
    platform.image.apply(release, Progress(250))


def parts(platform: Platform) -> list[tuple[str, str]]:
    return [(held.part, held.id) for held in platform.inventory.held()]


def clear(platform: Platform) -> list[str]:
    """A collection; what it removed."""
    report = collect(platform, {}, lambda _: False, Progress(250))
    assert not report.postponed
    return [f"{row['part']} {row['why']}" for row in report.removed]


def test_everything_in_the_store_is_seen_with_its_bytes_and_can_be_removed(stand: LocalStand, platform: Platform) -> None:
    """Files that two revisions share are there until the second one goes."""
    one, two = stand.release(), stand.release(weights="more", seed=1)
    seen = {held.id: held for held in platform.inventory.held()}
    first, second = seen[one.manifest.digest[:16]], seen[two.manifest.digest[:16]]

    freed = [platform.inventory.discard(first, Progress(250)), platform.inventory.discard(first, Progress(250))]
    whole = platform.model_weights.observe(two)
    platform.inventory.discard(second, Progress(250))

    shared = set(first.blobs) & set(second.blobs)
    assert shared and first.bytes == one.manifest.size and first.what.startswith("file://")
    assert freed == [sum(size for name, size in first.blobs.items() if name not in shared), 0]
    assert whole and [part for part, _ in parts(platform)] == ["image"]
    assert not list((stand.settings.cache_dir / "weights" / "blobs").iterdir())


def test_an_image_goes_whole_or_half_built(stand: LocalStand, platform: Platform) -> None:
    """What an interrupted build left is seen only when nobody builds."""
    left = stand.settings.cache_dir / "images" / f".building-{'a' * 16}-1"
    left.mkdir(parents=True)
    (left / "file").write_text("x" * 9000)

    (whole, half) = platform.inventory.held()
    freed = [platform.inventory.discard(held, Progress(250)) for held in (half, whole, whole)]

    assert (whole.part, whole.id, half.spent) == ("image", stand.image, "its build or its removal was interrupted")
    assert freed[0] >= 9000 and freed[2] == 0
    assert not left.exists() and parts(platform) == []


def test_what_a_killed_removal_or_download_left_is_found(stand: LocalStand, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revision without manifest, bytes of a download, a file that belongs to nobody; not what is being fetched just now."""
    monkeypatch.setattr(sweep, "LOOSE_SECONDS", -1.0)
    release, root = stand.release(), stand.settings.cache_dir / "weights"
    next((root / "manifests").glob("*.json")).unlink()
    (root / "partial" / ("e" * 40)).write_text("half")
    (root / "partial" / ("f" * 40)).write_text("half")
    (root / "blobs" / ("9" * 64)).write_text("loose")
    busy = platform.model_weights.store.blobs.lock("fetch-" + "f" * 40)  # type: ignore[attr-defined]

    with busy:
        gone = clear(platform)

    assert sorted(gone) == [
        "blob no revision leads to it", "image no release needs it", "model_weights no release needs it", "partial no release needs it", "partial no release needs it",
    ]  # fmt: skip
    assert [path.name for path in (root / "partial").iterdir()] == ["f" * 40]
    assert not (root / "revisions" / release.manifest.digest[:16]).exists() and not list((root / "blobs").iterdir())


def test_a_log_that_only_grows_is_cut_and_its_writer_goes_on(stand: LocalStand, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest bytes stay beside it."""
    monkeypatch.setattr("infra.local.inventory.LOG_LIMIT", 1000)
    monkeypatch.setattr("infra.local.inventory.LOG_KEPT", 10)
    log = stand.settings.home / "logs" / "runs.log"
    log.parent.mkdir(parents=True)
    with log.open("ab", buffering=0) as writer:
        writer.write(b"a" * 2000 + b"0123456789")
        (held,) = [held for held in platform.inventory.held() if held.part == "log"]
        platform.inventory.discard(held, Progress(250))
        writer.write(b"next")

    assert held.bytes == 2000 and log.read_bytes() == b"next"
    assert log.with_name("runs.log.1").read_bytes() == b"0123456789"


@pytest.fixture
def two(tmp_path: Path, sources: Path) -> Iterator[tuple[LocalStand, LocalStand]]:
    """Two clones on one machine with one cache, each with an engine and a router of its own."""
    first, second = LocalStand(tmp_path / "a", sources), LocalStand(tmp_path / "b", sources)
    second.settings = second.settings.model_copy(update={"cache": first.settings.cache_dir})
    second.platform = second.again()
    yield first, second
    first.close()
    second.close()


def test_one_home_sees_and_ends_nothing_of_another(two: tuple[LocalStand, LocalStand]) -> None:
    """`leftovers`, the inventory, `down --all` with `--purge`: the other one serves on, from the same weights."""
    releases = []
    for stand in two:
        release = stand.release()
        state = stand.platform.ray_service.apply(release, Progress(250))
        assert state.address
        stand.platform.endpoint.apply(Route("demo", "demo", release.name, state.address), Progress(250))
        serve(stand.platform, release)
        releases.append(release)
    (first, second), theirs = two, two[1].processes()
    seen = leftovers(first.platform, "local")
    cluster = Cluster(first.cluster, first.platform, ("demo",))

    report = take_cluster_down(cluster, TeardownConfig(name="local", include_models=True, purge=True), Run("r1", time.time(), "ann", "", "teardown", None), Progress(250), lambda _: None)

    assert str(first.settings.cache_dir) not in str(report.removed)
    assert seen == () and report.left == [] and first.processes() == set()
    assert second.processes() == theirs
    assert second.platform.ray_service.observe(releases[1]).ready  # type: ignore[union-attr]
    assert second.platform.model_weights.observe(releases[1]) and second.platform.image.observe(releases[1])
    assert leftovers(second.platform, "local") == ()


def test_a_collection_leaves_what_another_home_needs_until_that_home_is_gone(two: tuple[LocalStand, LocalStand]) -> None:
    """Each home leaves a note in the cache; one whose folder is gone counts no more."""
    first, second = two
    serve(first.platform, first.release())
    serve(second.platform, theirs := second.release(weights="more", seed=1))

    kept = clear(first.platform)
    shutil.rmtree(second.settings.home)
    gone = clear(first.platform)

    assert kept == [] and gone == ["model_weights no release needs it"]
    assert first.platform.model_weights.observe(theirs) is None


def test_while_another_home_fetches_nothing_is_removed(two: tuple[LocalStand, LocalStand], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stages are locked out as ours are."""
    monkeypatch.setattr("assets.collect.LOCK_SECONDS", 0.2)
    first, second = two
    serve(second.platform, second.release())
    unneeded = first.release(weights="more", seed=1)

    with second.platform.records.lock("demo.model_weights", "run of the other clone", Progress(250)):
        report = collect(first.platform, {}, lambda _: False, Progress(250))

    assert "demo.model_weights is held by run of the other clone" in report.postponed
    assert first.platform.model_weights.observe(unneeded)


def test_a_home_that_can_not_be_read_needs_everything(two: tuple[LocalStand, LocalStand]) -> None:
    """A record of it is broken, or its note."""
    first, second = two
    serve(second.platform, second.release())
    first.release(weights="more", seed=1)
    (note,) = [path for path in (first.settings.cache_dir / "homes").iterdir() if str(second.settings.home) in path.read_text()]
    (second.settings.home / "records" / "demo" / "live.json").write_text("{")

    broken_record = clear(first.platform)
    note.write_text("{")
    broken_note = clear(first.platform)

    assert broken_record == broken_note == []
    assert [held for held in first.platform.inventory.held() if isinstance(held, Held) and held.part == "model_weights"]
    assert os.path.exists(note)
