"""Which cluster it was: once more on this machine, since a context that leads elsewhere leads to other records too.

Server and certificate authority are compared whenever a connection is opened, which costs nothing; the UID of kube-system whenever the
cluster is observed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from infra.errors import Blocked
from infra.settings import private

FILE = "identity.json"


def insist(folder: Path, cluster: str, found: Mapping[str, str]) -> None:
    """Raises Blocked when any of this is not what this machine knows of the cluster. Never seen before: fine."""
    file = folder / FILE
    known = json.loads(file.read_text()) if file.is_file() else {}
    if any(known.get(key, value) != value for key, value in found.items()):
        raise Blocked(
            f"cluster {cluster} is not the place that it was", why=f"known here as {known}, found {dict(found)}",
            next=f"if it moved on purpose: rm {file}; what runs at the old place goes on there",
        )  # fmt: skip


def remember(folder: Path, identity: Mapping[str, str]) -> bool:
    """True: for the first time."""
    file = private(folder) / FILE
    if file.is_file():
        return False
    file.write_text(json.dumps(dict(identity)))
    return True


def forget(folder: Path) -> None:
    """Another one may be the next."""
    (folder / FILE).unlink(missing_ok=True)
