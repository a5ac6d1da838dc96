"""Whether a source moved, for next to nothing: what is asked, what is not, and what happens when a host has enough of us."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from infra.errors import ConfigError, Timeout, Transient
from infra.waiting import Phase, Progress
from infra.weights import Access, Glance, Source, open_source, parse
from infra.weights.glance import RESTS, Rests
from tests.doubles.hub import Hub
from tests.doubles.model import lay_model, model_files
from tests.doubles.s3 import S3

FILES = model_files()
SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as double:
        yield double
    assert double.unexpected == []


def source(hub: Hub, uri: str = "hf://org/tiny") -> Source:
    return open_source(parse(uri, Path("/")), Access(hf_endpoint=hub.endpoint, stall_seconds=5.0))


def glance(mine: Source, last: Glance | None = None) -> Glance:
    return mine.glance(last, Progress(60))


def test_a_hub_where_nothing_moved_is_asked_one_small_question(hub: Hub) -> None:
    """With the ETag of before: the answer is 304 without a body, also while others download."""
    hub.commit("org/tiny", FILES)
    first = glance(source(hub))
    hub.requests.clear(), hub.answers.clear()

    again = glance(source(hub), first)

    assert again.same(first) and len(hub.requests) == 1 and hub.answers == [304]


def test_a_hub_is_at_another_commit_when_the_branch_moved_forward_or_back(hub: Hub) -> None:
    """Whichever way it went; the branch that is declared, not another one."""
    old = hub.commit("org/tiny", FILES)
    first = glance(source(hub, "hf://org/tiny@main"))
    new = hub.commit("org/tiny", model_files(seed=1))
    hub.commit("org/tiny", model_files(seed=2), branch="other")
    second = glance(source(hub, "hf://org/tiny@main"), first)
    hub.repos["org/tiny"].refs["main"] = old

    assert (first.mark, second.mark) == (old, new)
    assert glance(source(hub, "hf://org/tiny@main"), second).same(first)
    assert glance(source(hub, "hf://org/tiny@other"), first).mark not in (old, new)


def test_a_commit_is_never_asked_about(hub: Hub) -> None:
    """It is what it is for ever."""
    assert glance(source(hub, f"hf://org/tiny@{SHA}")).mark == SHA
    assert hub.requests == []


def test_a_mirror_without_etags_is_asked_in_full_and_compared_by_its_commit(hub: Hub) -> None:
    """An ETag saves a body, and decides nothing."""
    hub.commit("org/tiny", FILES)
    first = replace(glance(source(hub)), hint="")

    assert glance(source(hub), first).same(first) and hub.requests[-1].if_none_match is None


def test_one_limit_of_a_hub_is_kept_by_all_its_models(hub: Hub) -> None:
    """The first 429 names a time; until then nobody asks, and each model's problem says so."""
    hub.commit("org/tiny", FILES), hub.commit("org/other", FILES)
    hub.fault("status", path="*org/tiny", status=429, retry_after="300")
    with pytest.raises(Transient, match="limits our rate"):
        glance(source(hub))

    with pytest.raises(Transient, match=r"is not asked for \d+ s") as caught:
        glance(source(hub, "hf://org/other"))

    assert len(hub.requests) == 1 and caught.value.retry_after and caught.value.retry_after <= 300
    with pytest.raises(Transient, match="no model asks it before"):
        RESTS.check(f"{hub.endpoint}/x", "hf://org/third")
    RESTS.check("https://huggingface.co", "hf://org/tiny")


def test_a_rest_that_is_over_holds_nobody() -> None:
    """Only the longest of several counts, and only while it lasts."""
    rests = Rests()
    rests.ask_for("https://hub", 300)
    rests.ask_for("https://hub", 0)
    rests.ask_for("https://other", 0)

    rests.check("https://other/x", "hf://a/b")
    with pytest.raises(Transient):
        rests.check("https://hub/x", "hf://a/b")


@pytest.mark.parametrize(("status", "kind", "told"), [(500, Transient, "failure of its own"), (404, ConfigError, "no repository")])
def test_a_hub_that_refuses_is_told_as_by_a_look(hub: Hub, status: int, kind: type[Exception], told: str) -> None:
    """And after a failure the next glance asks again: a 500 is no limit."""
    hub.commit("org/tiny", FILES)
    hub.fault("status", status=status)
    with pytest.raises(kind, match=told):
        glance(source(hub))

    assert glance(source(hub)).mark


def test_a_hub_that_can_not_be_reached_is_transient() -> None:
    """Never the same as "nothing moved"."""
    with Hub() as gone:
        mine = source(gone)

    with pytest.raises(Transient, match="can not be reached"):
        glance(mine, Glance(f"{gone.endpoint} hf://org/tiny pickle=False", SHA, "etag"))


def test_a_bucket_is_listed_once_and_compared_by_its_etags() -> None:
    """The same upload moves nothing; another content does; no object is fetched."""
    with S3(page=3) as s3:
        for name, content in FILES.items():
            s3.put("models", f"tiny/{name}", content)
        mine = open_source(parse("s3://models/tiny", Path("/")), Access(aws=s3.aws, stall_seconds=5.0))
        first = glance(mine)
        s3.put("models", "tiny/config.json", FILES["config.json"])
        s3.put("models", "tiny/README.md", b"new")
        same = glance(mine, first)
        s3.put("models", "tiny/config.json", b"{}")

        assert same.same(first) and not glance(mine, same).same(first)
        assert not [key for method, key, _ in s3.requests if key.endswith(".json")]


def test_a_folder_is_glanced_at_without_reading_a_byte(tmp_path: Path) -> None:
    """A write moves it, also one that keeps size and time; a file that no engine reads does not."""
    root = lay_model(tmp_path / "v1")
    os.truncate(root / "model.safetensors", 1 << 40)  # to read it would take an hour
    mine = open_source(parse(f"file://{root}", Path("/")), Access())
    first = glance(mine)
    (root / "README.md").write_text("new")
    same = glance(mine, first)
    content = (root / "config.json").read_bytes()
    (root / "config.json").write_bytes(content[:-1] + b" ")
    os.utime(root / "config.json", (0, 0))

    assert same.same(first) and not glance(mine, first).same(first)


def test_another_declaration_is_never_the_same_as_before(tmp_path: Path) -> None:
    """What may be loaded decides which files count."""
    root = lay_model(tmp_path / "v1")
    strict, lax = (open_source(parse(f"file://{root}", Path("/")), Access(), allow_pickle=lax) for lax in (False, True))

    assert not glance(lax).same(glance(strict))


def test_a_reading_that_ran_out_of_time_is_gone_on_with(tmp_path: Path) -> None:
    """A tick has less time than a hundred gigabytes need: each one reads some files more."""
    root, scans = lay_model(tmp_path / "v1"), tmp_path / "scans.json"
    mine = open_source(parse(f"file://{root}", Path("/")), Access(scans=scans, settle_seconds=0.0))
    (root / "vocab.json").touch()
    os.truncate(root / "vocab.json", 1 << 40)  # the last one, and an hour long
    told: list[str] = []

    def enough() -> None:
        if sum("MB/s" in detail for detail in told) >= 2:
            raise Timeout("the tick is over")

    with pytest.raises(Timeout, match="the tick is over"):
        mine.look(Progress(600, report=lambda phase: told.append(phase.detail), stop=enough))

    assert "config.json" in scans.read_text() and "vocab.json" not in scans.read_text()


def test_folders_that_are_read_at_once_all_stay_known(tmp_path: Path) -> None:
    """They share one file of digests, and write it from several threads."""
    scans, roots = tmp_path / "scans.json", [lay_model(tmp_path / f"v{number}") for number in range(6)]
    sources = [open_source(parse(f"file://{root}", Path("/")), Access(scans=scans, settle_seconds=0.0)) for root in roots]
    threads = [threading.Thread(target=one.look, args=(Progress(60),)) for one in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(str(root) in scans.read_text() for root in roots)


def test_a_glance_says_what_it_does(hub: Hub) -> None:
    """For who follows it."""
    hub.commit("org/tiny", FILES)
    told: list[Phase] = []

    source(hub).glance(None, Progress(60, report=told.append))

    assert "which commit" in told[0].detail
