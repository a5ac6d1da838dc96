"""Creating and replacing, so that it is known whether it counted: the object carries a mark of this very write.

A connection that broke tells nothing about what the server did. So each write is tried again, and whoever is then refused looks whose
mark the object has: with our own, the first try counted and only its answer was lost.
"""

from __future__ import annotations

import secrets

from infra.errors import Conflict
from infra.kubernetes.api import Api, Object, kind_of
from infra.kubernetes.failures import Absent, Busy
from infra.waiting import Progress, retry

MARK = "llm-pipeline/write"


def write(api: Api, manifest: Object, version: str = "") -> Object:
    """Creates it; with `version` replaces what has that resource version. Conflict (Absent: for want of its namespace too) when it may not be."""
    meta, mark = manifest["metadata"], secrets.token_hex(8)
    made = {**manifest, "metadata": {**meta, "annotations": {**meta.get("annotations", {}), MARK: mark}, **({"resourceVersion": version} if version else {})}}
    try:
        return retry(lambda: api.replace(made) if version else api.create(made), attempts=4, pause=0.5, on=(Busy,), progress=Progress(60))
    except (Conflict, Absent, Busy):
        found = api.get(kind_of(manifest), meta["name"], meta.get("namespace"))
        if found and (found["metadata"].get("annotations") or {}).get(MARK) == mark:
            return found
        raise
