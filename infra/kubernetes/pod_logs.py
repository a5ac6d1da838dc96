"""The logs of pods as files of this machine: fetched when somebody asks, and kept when a release is taken down.

    <home>/clusters/<cluster>/logs/<release>/<part>-<pod>-<container>.log
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from infra.kubernetes import kinds, reading
from infra.kubernetes.api import Object
from infra.kubernetes.place import Place
from infra.kubernetes.pods import PART
from infra.kubernetes.rayservice_manifest import HEAD, WORKER
from infra.kubernetes.server_manifest import ENGINE
from infra.platform import model_of
from infra.settings import private

CONTAINERS = {"engine": (WORKER, ENGINE), "ray": (HEAD, "autoscaler")}
"""Which containers tell of which part."""

LINES = 100_000
EVERY = 1.0
"""Seconds between two fetches for somebody who follows."""

KEPT = 10
"""Releases of a model whose logs stay."""


class PodLogs:
    """Of one place."""

    def __init__(self, place: Place) -> None:
        self._place, self._fetched = place, {}  # type: Place, dict[tuple[str, str], float]

    def paths(self, name: str, part: str) -> Iterator[Path]:
        """The files of one part of a release; `route`: the router's. What was kept, where nothing of it is there any more."""
        if time.monotonic() - self._fetched.get((name, part), 0.0) >= EVERY:
            self._fetch(name, part)
            self._fetched[name, part] = time.monotonic()
        folder = self._folder(name)
        yield from sorted(folder.glob(f"{part}-*.log"), key=lambda path: (path.stat().st_mtime, path.name)) if folder.is_dir() else ()

    def keep(self, name: str) -> None:
        """Fetches all before the pods go."""
        for part in CONTAINERS:
            self._fetch(name, part)
        self._forget_old(name)

    # ------------------------------------------------ private

    def _fetch(self, name: str, part: str) -> None:
        place = self._place
        route = part == "route"
        selector = place.selector("endpoint") if route else place.selector(PART, release=name)
        for pod in place.api.list(kinds.POD, place.namespace, labels=selector).items:
            for container, status in reading.containers(pod).items():
                if route or container in CONTAINERS.get(part, ()):
                    self._write(name, f"{part}-{pod['metadata']['name']}-{container}.log", self._text(pod, container, status))

    def _text(self, pod: Object, container: str, status: Object) -> str:
        """The run before and this one: why a container was started again stands in the former."""
        where = (self._place.namespace, pod["metadata"]["name"], container)
        before = self._place.api.log(*where, previous=True, lines=LINES) if status.get("restartCount") else ""
        return before + self._place.api.log(*where, lines=LINES)

    def _write(self, name: str, file: str, text: str) -> None:
        """An empty answer never takes the place of what was read before."""
        if text:
            (private(self._folder(name)) / file).write_text(text)

    def _folder(self, name: str) -> Path:
        return self._place.cache / "logs" / name

    def _forget_old(self, name: str) -> None:
        root = self._place.cache / "logs"
        mine = [path for path in (root.iterdir() if root.is_dir() else ()) if model_of(path.name) == model_of(name)]
        for old in sorted(mine, key=lambda path: path.stat().st_mtime)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
