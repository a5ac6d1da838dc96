"""The order: what a pod of weights is told to do, as the JSON document beside its code; and how it says what came of it.

What it says are lines of JSON: `{"done": bytes, "total": bytes, "what": …}` on the way, and in the end `{"result": …}` or `{"problem": …}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from infra.weights.digest import Read
from infra.weights.manifest import File, Manifest

DONE, HOPELESS, AGAIN = 0, 65, 75
"""How it ends: done; failed, and the same order would fail again; failed, and another try may succeed."""

PORT = 8080
"""Where files are received."""


@dataclass(frozen=True)
class Order:
    """What to do with the folder.

    mode          fill: make it hold the manifest's files. verify: read them again, change nothing
    how           hub: fetch from the Hub. receive: take what is sent by HTTP
    sha256        of files whose source names them by something else, where it is known
    endpoint, repo, revision    of the Hub
    stall         seconds without a byte until a transfer is begun anew, or waiting for a sender is given up
    """

    mode: Literal["fill", "verify"]
    manifest: Manifest
    source: str
    how: Literal["hub", "receive"] = "receive"
    revision: str = ""
    sha256: Mapping[str, str] = field(default_factory=dict)
    allow_pickle: bool = False
    endpoint: str = ""
    repo: str = ""
    stall: float = 60.0

    def to_json(self) -> str:
        return json.dumps({**vars(self), "manifest": self.manifest.to_dict(), "sha256": dict(self.sha256)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Order:
        raw = json.loads(text)
        return cls(**{**raw, "manifest": Manifest.from_dict(raw["manifest"])})

    def fits(self, file: File, found: Read) -> bool:
        """Whether bytes with these digests are the file. One whose source names no digest of its bytes needs a known sha256."""
        known = self.sha256.get(file.path)
        return found.fits(file) and known in (None, found.sha256) and (known is not None or not file.digest.startswith("s3:"))


def say(**row: Any) -> None:
    """One line for whoever reads the log."""
    print(json.dumps(row, sort_keys=True), flush=True)
