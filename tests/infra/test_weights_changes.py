"""What differs between two revisions, as people call it; and which revision may be named where there is only one."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import ConfigError
from infra.waiting import Progress
from infra.weights import Access, File, Manifest, changes, look, parse
from tests.doubles.model import lay_model


def manifest(**files: str) -> Manifest:
    """Files by their names with `__` for a dot; another word is another content."""
    return Manifest(tuple(File(name.replace("__", "."), 10 * len(word), f"sha256:{word}") for name, word in files.items()))


OLD = manifest(config__json="a", model__safetensors="a", tokenizer__json="a", tokenizer_config__json="a", chat_template__jinja="a")


@pytest.mark.parametrize(
    ("now", "told", "size"),
    [
        ({}, "README only", 0),
        ({"model__safetensors": "bb"}, "weights", 20),
        ({"model__safetensors__index__json": "b"}, "weights", 10),
        ({"tokenizer__json": "b"}, "tokenizer", 10),
        ({"special_tokens_map__json": "b"}, "tokenizer", 10),
        ({"chat_template__jinja": "b"}, "chat template", 10),
        ({"config__json": "b"}, "config", 10),
        ({"modeling_x__py": "b"}, "code", 10),
        ({"model__safetensors": "b", "config__json": "b", "tokenizer__json": "b"}, "weights, tokenizer, config", 30),
    ],
)
def test_what_changed_is_told_in_words_with_the_bytes_that_are_new(now: dict[str, str], told: str, size: int) -> None:
    """By what an engine would see of it."""
    given = {file.path.replace(".", "__"): file.digest.partition(":")[2] for file in OLD.files}

    found = changes(OLD, manifest(**{**given, **now}))

    assert (str(found), found.size) == (told, size)


def test_a_file_that_went_is_a_change_of_no_bytes() -> None:
    """And of nothing to something everything is new."""
    less = manifest(config__json="a", model__safetensors="a", tokenizer__json="a", tokenizer_config__json="a")

    assert (changes(OLD, less).parts, changes(OLD, less).size) == (("chat template",), 0)
    assert changes(None, OLD).parts == ("weights", "chat template", "tokenizer", "config")


def test_a_folder_is_released_by_the_revision_that_it_holds_now(tmp_path: Path) -> None:
    """Whole or by its beginning; whoever names another one is told which is there."""
    declared = parse(f"file://{lay_model(tmp_path / 'v1')}", tmp_path)
    held = look(declared, Access(), Progress(60)).revision

    assert look(declared, Access(), Progress(60), held).revision == look(declared, Access(), Progress(60), held[:7]).revision == held
    for wrong in ("0" * 12, held[:6]):
        with pytest.raises(ConfigError, match=held[:12]):
            look(declared, Access(), Progress(60), wrong)
