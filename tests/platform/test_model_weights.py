"""`model_weights` on every platform: the files of one revision, whole and verified, where the engine can read them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from infra.errors import ConfigError, PipelineError
from infra.platform import Platform
from infra.waiting import Progress
from infra.weights import Manifest
from tests.platform.conftest import Stand, killed


def test_weights_are_absent_until_they_are_applied(stand: Stand, platform: Platform) -> None:
    """Looking at the source fetches nothing; apply brings every byte; again brings none."""
    release = stand.unfetched()
    assert platform.model_weights.observe(release) is None

    first = platform.model_weights.apply(release, Progress(250))
    again = platform.model_weights.apply(release, Progress(250))
    seen = stand.again().model_weights.observe(release)

    assert (first.changed, again.changed) == (True, False)
    assert (first.fetched_bytes, again.fetched_bytes) == (release.manifest.size, 0)
    assert seen
    assert (seen.path, seen.data_version) == (first.path, release.manifest.digest)
    assert first.facts
    assert first.facts.architecture == "LlamaForCausalLM"
    for file in release.manifest.files:
        assert (stand.files(release) / file.path).read_bytes() == (stand.sources / "weights" / file.path).read_bytes()


def test_a_glance_at_a_source_tells_whether_it_moved(stand: Stand, platform: Platform) -> None:
    """For next to nothing: no weights are fetched, and nothing is made for it."""
    release = stand.unfetched(weights="glanced", seed=4)
    part, base = platform.model_weights, stand.sources
    first = part.glance(release.spec, base, None, Progress(60))
    again = part.glance(release.spec, base, first, Progress(60))
    (base / "glanced" / "config.json").write_text("{}")

    assert again.same(first) and not part.glance(release.spec, base, first, Progress(60)).same(first)
    assert part.observe(release) is None


def test_deleted_weights_are_absent_and_the_source_is_untouched(stand: Stand, platform: Platform) -> None:
    """Twice over; and another release's weights stay."""
    mine, other = stand.release(), stand.release(weights="other", seed=1)

    platform.model_weights.delete(mine, Progress(250))
    platform.model_weights.delete(mine, Progress(250))

    assert platform.model_weights.observe(mine) is None
    assert platform.model_weights.observe(other)
    assert platform.model_weights.verify(other, Progress(250)) == ()
    assert (stand.sources / "weights" / "model.safetensors").exists()


def test_a_fetch_killed_in_the_middle_is_finished_by_the_next(stand: Stand, platform: Platform) -> None:
    """What is half there is not there."""
    release = stand.unfetched(weights="killed", seed=2)
    killed(lambda progress: stand.again().model_weights.apply(release, progress), "weights")
    assert platform.model_weights.observe(release) is None

    platform.model_weights.apply(release, Progress(250))

    assert platform.model_weights.verify(release, Progress(250)) == ()


def test_a_damaged_file_is_found_and_repaired(stand: Stand, platform: Platform) -> None:
    """By apply, from the source, without fetching what is good."""
    release = stand.release()
    file = stand.files(release) / "config.json"
    content = file.read_bytes()
    file.chmod(0o600)
    file.write_bytes(content[:-1] + b" ")

    bad = platform.model_weights.verify(release, Progress(250))
    platform.model_weights.apply(release, Progress(250))

    assert [one.path for one in bad] == ["config.json"]
    assert platform.model_weights.verify(release, Progress(250)) == ()
    assert file.read_bytes() == content


def test_a_source_that_has_moved_on_is_an_error_and_never_other_weights(stand: Stand, platform: Platform) -> None:
    """A release names its bytes; what the folder holds today is another release."""
    release = stand.unfetched()
    files = tuple(replace(file, digest="sha256:" + "0" * 64) if file.path == "config.json" else file for file in release.manifest.files)

    with pytest.raises(PipelineError):
        platform.model_weights.apply(replace(release, manifest=Manifest(files)), Progress(1))

    assert platform.model_weights.observe(replace(release, manifest=Manifest(files))) is None


def test_weights_that_no_engine_could_load_are_refused_here(stand: Stand, platform: Platform) -> None:
    """Not after a minute of starting."""
    release = stand.unfetched()
    without = Manifest(tuple(file for file in release.manifest.files if not file.path.startswith("tokenizer")))

    with pytest.raises(ConfigError) as told:
        platform.model_weights.apply(replace(release, manifest=without), Progress(250))

    assert "tokenizer" in told.value.problem.what


def test_verify_of_what_is_not_here_names_every_file(stand: Stand, platform: Platform) -> None:
    """Absent is as bad as damaged."""
    release = stand.unfetched(weights="absent", seed=3)

    assert {bad.path for bad in platform.model_weights.verify(release, Progress(250))} == {file.path for file in release.manifest.files}
