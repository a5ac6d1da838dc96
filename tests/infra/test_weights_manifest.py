"""Manifest: which files an engine needs, and the hash that says whether anything changed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigError
from infra.weights import File, Manifest, Seen, needed
from infra.weights.manifest import select

CONFIGS = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]


def test_of_a_repository_only_what_an_engine_reads_is_taken() -> None:
    """README, pictures, other formats, optimiser states and the author's originals are never fetched."""
    ballast = ["README.md", ".gitattributes", "LICENSE", "curve.png", "model.gguf", "onnx/model.onnx", "original/consolidated.00.pth"]
    ballast += ["training_args.bin", "trainer_state.json", "all_results.json", "flax_model.msgpack", "tf_model.h5", "pytorch_model.bin"]
    ballast += ["consolidated.safetensors", "model.fp16.safetensors", "runs/events.json", "tf_model.h5.index.json", "train.py"]
    wanted = ["model.safetensors", "merges.txt", "vocab.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"]
    wanted += [
        "preprocessor_config.json",
        "processor_config.json",
        "spiece.model",
        "additional_chat_templates/tools.jinja",
        "modeling_x.py",
    ]

    assert needed(CONFIGS + wanted + ballast, False) == sorted(CONFIGS + wanted)


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (["model.safetensors", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
         ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]),
        (["model.safetensors", "consolidated.safetensors"], ["model.safetensors"]),
        (["consolidated.safetensors"], ["consolidated.safetensors"]),
        (["weights.safetensors", "adapter_model.safetensors"], ["weights.safetensors"]),
        (["model-00001-of-00001.safetensors"], ["model-00001-of-00001.safetensors"]),
    ],
)  # fmt: skip
def test_of_several_copies_of_the_weights_exactly_one_is_taken(there: list[str], taken: list[str]) -> None:
    """An engine loads every safetensors file that it finds: two copies would be loaded into one model."""
    assert needed(there, False) == taken


def test_pickles_are_taken_only_when_allowed_and_only_without_safetensors() -> None:
    """Unpickling runs code of the author, so it needs a word from the user."""
    shards = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"]

    assert needed([*CONFIGS, *shards], True) == sorted([*CONFIGS, *shards])
    assert needed([*CONFIGS, *shards], False) == CONFIGS
    assert needed([*CONFIGS, *shards, "model.safetensors"], True) == sorted([*CONFIGS, "model.safetensors"])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["pytorch_model.bin"], "allow_pickle: true"),
        (["model.gguf"], ".gguf"),
        (["adapter_model.safetensors"], "LoRA"),
        ([], "no *.safetensors"),
    ],
)
def test_a_source_without_usable_weights_is_refused_with_what_it_has_instead(names: list[str], said: str) -> None:
    """Found by the list of names, before a byte is fetched."""
    with pytest.raises(ConfigError) as caught:
        select([*CONFIGS, *names], False, "hf://org/x")

    assert said in caught.value.problem.text()


def test_the_hash_depends_on_names_sizes_and_digests_and_on_nothing_else() -> None:
    """Equal files are an equal revision, in whatever order they were listed."""
    one, two = File("a.json", 1, "git:00"), File("b.json", 2, "git:11")

    assert Manifest((one, two)).digest == Manifest((two, one)).digest
    assert len({Manifest((one, two)).digest, Manifest((one,)).digest, Manifest((one, File("b.json", 3, "git:11"))).digest}) == 3
    assert Manifest((one, File("b.json", 2, "git:12"))).digest != Manifest((one, two)).digest
    assert Manifest((one, two)).size == 3


@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9_.-]{0,20}", fullmatch=True), st.integers(0, 10**12), max_size=8))
def test_what_is_written_down_is_read_back_equal(sizes: dict[str, int]) -> None:
    """Records keep manifests for years: nothing may be lost on the way."""
    seen = Seen("hf://org/x", "ab" * 20, Manifest(tuple(File(path, size, f"sha256:{size:064x}") for path, size in sizes.items())))

    assert Seen.from_dict(seen.to_dict()) == seen


@pytest.mark.parametrize("path", ["../config.json", "/etc/passwd", "a/../../b", "", "a\nb.json", "./a.json", "a//b.json"])
def test_a_file_name_that_leads_elsewhere_is_refused(path: str) -> None:
    """A manifest comes from somebody else: it must never write outside its folder."""
    with pytest.raises(ConfigError, match="outside"):
        File(path, 1, "git:00")


def test_two_files_of_one_name_are_refused() -> None:
    """Which of them an engine would read is nobody's guess."""
    with pytest.raises(ConfigError, match="twice"):
        Manifest((File("a.json", 1, "git:00"), File("a.json", 2, "git:00")))
