"""Declared: the address of weights, and what to write instead of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import ConfigError
from infra.weights import Access, Declared, open_source, parse

BASE = Path("/models/demo")


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("hf://Qwen/Qwen3-0.6B", {"scheme": "hf", "repo": "Qwen/Qwen3-0.6B", "revision": None}),
        ("hf://org/name@refs/pr/3", {"repo": "org/name", "revision": "refs/pr/3", "fixed": False}),
        ("hf://org/name@" + "AB" * 20, {"revision": "ab" * 20, "fixed": True, "uri": "hf://org/name@" + "ab" * 20}),
        ("s3://my-bucket/llama/3/", {"scheme": "s3", "bucket": "my-bucket", "prefix": "llama/3", "uri": "s3://my-bucket/llama/3"}),
        ("file://weights/v1", {"scheme": "file", "path": Path("/models/demo/weights/v1")}),
        ("file://../shared", {"path": Path("/models/shared")}),
        ("file:///data/llama", {"path": Path("/data/llama")}),
        ("asset://demo/finetuned", {"scheme": "asset", "key": "demo/finetuned"}),
    ],
)
def test_an_address_is_read_into_its_parts(uri: str, parts: dict[str, object]) -> None:
    """Every form that the documentation names."""
    declared = parse(uri, BASE)

    assert {name: getattr(declared, name) for name in parts} == parts


@pytest.mark.parametrize(
    ("uri", "instead"),
    [
        ("https://huggingface.co/Qwen/Qwen3-0.6B", "hf://Qwen/Qwen3-0.6B"),
        ("https://huggingface.co/org/name/tree/v2", "hf://org/name@v2"),
        ("hf:org/name", "hf://org/name"),
        ("Qwen/Qwen3-0.6B", "hf://Qwen/Qwen3-0.6B"),
        ("./weights", "file://./weights"),
        ("hff://org/name", "hf://org/name"),
        ("hf://models/org/name", "hf://org/name"),
        ("hf://org/name@", "hf://org/name"),
        ("s3://My_Bucket/x", "s3://my-bucket/x"),
        ("s3://bucket/a//b", "s3://bucket/a/b"),
    ],
)
def test_a_wrong_address_is_answered_with_the_right_one(uri: str, instead: str) -> None:
    """People paste what the browser shows."""
    with pytest.raises(ConfigError) as caught:
        parse(uri, BASE)

    assert caught.value.problem.next == f"did you mean {instead} ?"


@pytest.mark.parametrize(
    "uri", ["", "gpt2", "hf://gpt2", "hf://a/b/c", "hf://../etc/x", "hf://o/a--b", "s3://", "file://", "file://~/x", "asset://a b", "ftp"]
)
def test_what_nobody_can_guess_is_answered_with_the_forms_that_exist(uri: str) -> None:
    """Never a traceback, never an address that is taken for another."""
    with pytest.raises(ConfigError) as caught:
        parse(uri, BASE)

    assert caught.value.problem.why
    assert "hf://" in (caught.value.problem.next or "") or "file://weights/v1" in (caught.value.problem.next or "")


def test_another_revision_of_the_same_repository_can_be_named() -> None:
    """`up --revision` asks for one; a folder has none."""
    assert parse("hf://org/name", BASE).at("v2") == Declared("hf://org/name@v2", "hf", repo="org/name", revision="v2")
    with pytest.raises(ConfigError, match="no revisions"):
        parse("file://x", BASE).at("v2")


def test_weights_of_an_asset_are_read_but_not_opened() -> None:
    """The error says which sources there are."""
    with pytest.raises(ConfigError) as caught:
        open_source(parse("asset://demo/weights", BASE), Access(), allow_pickle=False)

    assert "hf://, s3:// or file://" in caught.value.problem.text()


def test_the_token_is_not_in_the_repr_of_access() -> None:
    """A repr ends up in logs and tracebacks."""
    shown = repr(Access(hf_token="hf_abcdefgh12345", aws={"AWS_SECRET_ACCESS_KEY": "abcdef"}))

    assert "abcdef" not in shown
