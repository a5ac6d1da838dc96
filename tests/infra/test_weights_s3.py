"""s3://: a real boto3 against a bucket on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from botocore import exceptions as boto

from infra.errors import Blocked, ConfigError, PipelineError, Transient
from infra.waiting import Progress
from infra.weights import Access, Source, Store, open_source, parse
from infra.weights.s3 import broken, refusal
from tests.doubles.model import model_files
from tests.doubles.s3 import S3

FILES = model_files(rows=5000)


@pytest.fixture
def s3() -> Iterator[S3]:
    with S3(page=3) as double:
        lay(double, FILES)
        yield double
    assert double.unexpected == []


def lay(s3: S3, files: dict[str, bytes], **more: object) -> None:
    for name, content in files.items():
        s3.put("models", f"tiny/v1/{name}", content, **more)  # type: ignore[arg-type]


def source(s3: S3, uri: str = "s3://models/tiny/v1", **access: object) -> Source:
    return open_source(parse(uri, Path("/")), replace(Access(aws=s3.aws, stall_seconds=5.0), **access))  # type: ignore[arg-type]


def fill(s3: S3, path: Path, attempts: int = 3) -> Path:
    mine = source(s3)
    return Store(path, attempts=attempts, pause=0.01).fill(mine, mine.look(Progress()), Progress()).path


def gets(s3: S3, name: str) -> list[str | None]:
    return [ranged for method, key, ranged in s3.requests if method == "GET" and key.endswith("/" + name)]


def test_a_prefix_is_listed_in_pages_and_fetched(s3: S3, tmp_path: Path) -> None:
    """Only what an engine needs, every page of the listing, byte for byte."""
    path = fill(s3, tmp_path)

    assert {one.name for one in path.iterdir()} == {name for name in FILES if name.endswith((".json", ".safetensors"))}
    assert all((path / one.name).read_bytes() == FILES[one.name] for one in path.iterdir())


def test_the_same_upload_is_the_same_revision_and_an_overwritten_object_is_another(s3: S3) -> None:
    """The revision is the hash of the listing; neighbours of the prefix don't count."""
    first = source(s3).look(Progress())
    lay(s3, FILES)
    s3.put("models", "tiny/v10/config.json", b"{}")
    same = source(s3).look(Progress())
    lay(s3, model_files(rows=5000, seed=1))

    assert first.revision == first.manifest.digest == same.revision
    assert source(s3).look(Progress()).revision != first.revision


def test_a_body_that_breaks_off_is_resumed(s3: S3, tmp_path: Path) -> None:
    """From the last byte that came; nothing is fetched from the start again."""
    s3.fault("truncate", path="*/model.safetensors", after=600_000)
    path = fill(s3, tmp_path)

    assert (path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert gets(s3, "model.safetensors") == [None, "bytes=600000-"]


def test_a_stalled_body_is_aborted_and_resumed(s3: S3, tmp_path: Path) -> None:
    """After the stall time, not after botocore's minute."""
    s3.fault("stall", path="*/model.safetensors", after=600_000)
    mine = source(s3, stall_seconds=0.3)
    stored = Store(tmp_path, attempts=3, pause=0.01).fill(mine, mine.look(Progress()), Progress())

    assert (stored.path / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_flipped_byte_is_found_where_the_etag_is_an_md5(s3: S3, tmp_path: Path) -> None:
    """And fetched again."""
    s3.fault("flip", path="*/model.safetensors", after=1234)
    path = fill(s3, tmp_path)

    assert (path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert len(gets(s3, "model.safetensors")) == 2


@pytest.mark.parametrize("more", [{"parts": 3}, {"encryption": "aws:kms"}])
def test_an_etag_that_is_no_md5_is_not_taken_for_one(s3: S3, tmp_path: Path, more: dict[str, object]) -> None:
    """Multipart uploads and KMS have ETags of their own; they must not look like damage."""
    lay(s3, FILES, **more)

    assert (fill(s3, tmp_path) / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_an_object_that_was_overwritten_since_the_listing_is_an_error_and_no_mixture(s3: S3, tmp_path: Path) -> None:
    """If-Match asks for exactly what was seen."""
    mine = source(s3)
    seen = mine.look(Progress())
    lay(s3, model_files(rows=5000, seed=2))
    with pytest.raises(Transient, match="changed while it was fetched"):
        Store(tmp_path, attempts=1).fill(mine, seen, Progress())


def test_each_refusal_says_what_to_do(s3: S3) -> None:
    """No bucket, nothing under the prefix, no right, unknown key."""
    said = []
    for uri, aws in [
        ("s3://nowhere/x", {}),
        ("s3://models/none", {}),
        ("s3://closed/x", {}),
        ("s3://models/tiny/v1", {"AWS_ACCESS_KEY_ID": "AKIAOTHER"}),
    ]:
        s3.buckets.setdefault("closed", {})
        s3.forbidden.add("closed")
        with pytest.raises(ConfigError) as caught:
            source(s3, uri, aws=s3.aws | aws).look(Progress())
        assert caught.value.problem.why
        assert caught.value.problem.next
        said.append(caught.value.problem.text())

    assert [word in text for word, text in zip(("no bucket", "is empty", "s3:ListBucket", "access key"), said, strict=True)] == [True] * 4
    assert s3.secret not in "".join(said)


def test_an_overloaded_bucket_is_transient(s3: S3) -> None:
    """It may work in a minute."""
    s3.fault("status", times=9)
    with pytest.raises(Transient, match="503 SlowDown"):
        source(s3).look(Progress())


def test_no_network_is_transient_and_names_the_endpoint(tmp_path: Path) -> None:
    """Nothing listens there."""
    with S3() as gone:
        lay(gone, FILES)
    with pytest.raises(Transient) as caught:
        source(gone).look(Progress())

    assert gone.endpoint in caught.value.problem.text()


def test_offline_asks_nobody(s3: S3) -> None:
    """The setting is a rule."""
    with pytest.raises(Blocked):
        source(s3, offline=True).look(Progress())
    assert s3.requests == []


def test_every_error_class_of_botocore_is_mapped() -> None:
    """Whatever it grows: typed, with a next step, never a traceback for people."""
    for kind in vars(boto).values():
        if isinstance(kind, type) and issubclass(kind, boto.BotoCoreError):
            error = broken("s3://b/p", "f", kind.__new__(kind))
            assert isinstance(error, PipelineError)
            assert error.problem.next


def test_answers_that_nobody_foresaw_are_permanent_and_typed() -> None:
    """An unknown code must not be retried for ever."""
    error = refusal("s3://b/p", None, {"Error": {"Code": "Odd", "Message": "so"}, "ResponseMetadata": {"HTTPStatusCode": 418}})

    assert "418 Odd" in error.problem.text()
    assert not isinstance(error, Transient)
