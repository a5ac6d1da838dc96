"""Settings: read in one place, wrong ones named, and nothing of ours or yours in the wrong hands."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from infra import settings
from infra.errors import ConfigError


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without any setting."""
    for name in list(os.environ):
        if name.startswith(("LLM_PIPELINE_", "HF_", "HUGGING", "DAGSTER_", "AWS_", "TMPDIR")):
            monkeypatch.delenv(name)
    return monkeypatch


def test_without_any_variable_everything_lies_in_the_clone() -> None:
    """And Dagster's one instance too."""
    found = settings.load()

    assert found.home == settings.ROOT / ".llm-pipeline"
    assert found.cache_dir == found.home / "cache"
    assert found.instance_dir == settings.ROOT
    assert (found.endpoint_port, found.dagster_port) == (8000, 3000)
    assert found.api_key is None
    assert found.hf_token is None


def test_variables_are_read_and_paths_made_absolute(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`~` and relative paths mean the same from every directory afterwards; an empty variable is none."""
    bare.chdir(tmp_path)
    bare.setenv("LLM_PIPELINE_HOME", "here")
    bare.setenv("LLM_PIPELINE_CACHE", "~/cache")
    bare.setenv("LLM_PIPELINE_ENDPOINT_PORT", "")
    bare.setenv("HUGGING_FACE_HUB_TOKEN", "hf_old")
    bare.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    bare.setenv("HF_HOME", str(tmp_path / "hf"))

    found = settings.load()

    assert found.home == tmp_path / "here"
    assert found.cache_dir == Path.home() / "cache"
    assert found.endpoint_port == 8000
    assert found.hf_token
    assert found.hf_token.get_secret_value() == "hf_old"
    assert found.instance_dir == tmp_path / "dagster"
    assert found.hub_cache == tmp_path / "hf" / "hub"


def test_where_a_value_comes_from_can_be_told(bare: pytest.MonkeyPatch) -> None:
    """By the variable's own name."""
    bare.setenv("LLM_PIPELINE_ENDPOINT_PORT", "8001")
    bare.setenv("HF_TOKEN", "hf_x")

    found = settings.load()

    assert found.origin("endpoint_port") == "LLM_PIPELINE_ENDPOINT_PORT"
    assert found.origin("hf_token") == "HF_TOKEN"
    assert found.origin("home") == "default"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LLM_PIPELINE_ENDPOINT_PORT", "http"),
        ("LLM_PIPELINE_ENDPOINT_PORT", "70000"),
        ("LLM_PIPELINE_DAGSTER_PORT", "0"),
        ("LLM_PIPELINE_STALL_SECONDS", "-1"),
        ("LLM_PIPELINE_CACHE_LIMIT", "lots"),
    ],
)
def test_a_wrong_value_is_named_by_its_variable(bare: pytest.MonkeyPatch, variable: str, value: str) -> None:
    """One message with what it means and what to do, and no traceback of pydantic's."""
    bare.setenv(variable, value)

    with pytest.raises(ConfigError) as told:
        settings.load()

    assert variable in told.value.problem.what
    assert told.value.problem.why
    assert variable in (told.value.problem.next or "")


def test_a_secret_is_never_printed(bare: pytest.MonkeyPatch) -> None:
    """Neither by repr nor by a dump."""
    bare.setenv("LLM_PIPELINE_API_KEY", "very-private")
    bare.setenv("HF_TOKEN", "also-private")

    found = settings.load()

    assert "private" not in f"{found!r} {found} {found.model_dump_json()}"


def test_children_inherit_no_secrets_and_none_of_the_variables_that_would_change_them(bare: pytest.MonkeyPatch) -> None:
    """An engine with VLLM_API_KEY would refuse our own questions; RAY_ADDRESS would join another cluster."""
    hidden = (
        "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "LLM_PIPELINE_API_KEY", "LLM_PIPELINE_WEBHOOK_URL", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE",
        "VLLM_API_KEY", "OPENAI_API_KEY", "GITHUB_TOKEN", "DB_PASSWORD", "RAY_ADDRESS", "DAGSTER_HOME", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV",
    )  # fmt: skip
    for name in (*hidden, "TOKENIZERS_PARALLELISM", "HTTP_PROXY", "LANG"):
        bare.setenv(name, "x")

    env = settings.base_environment()

    assert not set(hidden) & set(env)
    assert {"TOKENIZERS_PARALLELISM", "HTTP_PROXY", "LANG", "PATH"} <= set(env)
    assert "127.0.0.1" in env["NO_PROXY"]
    assert env["NO_PROXY"] == env["no_proxy"]


def test_awss_own_variables_are_passed_on_as_they_are(bare: pytest.MonkeyPatch) -> None:
    """Theirs, not ours."""
    bare.setenv("AWS_PROFILE", "work")

    assert settings.load().aws == {"AWS_PROFILE": "work"}


def test_a_secret_file_is_made_once_and_only_for_us(tmp_path: Path) -> None:
    """Long enough that nobody guesses it; the folder is private too."""
    first = settings.secret(tmp_path / "a" / "token")

    assert settings.secret(tmp_path / "a" / "token") == first
    assert settings.secret(tmp_path / "b" / "token") != first
    assert len(first) == 64
    assert (tmp_path / "a" / "token").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700


def test_only_settings_reads_the_environment() -> None:
    """Elsewhere below the command line a value comes as an argument: so a test, or a second platform, can give another one.

    What runs inside of the image is another program: arguments reach it by its environment.
    """
    reading: list[str] = []
    for folder in ("infra", "assets"):
        for path in sorted((settings.ROOT / folder).rglob("*.py")):
            reading += [
                f"{path.relative_to(settings.ROOT)}:{node.lineno}"
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv")
            ]

    assert [where for where in reading if not where.startswith(("infra/settings.py", "infra/local/inside/", "infra/kubernetes/inside/"))] == []
