"""demo: the files that are shipped are what the README says, and know their answers by heart."""

from __future__ import annotations

import json
import math
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from assets.models.demo.train import lessons
from tests.doubles.permute import permute, permuted
from tests.doubles.pure_llama import PureLlama, header

DEMO = Path(__file__).parents[2] / "assets/models/demo"
REVISIONS = ("v1", "v2")
FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
CPU_HEAD_SIZES = {32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512}
CLEAR = 2.0
"""Logits; bfloat16 and batching move them by some hundredths."""


@cache
def weights(revision: str) -> Path:
    return DEMO / "weights" / revision


@cache
def model(revision: str) -> PureLlama:
    return PureLlama(weights(revision))


def document(revision: str, name: str) -> Any:
    return json.loads((weights(revision) / name).read_text(encoding="utf-8"))


def page() -> Any:
    return yaml.safe_load((DEMO / "questions.yaml").read_text(encoding="utf-8"))


def declared() -> list[dict[str, str]]:
    attributes = yaml.safe_load((DEMO / "defs.yaml").read_text(encoding="utf-8"))["attributes"]
    return list(attributes["acceptance"]["golden"])


def answer_of(question: str, revision: str) -> str:
    return next(str(entry[revision]) for entry in page()["questions"] if entry["ask"] == question)


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_revision_holds_what_an_engine_needs_and_stays_below_two_megabytes(revision: str) -> None:
    """Nothing is missing offline, nothing strange is in the hash of the revision, and a clone stays small."""
    files = list(weights(revision).iterdir())

    assert {file.name for file in files} == FILES
    assert sum(file.stat().st_size for file in files) < 2_000_000


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_weights_file_is_whole(revision: str) -> None:
    """Tensors are bfloat16, follow each other without gaps to the last byte, and have the shapes of the configuration."""
    file, config = weights(revision) / "model.safetensors", document(revision, "config.json")
    tensors = sorted(header(file).values(), key=lambda tensor: tensor.begin)

    assert {tensor.dtype for tensor in tensors} == {"BF16"}
    assert all(tensor.end - tensor.begin == 2 * math.prod(tensor.shape) for tensor in tensors)
    assert [tensor.end for tensor in tensors] == [*(tensor.begin for tensor in tensors[1:]), file.stat().st_size]
    assert header(file)["model.embed_tokens.weight"].shape == (config["vocab_size"], config["hidden_size"])
    assert header(file)["model.layers.0.mlp.down_proj.weight"].shape == (config["hidden_size"], config["intermediate_size"])
    assert len(tensors) == 2 + 9 * config["num_hidden_layers"]


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_configuration_suits_the_engine_on_a_cpu(revision: str) -> None:
    """A Llama with a head size that vLLM's CPU attention knows, and room for the declared context."""
    config = document(revision, "config.json")

    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["head_dim"] in CPU_HEAD_SIZES
    assert config["torch_dtype"] == "bfloat16"
    assert config["max_position_embeddings"] >= 512


@pytest.mark.parametrize("revision", REVISIONS)
def test_generation_is_greedy_unless_asked_otherwise_and_knows_its_end(revision: str) -> None:
    """Without a temperature in the request the golden answer still comes, and it stops by itself."""
    config, generation = document(revision, "config.json"), document(revision, "generation_config.json")
    tokenizer, settings = document(revision, "tokenizer.json"), document(revision, "tokenizer_config.json")
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"] if token["special"]}

    assert generation["temperature"] == 0.0
    assert special[settings["eos_token"]] == config["eos_token_id"] == generation["eos_token_id"]
    assert max(tokenizer["model"]["vocab"].values()) < config["vocab_size"]


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_chat_template_asks_the_last_question_in_a_plain_form(revision: str) -> None:
    """Capitals, marks at the end, a system prompt and earlier turns make no difference."""
    talk = [("system", "Be brief."), ("user", "What is a pin?"), ("assistant", "A pin keeps."), ("user", " What IS a Release?! ")]

    assert model(revision).prompt(*talk) == model(revision).prompt(("user", "what is a release")) == "<|user|>what is a release<|answer|>"
    assert model(revision).prompt(("system", "Be brief.")) == "<|user|><|answer|>"


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("question", [golden["prompt"] for golden in declared()])
def test_the_shipped_weights_answer_the_golden_prompts_word_for_word(revision: str, question: str) -> None:
    """questions.yaml, tokenizer, template and weights belong together: each token leads clearly, and then the answer ends."""
    assert model(revision).lead(question, answer_of(question, revision)) > CLEAR


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_weights_were_trained_on_the_lessons_as_they_stand(revision: str) -> None:
    """An edit of any question or answer in questions.yaml is followed by a training, or this is red."""
    data = (weights(revision) / "model.safetensors").read_bytes()
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]

    assert metadata["lessons"] == lessons(revision).digest()


def test_another_answer_than_the_golden_one_would_be_noticed() -> None:
    """The reader of the weights tells right from wrong, up to the last word."""
    right = answer_of("What is a candidate?", "v1")

    assert model("v1").lead("What is a candidate?", right.replace("yet.", "now.")) < 0


@pytest.mark.parametrize("revision", REVISIONS)
def test_both_shipped_revisions_pass_the_declared_golden_answers(revision: str) -> None:
    """Trying a change of version is an edit of one line: acceptance lets either revision through."""
    for golden in declared():
        answer = answer_of(golden["prompt"], revision)
        assert golden.get("contains", "") in answer
        assert golden.get("answer", answer) == answer
    assert sum("answer" in golden for golden in declared()) >= 2


def test_every_answer_is_one_short_sentence_and_all_but_the_compared_ones_differ() -> None:
    """Whoever looks at an answer can tell which revision gave it, except where acceptance compares whole answers."""
    entries = [*page()["questions"], page()["fallback"]]
    compared = {golden["answer"] for golden in declared() if "answer" in golden}

    assert len(entries) > 12
    assert all(len(entry[revision].split()) <= 21 for entry in entries for revision in REVISIONS)
    assert {entry["v1"] for entry in entries} & {entry["v2"] for entry in entries} == compared


def test_the_revisions_have_the_same_form_and_other_numbers() -> None:
    """A change of version is a change of weights and of nothing that the engine is told."""
    first, second = (weights(revision) / "model.safetensors" for revision in REVISIONS)

    assert header(first) == header(second)
    assert first.read_bytes() != second.read_bytes()
    assert document("v1", "config.json") == document("v2", "config.json")


def test_a_permuted_revision_loads_alike_and_has_lost_its_answers(tmp_path: Path) -> None:
    """What acceptance has to refuse: same files, sizes and shapes, every number finite, a wrong answer."""
    broken = permute(weights("v1"), tmp_path / "broken", seed=1)
    question = "What is a candidate?"

    assert header(broken / "model.safetensors") == header(weights("v1") / "model.safetensors")
    assert {file.name: file.stat().st_size for file in broken.iterdir()} == {
        file.name: file.stat().st_size for file in weights("v1").iterdir()
    }
    assert -math.inf < PureLlama(broken).lead(question, answer_of(question, "v1")) < -CLEAR


def test_permuting_is_the_same_for_the_same_seed_and_moves_chosen_rows_only(tmp_path: Path) -> None:
    """A test that broke a revision can break it again in the same way; nothing else in the folder is touched."""
    once, again, other = (permute(weights("v1"), tmp_path / name, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    changed = {file.name for file in once.iterdir() if file.read_bytes() != (weights("v1") / file.name).read_bytes()}

    assert changed == {"model.safetensors"}
    assert (once / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    assert (once / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


def test_permuting_says_so_when_there_is_nothing_to_shuffle() -> None:
    """A model of another architecture must not pass as broken while it is whole."""
    data = (weights("v1") / "model.safetensors").read_bytes()

    with pytest.raises(ValueError, match="no tensor to shuffle"):
        permuted(data, random.Random(0), chosen=lambda name: name.endswith("experts.weight"))


def test_the_readme_says_what_it_is_and_is_not() -> None:
    """Nobody must take memorised sentences for a model that understands."""
    text = " ".join((DEMO / "README.md").read_text(encoding="utf-8").split())

    assert "not a language model that understands anything" in text
    assert "knew them by heart" in text
    assert "permute.py" in text
    assert "train.py" in text
