"""file://: a folder is what it contains, once nobody writes to it any more."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from infra.errors import ConfigError, Timeout, Transient
from infra.waiting import Phase, Progress
from infra.weights import Access, Source, Store, open_source, parse
from tests.doubles.model import model_files

SETTLED = Access(settle_seconds=0.0)


def lay(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def folder(path: Path, access: Access = SETTLED) -> Source:
    return open_source(parse(f"file://{path.name}", path.parent), access, allow_pickle=False)


def test_a_folder_is_identified_by_the_content_of_what_an_engine_needs(tmp_path: Path) -> None:
    """Two copies are one revision; a README changes nothing, a byte of the weights does."""
    one, two = lay(tmp_path / "one", model_files()), lay(tmp_path / "two", model_files() | {"README.md": b"another"})
    seen = folder(one).look(Progress())

    assert seen.manifest == folder(two).look(Progress()).manifest
    assert seen.revision == seen.manifest.digest
    assert {f.path: f.digest for f in seen.manifest.files}["config.json"] == "sha256:" + sha256(model_files()["config.json"]).hexdigest()
    assert folder(lay(tmp_path / "three", model_files(seed=1))).look(Progress()).revision != seen.revision


def test_a_folder_that_is_being_copied_is_not_believed(tmp_path: Path) -> None:
    """While a copy runs the weights are longer at every look; the look ends with the whole folder, never with a half."""
    root = lay(tmp_path / "v1", {name: content for name, content in model_files().items() if name != "model.safetensors"})
    weights = model_files()["model.safetensors"]

    def copy() -> None:
        with (root / "model.safetensors").open("wb") as file:
            for at in range(0, len(weights), len(weights) // 8):
                file.write(weights[at : at + len(weights) // 8])
                file.flush()
                time.sleep(0.05)

    copier = threading.Thread(target=copy)
    copier.start()
    seen = folder(root, Access(settle_seconds=0.3)).look(Progress())
    copier.join()

    assert {f.path: f.size for f in seen.manifest.files}["model.safetensors"] == len(weights)


def test_a_folder_that_changes_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    """Two equal scans around the reading: a file that comes in between is part of what was seen."""
    root = lay(tmp_path / "v1", model_files())

    def intrude(phase: Phase) -> None:
        if "reading" in phase.detail and not (root / "special_tokens_map.json").exists():
            (root / "special_tokens_map.json").write_text("{}")

    seen = folder(root).look(Progress(report=intrude))

    assert "special_tokens_map.json" in [file.path for file in seen.manifest.files]


def test_a_folder_that_never_rests_is_a_transient_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so instead of waiting for ever, and the deadline is respected before that."""
    monkeypatch.setattr("infra.weights.folder.SCANS", 2)
    root, stop = lay(tmp_path / "v1", model_files()), threading.Event()

    def scribble() -> None:
        while not stop.wait(0.005):
            (root / "config.json").write_bytes(os.urandom(8))

    threading.Thread(target=scribble, daemon=True).start()
    try:
        with pytest.raises(Transient, match="does not come to rest"):
            folder(root, Access(settle_seconds=0.4)).look(Progress())
        with pytest.raises(Timeout):
            folder(root, Access(settle_seconds=30)).look(Progress(timeout=0.1))
    finally:
        stop.set()


def test_files_that_did_not_change_are_not_read_again(tmp_path: Path) -> None:
    """A sensor looks every minute: unchanged weights of 100 GB must cost a few stats. A changed file is noticed none the less."""
    root, access = lay(tmp_path / "v1", model_files()), replace(SETTLED, scans=tmp_path / "scans.json")
    first = folder(root, access).look(Progress())
    name = first.manifest.files[0].path
    lied = (tmp_path / "scans.json").read_text().replace((first.manifest.files[0].sha256 or "?"), "0" * 64)
    (tmp_path / "scans.json").write_text(lied)
    second = folder(root, access).look(Progress())
    (root / name).write_bytes((root / name).read_bytes())

    assert second.manifest.files[0].sha256 == "0" * 64
    assert folder(root, access).look(Progress()) == first


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    """Links inside are fine; what lies elsewhere may change or vanish unseen."""
    root = lay(tmp_path / "v1", model_files())
    (root / "model.safetensors").rename(root / "real.bin")
    (root / "model.safetensors").symlink_to("real.bin")
    inside = folder(root).look(Progress())
    (root / "model.safetensors").unlink()
    (root / "model.safetensors").symlink_to(lay(tmp_path / "other", model_files()) / "model.safetensors")

    assert any(file.path == "model.safetensors" for file in inside.manifest.files)
    with pytest.raises(ConfigError, match="leads out of its folder"):
        folder(root).look(Progress())


def test_a_folder_that_is_not_there_is_named_with_its_place(tmp_path: Path) -> None:
    """A relative path starts at the YAML file; the message shows where that led."""
    with pytest.raises(ConfigError) as caught:
        folder(tmp_path / "missing").look(Progress())

    assert str(tmp_path / "missing") in (caught.value.problem.why or "")


def test_what_is_stored_does_not_change_when_the_user_edits_the_folder(tmp_path: Path) -> None:
    """Copied, not linked: what serves stays what was verified. An edit between look and copy is an error, not a mixture."""
    root, store = lay(tmp_path / "v1", model_files()), Store(tmp_path / "store", attempts=1)
    source = folder(root)
    stored = store.fill(source, source.look(Progress()), Progress())
    before = (stored.path / "model.safetensors").read_bytes()
    changed = lay(root, model_files(seed=5))
    seen = folder(changed).look(Progress())
    lay(root, model_files(seed=6))

    assert (stored.path / "model.safetensors").read_bytes() == before
    with pytest.raises(Transient, match="damaged"):
        store.fill(source, seen, Progress())
