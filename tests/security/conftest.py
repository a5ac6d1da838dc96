"""One life of a model with a scripted engine for all tests of this folder, without a way out where this machine allows that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.settings import ROOT
from tests.security import namespace
from tests.security.scripted import Facts


@pytest.fixture(scope="session")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """What was seen of it."""
    folder = tmp_path_factory.mktemp("life")
    program = [sys.executable, "-m", "tests.security.scripted", str(folder)]
    argv = program if namespace.refused() else namespace.within([*program, "inside"])
    env = {name: value for name, value in os.environ.items() if not name.startswith(("LLM_PIPELINE_", "DAGSTER_", "HF_", "AWS_"))}
    done = subprocess.run(argv, cwd=ROOT, env={**env, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return Facts(**json.loads(Path(folder, "facts.json").read_text()))
