"""inventory of this machine: everything of this home that exists, read from /proc and the file system, never from records."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from infra.local.endpoint import LocalEndpoint
from infra.local.processes import end, home_id, marked
from infra.local.ray_service import LocalService
from infra.platform import Leftover
from infra.settings import Settings
from infra.waiting import Progress

OTHER = frozenset({"dagster"})
"""Marked processes that are not part of a model's life: the product's own Dagster."""


class LocalInventory:
    """`Inventory` of one home."""

    def __init__(self, settings: Settings, service: LocalService, endpoint: LocalEndpoint, cluster: Callable[[str], str]) -> None:
        self._settings, self._service, self._endpoint, self._cluster = settings, service, endpoint, cluster

    def find(self) -> tuple[Leftover, ...]:
        return (*self._services(), *self._sessions(), *self._router(), *self._strays(), *self._data())

    def remove(self, leftover: Leftover, progress: Progress) -> None:
        match leftover.part:
            case "ray_service":
                self._service.remove(leftover.id, progress)
            case "endpoint":
                self._endpoint.stop(progress)
            case "process":
                end(leftover.id, progress, grace=2)
            case _ if any(Path(leftover.id).is_relative_to(root) for root in (self._settings.home, self._settings.cache_dir, self._service.temp)):
                shutil.rmtree(leftover.id, ignore_errors=True)

    def _services(self) -> Iterator[Leftover]:
        for state in self._service.running():
            why = f"its processes and its folder in {self._settings.home} carry our mark ({state.phase})"
            yield Leftover("ray_service", state.release, self._cluster(state.model), state.model, state.release, why)

    def _sessions(self) -> Iterator[Leftover]:
        """Ray's session folders whose service is gone."""
        known = {state.release.rsplit("-", 1)[-1] for state in self._service.running()}
        temp = self._service.temp
        for path in sorted(temp.iterdir()) if temp.is_dir() else ():
            if path.name not in known:
                yield Leftover("session", str(path), "", None, path.name, f"it lies in this home's own folder {temp}")

    def _router(self) -> Iterator[Leftover]:
        if self._endpoint.running() or self._endpoint.folder.exists():
            yield Leftover("endpoint", "router", self._cluster(""), None, None, f"its processes and its folder {self._endpoint.folder} carry our mark")

    def _strays(self) -> Iterator[Leftover]:
        """Marked processes of parts that the others don't look after."""
        prefix = home_id(self._settings.home) + ":"
        for mark in sorted({found for _, found in marked(prefix)}):
            part = mark.split(":")[1]
            if part not in {"ray_service", "endpoint", *OTHER}:
                yield Leftover("process", mark, "", None, None, f"its environment carries {mark}")

    def _data(self) -> Iterator[Leftover]:
        for part, path in (("model_weights", self._settings.cache_dir / "weights"), ("image", self._settings.cache_dir / "images"),
                           ("records", self._settings.home / "records"), ("logs", self._settings.home / "logs"),
                           ("engine-cache", self._settings.home / "engine-cache")):  # fmt: skip
            if path.is_dir() and (size := folder_size(path)):
                yield Leftover(part, str(path), "", None, None, f"it lies in {path.parent}", bytes=size, data=True)


def folder_size(path: Path) -> int:
    """Bytes on disk below a folder; a file with several names counts once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for found in path.rglob("*"):
        try:
            stat = found.lstat()
        except OSError:
            continue
        if (stat.st_dev, stat.st_ino) not in seen:
            seen.add((stat.st_dev, stat.st_ino))
            total += stat.st_blocks * 512
    return total
