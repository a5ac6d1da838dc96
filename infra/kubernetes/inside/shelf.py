"""The shelf: the folder of one revision on its claim. Files get their place only once their bytes were read and found right.

    <path>                          the files, as an engine reads them
    .llm-pipeline/partial/<key>     bytes that came so far; a later pod goes on from them
    .llm-pipeline/manifest.json     what is here, with the sha256 of each file; written last

Several pods may be at work in it at once (one was given up by its node, and lives): each write ends in a rename of verified bytes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

from infra.errors import ConfigError
from infra.kubernetes.inside.order import Order, say
from infra.waiting import Progress, Transfer
from infra.weights import inspect
from infra.weights.digest import read
from infra.weights.manifest import File
from infra.weights.parallel import Stopped, each

THREADS = os.cpu_count() or 2
TELL_EVERY = 2.0
CONFIG_KEY = 16_000
"""Characters of one key of config.json, at most, that are told: what is larger is a table of labels, which nobody plans with."""


class Shelf:
    """One revision in `root`."""

    def __init__(self, root: Path, order: Order) -> None:
        self.root, self.order = root, order
        self.sums: dict[str, str] = {}
        self.fetched = self._read = 0
        self._begun = self._told = time.monotonic()

    def partial(self, file: File) -> Path:
        return self._hidden / "partial" / file.key

    def prepare(self) -> None:
        """Reads what an earlier pod left, and counts in what is right."""
        (self._hidden / "partial").mkdir(parents=True, exist_ok=True)
        self._each(self.order.manifest.files, self._adopt, "reading what is there")

    def missing(self) -> list[File]:
        return [file for file in self.order.manifest.files if file.path not in self.sums]

    def take(self, file: File, stop: Event | None = None) -> bool:
        """Its bytes are all in `partial`: gives them their place when they are right, else throws them away."""
        partial, place = self.partial(file), self.root / file.path
        sha256 = self._right(partial, file, stop)
        if sha256 is None:
            partial.unlink(missing_ok=True)
            return False
        place.parent.mkdir(parents=True, exist_ok=True)
        partial.chmod(0o644)
        partial.replace(place)
        self.sums[file.path] = sha256
        return True

    def finish(self) -> dict[str, Any]:
        """Writes down what is here. Raises ConfigError when no engine could load it."""
        for problem in inspect.problems(self.root, self.order.manifest, self.order.allow_pickle):
            raise problem
        order = self.order
        document = {"source": order.source, "revision": order.revision, "manifest": order.manifest.to_dict(), "sha256": self.sums, "bytes": order.manifest.size, "at": time.time()}
        beside = self._hidden / f".manifest.{os.getpid()}"
        beside.write_text(json.dumps(document, indent=1))
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(self._hidden / "manifest.json")
        told = {"manifest": order.manifest.digest, "sha256": self.sums, "fetched": self.fetched, "seconds": round(time.monotonic() - self._begun, 3)}
        return {**told, "facts": vars(inspect.facts(self.root)), "config": self._config()}

    def verify(self) -> dict[str, Any]:
        """Reads every byte again; changes nothing."""
        known = self._known()

        def check(file: File, stop: Event) -> tuple[str, str] | None:
            if not (self.root / file.path).is_file() or file.path not in known:
                return file.path, "is not here"
            found = self._right(self.root / file.path, file, stop)
            return None if found == known[file.path] else (file.path, f"its content is not {known[file.path][:12]}… any more")

        bad = self._each(self.order.manifest.files, check, "verifying")
        return {"manifest": self.order.manifest.digest, "bad": sorted(row for row in bad if row)}

    def tell(self, what: str, done: int, force: bool = False) -> None:
        """How far it is, at most every TELL_EVERY seconds."""
        now = time.monotonic()
        if force or now - self._told >= TELL_EVERY:
            self._told = now
            total = self.order.manifest.size
            say(what=what, done=done, total=total, text=f"{what}: {Transfer(done, total, done / max(0.1, now - self._begun))}")

    # ------------------------------------------------ private

    @property
    def _hidden(self) -> Path:
        return self.root / ".llm-pipeline"

    def _adopt(self, file: File, stop: Event) -> None:
        path = self.root / file.path
        if path.is_file() and (sha256 := self._right(path, file, stop)):
            self.sums[file.path] = sha256

    def _right(self, path: Path, file: File, stop: Event | None) -> str | None:
        """The sha256 of these bytes when they are the file's."""

        def tick(count: int) -> None:
            self._read += count
            if stop and stop.is_set():
                raise Stopped

        if path.stat().st_size != file.size:
            return None
        found = read(path, file, tick)
        return found.sha256 if self.order.fits(file, found) else None

    def _each(self, files: tuple[File, ...], work: Callable[[File, Event], Any], what: str) -> list[Any]:
        self._read = 0
        largest_first = sorted(files, key=lambda file: -file.size)
        return each(largest_first, work, Progress(float("inf")), threads=THREADS, tick=lambda: self.tell(what, self._read))

    def _known(self) -> dict[str, str]:
        """The sha256 of each file, as they were when it was filled."""
        try:
            document = json.loads((self._hidden / "manifest.json").read_text())
            return dict(document["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _config(self) -> dict[str, Any]:
        """config.json without what is too large to travel in an annotation."""
        try:
            config = json.loads((self.root / "config.json").read_text())
        except (OSError, ValueError) as error:
            raise ConfigError("config.json can not be read", why=str(error)) from error
        return {key: value for key, value in config.items() if len(json.dumps(value)) <= CONFIG_KEY}
