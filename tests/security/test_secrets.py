"""Secrets in memory: whatever a crash, a log line or a dump makes of our values shows none."""

from __future__ import annotations

import dataclasses
import json
import os
import pprint
import traceback
from pathlib import Path

import pytest

from infra import settings
from infra.local.model_weights import LocalWeights
from infra.weights import Access, open_source, parse

SECRETS = {
    "HF_TOKEN": "hf_" + "q" * 20, "LLM_PIPELINE_API_KEY": "apikey-in-the-clear", "LLM_PIPELINE_WEBHOOK_URL": "https://hooks/in-the-clear",
    "AWS_SECRET_ACCESS_KEY": "aws-in-the-clear", "AWS_SESSION_TOKEN": "session-in-the-clear", "AWS_ACCESS_KEY_ID": "id-in-the-clear",
}  # fmt: skip


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> settings.Settings:
    """Settings with every secret there is, read already."""
    for name in [name for name in os.environ if name.startswith(("LLM_PIPELINE_", "HF_", "AWS_"))]:
        monkeypatch.delenv(name)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LLM_PIPELINE_HOME", str(tmp_path))
    return settings.load()


def shown(*texts: object) -> list[str]:
    """The secrets that stand in one of these."""
    return [name for name, value in SECRETS.items() for text in texts if value in str(text)]


def test_settings_show_no_secret(found: settings.Settings) -> None:
    """By repr, text, dump, JSON or format, before and after they were used."""
    assert found.hf_token and found.hf_token.get_secret_value() == SECRETS["HF_TOKEN"]
    assert found.aws["AWS_SECRET_ACCESS_KEY"] == SECRETS["AWS_SECRET_ACCESS_KEY"]

    assert shown(repr(found), str(found), f"{found:}", found.model_dump(), found.model_dump(mode="json"), found.model_dump_json(), pprint.pformat(found)) == []


def test_what_reaches_sources_shows_no_secret(found: settings.Settings) -> None:
    """Neither Access nor whatever holds it."""
    access = Access(hf_token=found.hf_token, aws=found.aws)
    sources = [open_source(parse(uri, Path("/")), access) for uri in ("hf://org/name", "s3://bucket/prefix", "file:///w")]
    part = LocalWeights(found)

    assert (access.token, access.aws_variables["AWS_SESSION_TOKEN"]) == (SECRETS["HF_TOKEN"], SECRETS["AWS_SESSION_TOKEN"])
    texts = [repr(access), str(access), dataclasses.asdict(access), json.dumps(dataclasses.asdict(access), default=str), vars(access)]
    assert shown(*texts, *sources, *map(vars, sources), vars(part)) == []


def test_a_crash_with_all_its_variables_shows_no_secret(found: settings.Settings) -> None:
    """What a crash reporter keeps: the frames with their locals."""
    access = Access(hf_token=found.hf_token, aws=found.aws)

    def crash(given: Access, config: settings.Settings) -> None:
        raise RuntimeError(f"{given} {config}")

    with pytest.raises(RuntimeError) as caught:
        crash(access, found)
    told = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert shown("".join(told.format())) == []
