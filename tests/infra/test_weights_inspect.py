"""Inspect: what an engine would stumble over, found in the headers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.errors import ConfigError
from infra.weights import Facts, File, Manifest, facts, problems
from tests.doubles.model import model_files, tensors


def lay(folder: Path, files: dict[str, bytes]) -> Manifest:
    """Writes the files; their manifest."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return Manifest(tuple(File(name, len(content), "git:0") for name, content in files.items()))


def sharded() -> dict[str, bytes]:
    one, two = tensors(("a", "BF16", (10, 10))), tensors(("b", "BF16", (10, 10)))
    where = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    files = {"model.safetensors.index.json": json.dumps({"metadata": {"total_size": 400}, "weight_map": where}).encode()}
    rest = {name: content for name, content in model_files().items() if name != "model.safetensors"}
    return rest | files | {where["a"]: one, where["b"]: two}


def found(folder: Path, files: dict[str, bytes], allow_pickle: bool = False) -> str:
    every = problems(folder, lay(folder, files), allow_pickle)
    assert all(isinstance(one, ConfigError) and one.problem.why and one.problem.next for one in every)
    return "\n".join(one.problem.text() for one in every)


def test_facts_come_from_headers_and_configuration(tmp_path: Path) -> None:
    """Type, number of parameters and size without a library of tensors."""
    files = model_files(rows=1000)
    lay(tmp_path, files)

    assert facts(tmp_path) == Facts("LlamaForCausalLM", "BF16", 100_010, 1, len(files["model.safetensors"]))


def test_whole_weights_have_no_problems(tmp_path: Path) -> None:
    """No false alarm, with one file as with shards."""
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()

    assert found(tmp_path / "one", model_files()) == ""
    assert found(tmp_path / "many", sharded()) == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"config.json": None}, "config.json is missing"),
        ({"config.json": b"{nonsense"}, "config.json can not be read"),
        ({"config.json": b"[]"}, "holds no JSON object"),
        ({"tokenizer.json": None}, "the tokenizer is missing"),
        ({"model.safetensors": None}, "there are no weights"),
        ({"model.safetensors": b"\xff" * 100}, "the header claims"),
        ({"model.safetensors": b"abc"}, "not a whole safetensors file"),
        ({"model.safetensors": b"\x04\0\0\0\0\0\0\0nope"}, "the header is not one"),
        ({"model.safetensors": model_files()["model.safetensors"][:-1]}, "cut short"),
        ({"model.safetensors": model_files()["model.safetensors"] + b"x"}, "has 200,041"),
        ({"model.safetensors": None, "pytorch_model.bin": b"x"}, "allow_pickle: true"),
    ],
)
def test_what_an_engine_could_not_load_is_named(tmp_path: Path, change: dict[str, bytes | None], said: str) -> None:
    """Each in a second here instead of a traceback of an engine a minute later."""
    files = {name: content for name, content in (model_files() | change).items() if content is not None}

    assert said in found(tmp_path, files)


def test_pickles_are_no_problem_when_they_are_allowed(tmp_path: Path) -> None:
    """The user said that the author is trusted."""
    files = {name: content for name, content in model_files().items() if name != "model.safetensors"} | {"pytorch_model.bin": b"x"}

    assert found(tmp_path, files, allow_pickle=True) == ""
    assert facts(tmp_path).dtype == "pickle"


def test_an_index_that_names_what_is_not_there_is_found(tmp_path: Path) -> None:
    """Shards that lack, and shards of another export."""
    files = sharded()
    lacking = {name: content for name, content in files.items() if "00002-of" not in name}
    swapped = files | {"model-00002-of-00002.safetensors": tensors(("c", "BF16", (10, 10)))}
    for name in ("lacking", "swapped", "broken"):
        (tmp_path / name).mkdir()

    assert "1 of 2 shards are missing" in found(tmp_path / "lacking", lacking)
    assert "the first is b in model-00002-of-00002.safetensors" in found(tmp_path / "swapped", swapped)
    assert "index.json can not be read" in found(tmp_path / "broken", files | {"model.safetensors.index.json": b"{}"})


def test_a_tensor_whose_place_does_not_fit_its_shape_is_found(tmp_path: Path) -> None:
    """A header edited by hand, or damaged in a way that keeps it JSON."""
    whole = tensors(("a", "BF16", (10, 10)), ("b", "BF16", (10, 10)))

    assert "the place of tensor a" in found(tmp_path, model_files() | {"model.safetensors": whole.replace(b"[10, 10]", b"[10, 11]", 1)})
