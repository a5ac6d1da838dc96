"""`status` where clusters can not be asked at all: each of them is told by itself, with likely cause and next step."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import settings
from tests.doubles import unreachable
from tests.doubles.unreachable import ASKED, WHY

MODELS = 3
"""On each cluster: whatever their number, the cluster is tried once."""


def declare(root: Path, cluster: str, config: Path) -> None:
    """A cluster behind this kubeconfig, and its models."""
    block = {"kubeconfig": str(config), "context": "there", "namespace": "models"}
    rows: list[tuple[str, str, dict[str, Any]]] = [("Cluster", f"clusters/{cluster}", {"platform": "kubernetes", "kubernetes": block})]
    rows += [("Model", f"models/{cluster}{number}", {"cluster": cluster, "weights": "hf://org/name"}) for number in range(MODELS)]
    for kind, name, attributes in rows:
        (root / "assets" / name).mkdir(parents=True)
        (root / "assets" / name / "defs.yaml").write_text(yaml.safe_dump({"type": f"llm_pipeline.components.{kind}", "attributes": attributes}))


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A clone with a cluster of each kind."""
    with unreachable.stand(tmp_path) as made:
        for name, config in made.items():
            declare(tmp_path, name, config)
        (tmp_path / "workspace.yaml").touch()
        yield tmp_path


def status(root: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The command, as a process of its own in that clone."""
    code = """
        import pathlib, sys, warnings
        warnings.simplefilter("ignore")
        from infra import settings
        settings.ROOT = pathlib.Path(sys.argv.pop(1))
        from llm_pipeline import cli
        cli.main()
    """
    env = {"HOME": str(root), "LLM_PIPELINE_HOME": str(root / "home"), "LLM_PIPELINE_DAGSTER_PORT": "9", "DAGSTER_HOME": str(root / "dagster"), "COLUMNS": "120"}
    argv = [sys.executable, "-c", textwrap.dedent(code), str(root), "status", *more]
    return subprocess.run(argv, cwd=settings.ROOT, capture_output=True, text=True, check=False, env=env)


def test_status_names_the_cluster_that_can_not_be_asked_and_tries_each_once(root: Path) -> None:
    """The first link of every model there is broken, with likely cause and next step; 1 as for whatever does not serve. No request for each model."""
    done = status(root, "--json")

    assert done.returncode == 1, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert {row["cluster"]: row["state"] for row in found["clusters"]} == dict.fromkeys(WHY, "failed")
    assert len(found["models"]) == MODELS * len(WHY)
    for row in found["models"]:
        why, following = WHY[row["cluster"]]
        assert why in f"{row['problem']['what']} {row['problem']['why']}", row
        assert following in row["problem"]["next"], row
        assert row["state"] == "failed"
        assert [(link["link"], link["holds"]) for link in row["chain"]][:2] == [("cluster", False), ("node", None)]
    assert sorted(ASKED) == ["0 /api/v1/namespaces/kube-system", "Unauthorized /api/v1/namespaces/kube-system", "it is forbidden /api/v1/namespaces/kube-system"]
    assert "a-token-of-nobody" not in done.stdout + done.stderr


def test_a_person_is_shown_the_link_and_what_to_do(tmp_path: Path) -> None:
    """Of the named model; one that nobody declares is an error of four parts, and not a trace."""
    (tmp_path / "workspace.yaml").touch()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        declare(tmp_path, "refused", unreachable.kubeconfig(tmp_path / "refused.yaml", f"http://127.0.0.1:{closed.getsockname()[1]}", tmp_path))
        one, none = status(tmp_path, "refused0"), status(tmp_path, "nowhere")

    assert (one.returncode, none.returncode) == (1, 2)
    assert "refused0" in one.stdout and "cluster" in one.stdout
    assert "nobody listens there" in one.stdout + one.stderr
    assert "nowhere" in none.stderr
    assert "Traceback" not in one.stderr + none.stderr
