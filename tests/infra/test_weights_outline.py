"""What a planner needs of a revision: config.json and headers, from every source, by ranges; never the weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra.errors import ConfigError, Denied, PipelineError, Transient
from infra.waiting import Progress
from infra.weights import Access, Manifest, Outline, Seen, Source, Store, lying, open_source, outline, outlined, parse
from tests.doubles.hub import Hub
from tests.doubles.model import model_files, tensors
from tests.doubles.s3 import S3

TOKEN = "hf_abcdefghijklmnop"
CONFIG = {"model_type": "llama", "hidden_size": 100}
SHARDS = {f"model-0000{number}-of-00003.safetensors": tensors((f"layers.{number}.a", "BF16", (2000, 100)), (f"layers.{number}.b", "F32", (10,))) for number in (1, 2, 3)}
INDEX = json.dumps({"weight_map": {f"layers.{number}.{name}": f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3) for name in "ab"}}).encode()
FILES = {**{name: content for name, content in model_files().items() if name != "model.safetensors"}, "config.json": json.dumps(CONFIG).encode(), "model.safetensors.index.json": INDEX, **SHARDS}
LARGE = sum(map(len, SHARDS.values()))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files stand for large ones: the first range is small too; nobody pauses for long."""
    monkeypatch.setattr(outline, "FIRST", 100)
    monkeypatch.setattr(outline, "PAUSE", 0.01)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as double:
        double.tokens.add(TOKEN)
        yield double
    assert double.unexpected == []


@pytest.fixture
def s3() -> Iterator[S3]:
    with S3() as double:
        yield double
    assert double.unexpected == []


def of_hub(hub: Hub, files: dict[str, bytes] = FILES, **access: Any) -> Source:
    hub.commit("org/tiny", files)
    return open_source(parse("hf://org/tiny", Path("/")), replace(Access(hf_endpoint=hub.endpoint, stall_seconds=5.0), **access))


def of_s3(s3: S3, files: dict[str, bytes] = FILES) -> Source:
    for name, content in files.items():
        s3.put("models", f"tiny/{name}", content)
    return open_source(parse("s3://models/tiny", Path("/")), Access(aws=s3.aws, stall_seconds=5.0))


def of_folder(folder: Path, files: dict[str, bytes] = FILES) -> Source:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return open_source(parse(f"file://{folder}", folder), Access(settle_seconds=0.0))


def read(source: Source) -> Outline:
    return outlined(source, source.look(Progress()), Progress(60))


def whole(found: Outline) -> None:
    """All of it, and as the files say."""
    assert found.config == CONFIG
    assert [sorted(header) for header in found.headers] == [[f"layers.{number}.a", f"layers.{number}.b"] for number in (1, 2, 3)]
    assert found.headers[0]["layers.1.a"]["shape"] == [2000, 100] and found.headers[0]["layers.1.a"]["dtype"] == "BF16"


def test_headers_come_from_the_hub_by_ranges_and_no_weights_do(hub: Hub) -> None:
    """Config, and two ranges of each shard, since these headers are longer than the first range; a token goes to the Hub alone, which the double insists on."""
    source = of_hub(hub, hf_token=TOKEN)
    seen = source.look(Progress())
    hub.sent = 0

    found = outlined(source, seen, Progress(60))

    whole(found)
    assert hub.sent < len(FILES["config.json"]) + 3 * 400 < LARGE / 100
    ranges = [one.range for one in hub.requests if one.server != "hub" and one.method == "GET" and one.range]
    assert ranges.count("bytes=0-99") == 3 and all(one and one.startswith("bytes=") and not one.endswith("-") for one in ranges)


def test_headers_come_from_s3_by_ranges(s3: S3) -> None:
    """Of the very objects that were listed."""
    source = of_s3(s3)
    found = read(source)

    whole(found)
    asked = {ranged for method, key, ranged in s3.requests if method == "GET" and key.endswith(".safetensors")}
    assert asked and all(ranged and not ranged.endswith("-") for ranged in asked)


def test_headers_come_from_a_folder_and_from_the_store(tmp_path: Path) -> None:
    """The same from both; the store asks nobody."""
    source = of_folder(tmp_path / "weights")
    seen = source.look(Progress())
    stored = Store(tmp_path / "store").fill(source, seen, Progress())

    whole(outlined(source, seen, Progress(60)))
    whole(lying(stored.path, seen.manifest))


def test_what_lies_in_the_hubs_own_cache_is_read_there(hub: Hub, tmp_path: Path) -> None:
    """The Hub is not asked for it."""
    source = of_hub(hub, hf_cache=tmp_path)
    seen = source.look(Progress())
    blobs = tmp_path / "models--org--tiny" / "blobs"
    blobs.mkdir(parents=True)
    for file in seen.manifest.files:
        (blobs / file.digest.partition(":")[2]).write_bytes(FILES[file.path])
    hub.sent = 0

    whole(outlined(source, seen, Progress(60)))

    assert hub.sent == 0


@pytest.mark.parametrize(("kind", "times"), [("norange", 99), ("truncate", 1), ("status", 1), ("drop", 1)])
def test_a_hub_that_answers_badly_once_is_asked_again(hub: Hub, kind: Any, times: int) -> None:
    """One that always ignores ranges is listened to only until enough came."""
    source = of_hub(hub)
    seen = source.look(Progress())
    for name in SHARDS:
        hub.fault(kind, path=f"*{name}", after=20, times=times)

    whole(outlined(source, seen, Progress(60)))


def test_a_source_that_stays_ill_is_told_of(hub: Hub, s3: S3, tmp_path: Path) -> None:
    """As Transient, with what to do; what changed since the look is not taken for what was seen."""
    ill = of_hub(hub)
    seen = ill.look(Progress())
    hub.fault("status", path="*.safetensors", times=99)
    with pytest.raises(Transient) as told:
        outlined(ill, seen, Progress(60))

    bucket = of_s3(s3)
    listed = bucket.look(Progress())
    s3.put("models", "tiny/config.json", b'{"other": 1}')
    with pytest.raises(Transient, match="changed"):
        outlined(bucket, listed, Progress(60))

    folder = of_folder(tmp_path)
    there = folder.look(Progress())
    (tmp_path / "config.json").unlink()
    with pytest.raises(Transient, match="changed"):
        outlined(folder, there, Progress(60))

    assert told.value.problem.next


def test_a_gated_repository_is_told_as_such(hub: Hub) -> None:
    """The same words as for fetching it."""
    source = of_hub(hub)
    seen = source.look(Progress())
    hub.repos["org/tiny"].gated = True

    with pytest.raises(Denied):
        outlined(source, seen, Progress(60))


@pytest.mark.parametrize("broken", [b"", b"\x00" * 50, b"\xff" * 50, (40).to_bytes(8, "little") + b"{" * 40, (10**6).to_bytes(8, "little") + b'{"a": 1}', (2).to_bytes(8, "little") + b"{}"[:1]])
def test_one_header_that_can_not_be_read_leaves_none(tmp_path: Path, broken: bytes) -> None:
    """A part of the sum would be taken for the whole. The files themselves are judged where they are fetched."""
    found = read(of_folder(tmp_path, {**FILES, "model-00002-of-00003.safetensors": broken}))

    assert (found.config, found.headers) == (CONFIG, ())


def test_files_without_a_tensor_leave_no_headers(tmp_path: Path) -> None:
    """Weights of no bytes would fit everywhere; one file without any beside others is nothing strange."""
    empty = (2).to_bytes(8, "little") + b"{}"

    assert read(of_folder(tmp_path / "all", {**FILES, **dict.fromkeys(SHARDS, empty)})).headers == ()
    assert len(read(of_folder(tmp_path / "one", {**FILES, "model-00002-of-00003.safetensors": empty})).headers) == 3


def test_pickles_have_no_headers(tmp_path: Path) -> None:
    """Only config.json is read."""
    of_folder(tmp_path, {"config.json": b"{}", "pytorch_model.bin": b"x" * 50, "tokenizer.json": b"{}"})
    source = open_source(parse(f"file://{tmp_path}", tmp_path), Access(settle_seconds=0.0), allow_pickle=True)

    assert read(source) == Outline({}, ())


@pytest.mark.parametrize("config", [b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_config_that_is_none_is_the_users_mistake(tmp_path: Path, config: bytes) -> None:
    """A message, never a traceback."""
    with pytest.raises(ConfigError, match=r"can not be served"):
        read(of_folder(tmp_path, {**FILES, "config.json": config}))


def test_a_revision_without_config_has_an_empty_one() -> None:
    """Nothing is asked for what is not there."""

    class Nobody:
        """Answers nothing."""

        def __getattr__(self, name: str) -> Callable[..., object]:
            raise AssertionError(name)

    assert outlined(Nobody(), Seen("x", "r", Manifest(())), Progress()) == Outline()  # type: ignore[arg-type]


def test_all_errors_are_ours(hub: Hub) -> None:
    """Nothing of the libraries beneath comes out when nobody listens."""
    source = of_hub(hub)
    seen = source.look(Progress())
    gone = open_source(parse("hf://org/tiny", Path("/")), Access(hf_endpoint="http://127.0.0.1:9", stall_seconds=1.0))

    with pytest.raises(PipelineError):
        outlined(gone, seen, Progress(60))
