"""`inventory` on every platform: everything of ours, read from the platform itself, and nothing else; and the store of weights.

What is ours is known by marks of processes and folders on `local` (tests/infra/local), and by labels on a cluster (tests/kubernetes/test_inventory.py).
"""

from __future__ import annotations

from infra.platform import Platform
from infra.states import Held, Leftover, Route
from infra.waiting import Progress
from tests.platform.conftest import Stand, killed


def running(platform: Platform) -> tuple[Leftover, ...]:
    """What is not data."""
    return tuple(found for found in platform.inventory.find() if not found.data)


def revisions(platform: Platform) -> dict[str, Held]:
    """The weights in the store, by the first digits of their manifest."""
    return {held.id: held for held in platform.inventory.held() if held.part == "model_weights"}


def test_nothing_is_found_where_nothing_was_made(platform: Platform) -> None:
    """Not even an empty folder."""
    assert running(platform) == ()
    assert revisions(platform) == {}


def test_everything_that_runs_is_found_with_its_proof_and_can_be_removed(stand: Stand, platform: Platform) -> None:
    """Each row names model and release; removing what was found leaves nothing, and removing it again is no error."""
    release = stand.release()
    state = platform.ray_service.apply(release, Progress(250))
    assert state.address
    platform.endpoint.apply(Route("demo", "demo", release.name, state.address), Progress(250))

    rows = running(platform)
    found = {row.part: row for row in rows}

    assert (found["ray_service"].model, found["ray_service"].release) == ("demo", release.name)
    assert all(row.why_ours for row in rows)
    assert set(found) == {"ray_service", "endpoint"}
    for row in (*rows, *rows):
        platform.inventory.remove(row, Progress(250))
    assert running(platform) == ()
    assert stand.processes() == set()


def test_a_killed_start_is_found_without_records(stand: Stand, platform: Platform) -> None:
    """Nobody else would come back for it, and what described it may be gone."""
    release = stand.release("slow 600")
    killed(lambda progress: stand.again().ray_service.apply(release, progress), "engine: import")
    for owner in platform.records.owners():
        platform.records.purge(owner)

    (row,) = running(platform)
    platform.inventory.remove(row, Progress(250))

    assert (row.part, row.release) == ("ray_service", release.name)
    assert running(platform) == ()
    assert stand.processes() == set()


def test_data_is_listed_with_its_size_and_marked_as_data(stand: Stand, platform: Platform) -> None:
    """It is kept by `down`, so people want to know what it costs."""
    release = stand.release()
    platform.records.put("demo", "deployment", {"wanted": False}, None)

    rows = {row.part: row for row in platform.inventory.find()}

    assert rows["model_weights"].data
    assert rows["model_weights"].bytes >= release.manifest.size
    assert rows["records"].data
    platform.inventory.remove(rows["model_weights"], Progress(250))
    assert platform.model_weights.observe(release) is None


def test_revisions_in_the_store_go_one_by_one(stand: Stand, platform: Platform) -> None:
    """Each with the bytes that its end frees; one that is gone frees none, and the other one stays whole."""
    one, two = stand.release(), stand.release(weights="more", seed=1)
    seen = revisions(platform)
    first, second = (seen[release.manifest.digest[:16]] for release in (one, two))

    freed = [platform.inventory.discard(first, Progress(250)), platform.inventory.discard(first, Progress(250))]

    assert min(first.bytes, second.bytes) >= one.manifest.size
    assert freed[0] > 0 and freed[1] == 0
    assert platform.model_weights.observe(one) is None and platform.model_weights.observe(two)
    assert set(revisions(platform)) == {second.id}


def test_a_row_that_points_elsewhere_removes_nothing(stand: Stand, platform: Platform) -> None:
    """Whoever made it up: only what is ours is removed, whatever its name is."""
    name, there = stand.foreign()

    platform.inventory.remove(Leftover("model_weights", name, "", None, None, "trust me", data=True), Progress(250))

    assert there()
