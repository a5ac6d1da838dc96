"""Nasty names: whatever stands in YAML reaches a program as exactly one argument, or is refused with file, line and key."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra import engine
from infra.declarations import Declarations, load_tree
from infra.local.processes import spawn
from infra.platform import Release
from infra.specs import ModelSpec
from infra.waiting import Progress
from tests.doubles.releases import MANIFEST

NASTY = (
    "$(touch /tmp/owned)", "`id`", "a; rm -rf ~", "a && b", "a | b", "a > /etc/x", "'", '"', "'; drop", "a\nb", "a\r\nHost: x", "a\tb", "a\0b", "\x1b[2J", "--host=0.0.0.0",
    "-c", "../../etc/passwd", "/etc/passwd", "~root", "%n%s", "{{ x }}", "${HOME}", "\u202e", "\ud800", "é" * 3, "*", "?", "a\\", " ", "a b", "#x", "!!python/name:os.system",
)  # fmt: skip
TEXT = st.one_of(st.sampled_from(NASTY), st.text(min_size=1, max_size=30), st.builds("{}{}".format, st.sampled_from(NASTY), st.text(max_size=5)))
WHERE = re.compile(r"assets/models/[^:]+/defs\.yaml:\d+")


def tree(root: Path, folder: str = "demo", **attributes: Any) -> Declarations:
    """What is read when these stand in a YAML."""
    for name, kind, keys in (("clusters/local", "Cluster", {"platform": "local"}), (f"models/{folder}", "Model", {"cluster": "local", "weights": "file://w", **attributes})):
        file = root / "assets" / name / "defs.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump({"type": f"llm_pipeline.components.{kind}", "attributes": keys}))
    return load_tree(root)


def accepted(found: Declarations, key: str) -> ModelSpec | None:
    """The spec; None when it was refused as it must be: place and key in the words of the error."""
    if found.models:
        return next(iter(found.models.values())).spec
    (broken,) = found.broken
    text = broken.problem.text()
    assert WHERE.search(text), text
    assert key in text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text), "an error must not speak to the terminal"
    return None


def arguments(spec: ModelSpec) -> list[str]:
    """The command line of its engine."""
    return engine.server_arguments(Release(spec, "r1", MANIFEST, "local:" + "0" * 16, "file://w"), "/w", "127.0.0.1", 20_000, {})


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(text=TEXT)
def test_a_served_name_is_plain_or_refused(tmp_path: Path, text: str) -> None:
    """It stands in the router's table, in headers and on command lines."""
    spec = accepted(tree(tmp_path, served_name=text), "served_name")

    assert spec is None or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:/-]*", spec.served_name)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(text=TEXT, listed=st.booleans())
def test_a_value_of_an_engine_argument_is_one_argument_that_is_no_option(tmp_path: Path, text: str, listed: bool) -> None:
    """Whatever is in it: never a second argument, and never one of those that the product sets itself."""
    spec = accepted(tree(tmp_path, engine={"extra": {"tokenizer_mode": [text, "x"] if listed else text}}), "tokenizer_mode")
    if spec is None:
        return
    argv = arguments(spec)

    after = argv.index("--tokenizer-mode") + 1
    assert argv[after : after + 2] == [text, "x"] if listed else argv[after] == text
    assert len(argv) == len(arguments(spec.model_copy(update={"engine": spec.engine.model_copy(update={"extra": {}})}))) + (3 if listed else 2)
    assert not text.startswith("-")
    assert [word for word in argv if word.startswith("--host")] == ["--host"]
    text.encode()
    assert "\0" not in text


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(text=TEXT)
def test_the_name_of_an_engine_argument_is_a_name(tmp_path: Path, text: str) -> None:
    """It becomes a flag."""
    spec = accepted(tree(tmp_path, engine={"extra": {text: 1}}), "extra")

    assert spec is None or re.fullmatch(r"[a-z][a-z0-9_]*", text)


@pytest.mark.parametrize("folder", ["a b", "$(id)", "a;b", "a'b", 'a"b', "-c", "a\nb", "é", "A"])
def test_a_models_name_is_plain_or_refused(tmp_path: Path, folder: str) -> None:
    """It is that of a folder, and names processes, files, tags and routes."""
    found = tree(tmp_path, folder)

    assert list(found.models) == []
    assert "defs.yaml" in found.broken[0].problem.text()


@pytest.mark.parametrize("text", [text for text in NASTY if not text.startswith("-") and "\0" not in text and text.isprintable() and "{{" not in text])
def test_a_program_gets_what_was_written(tmp_path: Path, text: str) -> None:
    """Through the real start of a process: no shell has touched it, nothing was expanded, nothing was split."""
    spec = accepted(tree(tmp_path, engine={"extra": {"tokenizer_mode": text}}), "tokenizer_mode")
    assert spec
    argv = arguments(spec)
    tell = f"import json, os, sys; json.dump(sys.argv[1:], open({str(tmp_path / 'got')!r}, 'w'))"
    identity = spawn([sys.executable, "-c", tell, *argv], mark="x:test:x", record=tmp_path / "p.json", log=tmp_path / "log", env={}, cwd=tmp_path)
    Progress(20).until(lambda: not identity.alive or None, every=0.02)

    assert json.loads((tmp_path / "got").read_text()) == argv
