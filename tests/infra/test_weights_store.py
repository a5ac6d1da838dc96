"""Store: files once, verified, whatever happens in between."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.errors import Blocked, CapacityError, ConfigError, Denied
from infra.waiting import Phase, Progress
from infra.weights import Access, Bad, File, Manifest, Seen, Source, Store, open_source, parse
from infra.weights.blobs import sealed
from tests.doubles.hub import Hub
from tests.doubles.model import model_files

FILES = model_files(rows=5000)
BIG = model_files(rows=40_000)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as double:
        yield double
    assert double.unexpected == []


def source(hub: Hub, repo: str = "org/tiny") -> Source:
    return open_source(parse(f"hf://{repo}", Path("/")), Access(hf_endpoint=hub.endpoint, stall_seconds=5.0))


def fill(hub: Hub, store: Store, repo: str = "org/tiny") -> tuple[Seen, Path]:
    mine = source(hub, repo)
    seen = mine.look(Progress())
    return seen, store.fill(mine, seen, Progress()).path


def flip(path: Path, at: int, *, silently: bool) -> None:
    """Changes one byte; silently: as a dying disk does, without moving the time of the last write."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    if silently:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def resolves(hub: Hub) -> int:
    return sum("/resolve/" in request.path for request in hub.requests)


def test_the_second_fill_looks_and_fetches_nothing(hub: Hub, tmp_path: Path) -> None:
    """Unchanged is a few stats, and says so."""
    hub.commit("org/tiny", FILES)
    store, mine = Store(tmp_path), source(hub)
    seen = mine.look(Progress())
    first, asked = store.fill(mine, seen, Progress()), resolves(hub)
    second = store.fill(mine, seen, Progress())

    assert (first.changed, first.fetched_bytes, first.size) == (True, seen.manifest.size, seen.manifest.size)
    assert (second.changed, second.fetched_bytes) == (False, 0)
    assert second.path == first.path == store.folder(seen.manifest)
    assert resolves(hub) == asked
    assert store.find(seen.manifest) == second
    assert (second.source, second.revision) == ("hf://org/tiny", seen.revision)


def test_two_models_on_one_revision_share_one_copy(hub: Hub, tmp_path: Path) -> None:
    """And a new revision fetches only what is new in it."""
    hub.commit("org/tiny", FILES)
    store = Store(tmp_path)
    _, one = fill(hub, store)
    hub.commit("org/tiny", FILES | {"generation_config.json": b"{}"})
    mine = source(hub)
    stored = store.fill(mine, mine.look(Progress()), Progress())

    assert stored.path != one
    assert stored.fetched_bytes == 2
    assert (stored.path / "model.safetensors").samefile(one / "model.safetensors")


def test_the_store_is_private_and_its_files_are_named_by_their_content(hub: Hub, tmp_path: Path) -> None:
    """A blob's name is its sha256, and the manifest beside it says which file that is."""
    hub.commit("org/tiny", FILES)
    store = Store(tmp_path / "cache")
    seen, path = fill(hub, store)
    written = json.loads((tmp_path / "cache" / "manifests" / f"{seen.manifest.digest}.json").read_text())

    assert written["sha256"] == {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in path.iterdir()}
    assert {blob.name for blob in (tmp_path / "cache" / "blobs").iterdir()} == set(written["sha256"].values())
    assert all(sealed(blob.stat(), blob.name) for blob in (tmp_path / "cache" / "blobs").iterdir())
    assert {one.stat().st_mode & 0o777 for one in (tmp_path / "cache").iterdir()} == {0o700}
    assert list((tmp_path / "cache" / "partial").iterdir()) == []


@pytest.mark.parametrize("silently", [True, False])
def test_a_byte_flipped_later_is_found_and_only_that_file_is_fetched_again(hub: Hub, tmp_path: Path, silently: bool) -> None:
    """A write is noticed by `find`; what a dying disk does, by `verify`. Whoever has the old file open is not disturbed."""
    hub.commit("org/tiny", FILES)
    store, mine = Store(tmp_path), source(hub)
    seen, path = fill(hub, store)
    flip(path / "model.safetensors", 5000, silently=silently)

    assert (store.find(seen.manifest) is None) is not silently
    bad = store.verify(seen.manifest, Progress())
    asked, opened = resolves(hub), (path / "model.safetensors").open("rb")
    repaired = store.fill(mine, seen, Progress())
    with opened:
        assert opened.read() != FILES["model.safetensors"]
    assert [one.path for one in bad] == ["model.safetensors"]
    assert repaired.fetched_bytes == len(FILES["model.safetensors"])
    assert resolves(hub) == asked + 1
    assert (path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert store.verify(seen.manifest, Progress()) == ()


def test_a_repaired_blob_repairs_every_revision_that_shares_it(hub: Hub, tmp_path: Path) -> None:
    """The other revision notices, and fetches nothing."""
    hub.commit("org/tiny", FILES)
    store = Store(tmp_path)
    first, path = fill(hub, store)
    hub.commit("org/tiny", FILES | {"generation_config.json": b"{}"})
    second, other = fill(hub, store)
    flip(path / "model.safetensors", 9, silently=False)
    mine = source(hub)
    repaired = store.fill(mine, second, Progress())
    again = store.fill(mine, first, Progress())

    assert (repaired.fetched_bytes, again.fetched_bytes, again.changed) == (len(FILES["model.safetensors"]), 0, True)
    assert (path / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes() == FILES["model.safetensors"]


@pytest.mark.parametrize("harm", ["link", "blob", "manifest", "touch", "swap"])
def test_whatever_is_missing_is_put_back_without_fetching_what_is_there(hub: Hub, tmp_path: Path, harm: str) -> None:
    """A deleted link, blob or manifest, a touched file, a link that somebody replaced by a copy."""
    hub.commit("org/tiny", FILES)
    store, mine = Store(tmp_path), source(hub)
    seen, path = fill(hub, store)
    link = path / "model.safetensors"
    if harm == "link":
        link.unlink()
    if harm == "blob":
        next(blob for blob in (tmp_path / "blobs").iterdir() if blob.samefile(link)).unlink()
    if harm == "manifest":
        (tmp_path / "manifests" / f"{seen.manifest.digest}.json").write_text("{half")
    if harm == "touch":
        os.utime(link)
    if harm == "swap":
        link.unlink()
        link.write_bytes(FILES["model.safetensors"])

    assert store.find(seen.manifest) is None
    mended = store.fill(mine, seen, Progress())
    assert (mended.changed, mended.fetched_bytes) == (True, 0)
    assert store.find(seen.manifest) is not None
    assert list((tmp_path / "partial").iterdir()) == []


def test_what_is_absent_is_bad(tmp_path: Path) -> None:
    """Verifying what was never stored names every file."""
    assert Store(tmp_path).verify(Manifest((File("a.json", 1, "git:0"),)), Progress()) == (Bad("a.json", "is not here"),)


def test_removing_a_revision_frees_what_no_other_needs(hub: Hub, tmp_path: Path) -> None:
    """Shared blobs stay until their last revision goes; then nothing is left."""
    hub.commit("org/tiny", FILES)
    store = Store(tmp_path)
    first, _ = fill(hub, store)
    hub.commit("org/tiny", FILES | {"generation_config.json": b"{}"})
    second, path = fill(hub, store)

    assert [one.manifest_digest for one in store.stored()] == [first.manifest.digest, second.manifest.digest]
    assert store.remove(first.manifest) == len(FILES["generation_config.json"])
    assert store.find(second.manifest) is not None
    assert store.remove(second.manifest) == second.manifest.size
    assert store.remove(second.manifest) == 0
    assert (store.stored(), list((tmp_path / "blobs").iterdir()), path.exists()) == ([], [], False)


def test_a_disk_without_room_is_told_before_the_first_byte(hub: Hub, tmp_path: Path) -> None:
    """With numbers, and with what could go."""
    hub.commit("org/tiny", FILES)
    store = Store(tmp_path)
    seen, _ = fill(hub, store)
    huge = Seen("hf://org/tiny", seen.revision, Manifest((*seen.manifest.files, File("model-2.safetensors", 10**16, "sha256:" + "0" * 64))))
    asked = resolves(hub)
    with pytest.raises(CapacityError) as caught:
        store.fill(source(hub), huge, Progress())

    assert "10,000,000.00 GB lack here" in (caught.value.problem.why or "")
    assert f"hf://org/tiny@{seen.revision[:10]}" in (caught.value.problem.next or "")
    assert resolves(hub) == asked


def test_a_file_that_may_not_grow_further_is_told_and_goes_on_later(hub: Hub, tmp_path: Path) -> None:
    """`ulimit -f`, or a file system with small files: no traceback, and what came is kept."""
    hub.commit("org/tiny", FILES)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        with pytest.raises(Denied) as caught:
            fill(hub, Store(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "larger than a file may be" in caught.value.problem.what
    assert "ulimit -f" in (caught.value.problem.why or "")

    seen, _ = fill(hub, Store(tmp_path))
    assert Store(tmp_path).verify(seen.manifest, Progress()) == ()
    assert [request.range for request in hub.fetched("model.safetensors")] == [None, "bytes=300000-"]


def test_a_place_that_can_not_be_written_to_is_a_configuration_error(hub: Hub, tmp_path: Path) -> None:
    """Names the place and the setting."""
    hub.commit("org/tiny", FILES)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="LLM_PIPELINE_CACHE"):
        fill(hub, Store(tmp_path / "file" / "cache"))


def test_how_far_it_is_and_how_long_it_takes_is_told_meanwhile(hub: Hub, tmp_path: Path) -> None:
    """Bytes, rate and the time that is left."""
    hub.commit("org/tiny", BIG)
    hub.slow = 0.012
    told: list[Phase] = []
    mine = source(hub)
    Store(tmp_path).fill(mine, mine.look(Progress()), Progress(report=told.append))

    assert {phase.name for phase in told} == {"weights"}
    assert any("of 8 MB" in phase.detail and "MB/s, about" in phase.detail for phase in told)


CHILD = """
import sys
from pathlib import Path
from infra.waiting import Progress
from infra.weights import Access, Store, open_source, parse
source = open_source(parse("hf://org/tiny", Path("/")), Access(hf_endpoint=sys.argv[1], stall_seconds=5.0))
seen = source.look(Progress())
print("looked", flush=True)
print(Store(Path(sys.argv[2])).fill(source, seen, Progress()).fetched_bytes, flush=True)
"""


def child(hub: Hub, root: Path) -> subprocess.Popen[str]:
    env = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": os.defpath, "HOME": str(root)}
    return subprocess.Popen([sys.executable, "-c", CHILD, hub.endpoint, str(root)], stdout=subprocess.PIPE, text=True, env=env)


def arrived(root: Path) -> int:
    """Bytes in files that are not whole yet; of one that is whole in between, none."""
    total = 0
    for path in root.glob("partial/*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def test_a_killed_download_is_resumed_by_the_next_call(hub: Hub, tmp_path: Path) -> None:
    """SIGKILL in the middle: what came is used, what lacks is fetched, nothing is half there."""
    hub.commit("org/tiny", BIG)
    hub.slow = 0.02
    victim = child(hub, tmp_path)
    while arrived(tmp_path) < 1_000_000:
        assert victim.poll() is None
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    hub.slow = 0.0
    store, mine = Store(tmp_path), source(hub)
    seen = mine.look(Progress())

    assert store.find(seen.manifest) is None
    stored = store.fill(mine, seen, Progress())
    assert stored.fetched_bytes <= len(BIG["model.safetensors"]) - 1_000_000
    assert (stored.path / "model.safetensors").read_bytes() == BIG["model.safetensors"]
    assert store.verify(seen.manifest, Progress()) == ()


def test_two_processes_at_once_share_the_work(hub: Hub, tmp_path: Path) -> None:
    """Every byte is fetched once, by one of them; both end with the revision whole."""
    hub.commit("org/tiny", BIG)
    hub.slow = 0.005
    both = [child(hub, tmp_path) for _ in range(2)]
    fetched = [int(one.communicate(timeout=30)[0].split()[-1]) for one in both]
    seen = source(hub).look(Progress())

    assert [one.returncode for one in both] == [0, 0]
    assert sum(fetched) == seen.manifest.size
    assert Store(tmp_path).find(seen.manifest) is not None


def test_whoever_waits_for_another_says_so_and_stops_when_told(hub: Hub, tmp_path: Path) -> None:
    """The lock is held by somebody else: the phase names the file, and a reason to stop ends the wait."""
    hub.commit("org/tiny", FILES)
    store, mine, told = Store(tmp_path), source(hub), []
    seen = mine.look(Progress())
    store.blobs.prepare()
    weights = next(file for file in seen.manifest.files if file.path == "model.safetensors")

    def stop() -> None:
        if any("another process fetches model.safetensors" in detail for detail in told):
            raise Blocked("withdrawn")

    with store.blobs.partial(weights).lock, pytest.raises(Blocked):
        store.fill(mine, seen, Progress(60, report=lambda phase: told.append(phase.detail), stop=stop))


def test_removing_and_filling_at_once_never_leaves_half_a_revision(hub: Hub, tmp_path: Path) -> None:
    """Two revisions share a blob; while one is removed again and again, the other is filled."""
    hub.commit("org/tiny", FILES)
    store, mine = Store(tmp_path, pause=0.01), source(hub)
    old = mine.look(Progress())
    hub.commit("org/tiny", FILES | {"generation_config.json": b"{}"})
    new = mine.look(Progress())
    end = threading.Event()

    def churn() -> None:
        other, theirs = Store(tmp_path, pause=0.01), source(hub)
        while not end.is_set():
            other.fill(theirs, old, Progress())
            other.remove(old.manifest)

    churner = threading.Thread(target=churn)
    churner.start()
    try:
        for _ in range(10):
            stored = store.fill(mine, new, Progress())
            assert (stored.path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
            assert store.find(new.manifest) is not None
            store.remove(new.manifest)
    finally:
        end.set()
        churner.join()


def test_the_keys_of_contents_are_equal_only_for_equal_contents() -> None:
    """Git and sha256 name bytes wherever they lie; an S3 ETag does so for one name only."""
    assert File("a.json", 5, "git:01").key == File("b.json", 5, "git:01").key
    assert File("a.json", 5, "s3:01").key != File("b.json", 5, "s3:01").key
    assert File("a.json", 5, "git:01").key != File("a.json", 5, "git:02").key
