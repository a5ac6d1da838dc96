"""What a materialisation says becomes an address; what the address shows is compared with what was promised."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import ConfigError
from infra.weights import File, Glance, Made, Manifest, Seen, read

MANIFEST = Manifest((File("config.json", 2, "sha256:" + "1" * 64),))
COMMIT = "c" * 40
SEEN = Seen("hf://org/tuned", COMMIT, MANIFEST)


def made(number: int = 7, run: str = "8e44df91-abbe", **facts: object) -> Made:
    return Made("team/tuned", number, run, {"path": "hf://org/tuned", **facts})


@pytest.mark.parametrize("path", ["hf://org/tuned@main", "s3://bucket/tuned", "file:///", "folder"])
def test_every_form_of_a_path_is_an_address(path: str, tmp_path: Path) -> None:
    """A folder, or what the YAML takes too."""
    given = {"folder": str(tmp_path), "file:///": f"file://{tmp_path}"}.get(path, path)

    assert read(made(path=given)).address == (f"file://{tmp_path}" if given != path else path)


@pytest.mark.parametrize("digest", [None, MANIFEST.digest, f"sha256:{MANIFEST.digest}", MANIFEST.digest.upper(), COMMIT])
def test_a_promise_is_the_manifests_hash_or_the_commit(digest: str | None) -> None:
    """What fits is passed on, with the run that made it."""
    assert read(made(digest=digest)).confirmed(SEEN) == Seen(SEEN.source, SEEN.revision, SEEN.manifest, "8e44df91-abbe")


def test_a_broken_promise_names_all_values() -> None:
    """The digest that was given, that of the content, and the commit."""
    with pytest.raises(ConfigError) as caught:
        read(made(digest="d" * 64)).confirmed(SEEN)

    text = caught.value.problem.text()
    assert "d" * 64 in text and MANIFEST.digest in text and COMMIT in text and "run 8e44df91" in text


def test_a_glance_is_compared_within_one_materialisation() -> None:
    """The source sees its own words again (an ETag), until another materialisation names it: then it begins afresh."""
    own = Glance("hf://org/tuned", "etag", "hint")
    told = read(made()).glanced(own)

    assert read(made()).before(told) == own
    assert read(made(number=8)).before(told) is None and read(made()).before(own) is None and read(made()).before(None) is None
    assert not told.same(read(made(number=8)).glanced(own))


def test_what_was_only_reported_names_no_run() -> None:
    """An event from outside has none."""
    with pytest.raises(ConfigError, match="asset team/tuned, as it was reported, does not say where"):
        read(Made("team/tuned", 1, "", {}))
