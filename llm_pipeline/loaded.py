"""A name for everything that a code location reads when it loads, so that `up` asks for a reload only when something of it changed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from infra.settings import ROOT

READ = ("llm_pipeline", "assets", "infra", "workspace.yaml", "pyproject.toml")
KINDS = (".py", ".yaml", ".yml", ".toml", ".json", ".lock", ".lua", ".txt")
"""Code, declarations, locks. Weights are not read when it loads."""


def fingerprint(root: Path = ROOT) -> str:
    """16 hex digits over path, size and time of change of each file: an edit, a new file and a removed one all change it."""
    found = hashlib.sha256()
    for name in READ:
        top = root / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.suffix in KINDS and path.is_file():
                stat = path.stat()
                found.update(f"{path.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return found.hexdigest()[:16]


LOADED_KEY = "llm/loaded"
"""Where the clusters' assets show it."""

LOADED = fingerprint()
"""As this process found it, before it read any declaration."""
