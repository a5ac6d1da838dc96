"""Which homes of this machine use a cache: each leaves a note there, so that nobody removes what another one needs.

    <cache>/homes/<id of the home>.json     {"home": path}

A home whose folder is gone counts no more. One that can not be read counts, and then everything is in use.
"""

from __future__ import annotations

import os
from pathlib import Path

from infra.errors import PipelineError
from infra.local.processes import home_id, read_json, write_json
from infra.local.records import LocalRecords
from infra.platform import Sharer


def register(cache: Path, home: Path) -> None:
    """This home uses this cache. Written once."""
    note = cache / "homes" / f"{home_id(home)}.json"
    if (read_json(note) or {}).get("home") != str(home.resolve()):
        write_json(note, {"home": str(home.resolve())})


def others(cache: Path, home: Path) -> tuple[Sharer, ...]:
    """Every other home that uses this cache and still exists."""
    own = home_id(home)
    notes = (path for path in sorted((cache / "homes").glob("*.json")) if path.stem != own)
    return tuple(sharer for note in notes if (sharer := _sharer(note)))


def _sharer(note: Path) -> Sharer | None:
    home = Path(note.stem)
    try:
        found = read_json(note)
        if found is None:
            return Sharer(note.stem, None, problem=f"{note} can not be read; remove it when no clone uses this cache") if note.exists() else None
        home = Path(str(found.get("home")))
        os.scandir(home).close()
        records = LocalRecords(home)
        for owner in records.owners():
            records.list(owner)
        return Sharer(str(home), records, _running(home))
    except FileNotFoundError:
        return None
    except (OSError, PipelineError) as error:
        why = error.problem.what if isinstance(error, PipelineError) else str(error)
        return Sharer(str(home), None, problem=f"home {home}: {why}")


def _running(home: Path) -> tuple[str, ...]:
    """Releases that have a folder there: whatever became of their processes."""
    services = home / "services"
    return tuple(sorted(path.name for path in services.iterdir())) if services.is_dir() else ()
