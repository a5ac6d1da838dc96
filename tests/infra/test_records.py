"""Records as files: what the contract suite of the platforms (tests/platform/test_records.py) does not ask of every platform."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.errors import Conflict, Transient
from infra.local.records import LocalRecords
from infra.waiting import Progress


def test_a_document_is_a_file_that_a_person_can_read(tmp_path: Path) -> None:
    """Version and value, in a folder per owner, for nobody else."""
    LocalRecords(tmp_path).put("demo", "release/abc", {"mark": None}, None)

    file = tmp_path / "records" / "demo" / "release" / "abc.json"
    assert json.loads(file.read_text()) == {"version": 1, "value": {"mark": None}}
    assert file.stat().st_mode & 0o777 == 0o600


def test_reading_makes_nothing(tmp_path: Path) -> None:
    """`status` in a clone where nothing was ever done leaves nothing behind."""
    records = LocalRecords(tmp_path / "home")

    assert (records.get("demo", "pin"), records.list("demo"), records.owners()) == (None, {}, ())
    assert not (tmp_path / "home").exists()


def test_names_with_dots_and_leftovers_of_a_killed_writer_are_told_apart(tmp_path: Path) -> None:
    """A file that was being written beside its place is no document."""
    records = LocalRecords(tmp_path)
    records.put("demo", "attempt/1.2.3", {}, None)
    (tmp_path / "records" / "demo" / ".pin.json.123.456").write_text('{"version"')

    assert list(records.list("demo")) == ["attempt/1.2.3"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1}', '{"value": {}}', "null"])
def test_a_damaged_file_is_told_by_its_path_and_stops_writers_too(tmp_path: Path, content: str) -> None:
    """Nobody may write over what nobody could read; the repair is in the message."""
    records = LocalRecords(tmp_path)
    records.put("demo", "pin", {}, None)
    file = tmp_path / "records" / "demo" / "pin.json"
    file.write_text(content)

    for attempt in (lambda: records.get("demo", "pin"), lambda: records.put("demo", "pin", {}, None), lambda: records.list("demo")):
        with pytest.raises(Transient) as told:
            attempt()
        assert f"rm {file}" in (told.value.problem.next or "")
    assert file.read_text() == content


def test_what_can_not_be_written_is_an_error_in_words(tmp_path: Path) -> None:
    """And the document stays as it was."""
    records = LocalRecords(tmp_path)
    stored = records.put("demo", "pin", {"a": 1}, None)
    (tmp_path / "records" / "demo" / "release").write_text("a file where a folder should be")

    with pytest.raises(Transient, match="can not be written"):
        records.put("demo", "release/x", {}, None)

    assert records.get("demo", "pin") == stored


def test_versions_count_and_begin_anew_after_a_delete(tmp_path: Path) -> None:
    """A writer who knows the old number is refused until it is reached again, which is why nobody deletes what is contended."""
    records = LocalRecords(tmp_path)
    for expected in (None, 1, 2):
        assert records.put("demo", "pin", {}, expected).version == (expected or 0) + 1
    records.delete("demo", "pin")

    with pytest.raises(Conflict) as told:
        records.put("demo", "pin", {}, 3)

    assert "version None, expected 3" in (told.value.problem.why or "")
    assert records.put("demo", "pin", {}, None).version == 1


def test_a_lock_tells_people_who_holds_it_and_never_trusts_that(tmp_path: Path) -> None:
    """The note may be missing or nonsense; the operating system alone decides."""
    records = LocalRecords(tmp_path)
    with records.lock("demo.x", "run 1", Progress(1)):
        who = json.loads((tmp_path / "locks" / "demo.x.who").read_text())
        assert who["who"] == "run 1"
    (tmp_path / "locks" / "demo.x.who").write_text("{")

    with records.lock("demo.x", "run 2", Progress(1)):
        pass


def test_a_lock_is_free_again_after_an_error_inside(tmp_path: Path) -> None:
    """A step that fails must not block the next."""
    records = LocalRecords(tmp_path)
    with pytest.raises(KeyError), records.lock("a/b", "me", Progress(1)):
        raise KeyError

    with records.lock("a/b", "me", Progress(1)):
        pass
