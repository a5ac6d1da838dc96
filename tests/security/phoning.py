"""The life of the demo with the real engine, without a way out: `python -m tests.security.phoning FOLDER KIND`.

    phones_home(folder)      from a test: who was asked for what meanwhile; empty is good
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from infra.settings import ROOT
from tests.life import clone as clones
from tests.security import namespace
from tests.security.recorder import Recorder

SECONDS = 280.0


def phones_home(folder: Path, kind: str = "vllm") -> list[str]:
    """Brings the demo up and down in a namespace where nobody can be reached. Returns what the proxy was asked for.

    Raises AssertionError when it does not work without a way out. The cache must hold an image: none can be built in there.
    """
    argv = namespace.within([sys.executable, "-m", "tests.security.phoning", str(folder), kind])
    env = {name: value for name, value in os.environ.items() if not name.startswith(("DAGSTER_", "HF_", "AWS_"))}
    done = subprocess.run(argv, cwd=ROOT, env={**env, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    asked: list[str] = json.loads((folder / "asked.json").read_text())
    return asked


def main(folder: Path, kind: str) -> None:
    """Inside: up, an answer, down."""
    namespace.loopback_up()
    assert namespace.ways_out() == []
    with Recorder() as proxy:
        clone = clones.make(folder / "clone", **proxy.variables)
        clone.edit("demo", "kind: ray ", f"kind: {kind}")
        try:
            assert clone.json("up", "demo")["result"] == "serving"
            assert clone.run("chat", "demo", "What is a pin?").stdout.strip()
        finally:
            clone.stop()
        assert clone.processes() == {}
        (folder / "asked.json").write_text(json.dumps(proxy.asked))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
