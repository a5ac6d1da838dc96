"""records on this machine: JSON files under the home, written beside and moved into place; locks of the operating system.

    <home>/records/<owner>/<name>.json     {"version": n, "value": {…}}
    <home>/locks/<name>.lock               flock; <name>.who beside it says who holds it (for people; never trusted)
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from infra.errors import Conflict, Transient
from infra.local.processes import read_json, write_json
from infra.platform import Record
from infra.settings import private
from infra.waiting import Progress


class LocalRecords:
    """`Records` as files. Reading takes no lock, since files change by rename only."""

    def __init__(self, home: Path) -> None:
        self.root, self.locks = home / "records", home / "locks"

    def get(self, owner: str, name: str) -> Record | None:
        return self._read(self._path(owner, name))

    def put(self, owner: str, name: str, value: Mapping[str, Any], version: int | None) -> Record:
        path = self._path(owner, name)
        with self._writing(owner):
            found = self._read(path)
            if (found.version if found else None) != version:
                raise Conflict(f"record {owner}/{name} was changed by somebody else", why=f"version {found.version if found else None}, expected {version}")
            fresh = Record(dict(value), (version or 0) + 1)
            try:
                write_json(path, {"version": fresh.version, "value": fresh.value})
            except OSError as error:
                raise Transient(f"record {owner}/{name} can not be written", why=str(error), next=f"make room, or check the rights of {self.root}") from error
            return fresh

    def list(self, owner: str, prefix: str = "") -> dict[str, Record]:
        folder = self.root / owner
        within = folder / prefix.rpartition("/")[0]  # nothing else can have such a name: runs leave many documents beside the releases
        names = sorted(str(p.relative_to(folder).with_suffix("")) for p in within.rglob("*.json")) if within.is_dir() else []
        found = {name: self.get(owner, name) for name in names if name.startswith(prefix)}
        return {name: record for name, record in found.items() if record}

    def owners(self) -> tuple[str, ...]:
        return tuple(sorted(p.name for p in self.root.iterdir() if p.is_dir() and any(p.rglob("*.json")))) if self.root.is_dir() else ()

    def at_once(self) -> LocalRecords:
        """Reading files has no price."""
        return self

    def delete(self, owner: str, name: str) -> None:
        with self._writing(owner):
            self._path(owner, name).unlink(missing_ok=True)

    def purge(self, owner: str) -> None:
        """Everything of one owner."""
        shutil.rmtree(self.root / owner, ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, name: str, who: str, progress: Progress) -> Iterator[None]:
        """An OS lock that dies with its holder. Raises Timeout or Withdrawn while waiting."""
        private(self.locks)
        safe = name.replace("/", ".")
        with (self.locks / f"{safe}.lock").open("a") as file:
            os.chmod(file.fileno(), 0o600)
            progress.until(lambda: self._try(file.fileno(), safe, progress), every=0.2)
            write_json(self.locks / f"{safe}.who", {"who": who, "pid": os.getpid()})
            try:
                yield
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)

    def _try(self, descriptor: int, name: str, progress: Progress) -> bool | None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = read_json(self.locks / f"{name}.who") or {}
            progress.phase("waiting for the lock", f"{name} is held by {holder.get('who', 'somebody')} (pid {holder.get('pid', '?')})")
            return None
        return True

    @contextlib.contextmanager
    def _writing(self, owner: str) -> Iterator[None]:
        """Compare and write as one; held for microseconds."""
        private(self.root)
        with (self.root / f".{owner}.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _path(self, owner: str, name: str) -> Path:
        return self.root / owner / f"{name}.json"

    @staticmethod
    def _read(path: Path) -> Record | None:
        try:
            found = json.loads(path.read_text())
            return Record(found["value"], found["version"])
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise Transient(f"record {path} can not be read", why=str(error), next=f"look at it; removing it makes the product forget this one decision: rm {path}") from error
