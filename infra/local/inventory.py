"""inventory of this machine: everything of this home that exists, read from /proc and the file system, never from records."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from infra.errors import Transient
from infra.local import homes
from infra.local.endpoint import LocalEndpoint
from infra.local.image import LocalImage
from infra.local.machine import folder_size
from infra.local.model_weights import LocalWeights
from infra.local.processes import end, home_id, marked
from infra.local.ray_service import LocalService
from infra.platform import Sharer
from infra.settings import Settings
from infra.states import Held, Leftover
from infra.waiting import Progress

OTHER = frozenset({"dagster"})
"""Marked processes that are not part of a model's life: the product's own Dagster."""

LOG_LIMIT, LOG_KEPT = 20 << 20, 5 << 20
"""Bytes above which a log that only grows is cut, and how many of its newest bytes stay."""


class LocalInventory:
    """`Inventory` of one home."""

    def __init__(
        self, settings: Settings, service: LocalService, endpoint: LocalEndpoint, weights: LocalWeights, image: LocalImage, cluster: Callable[[str], str]
    ) -> None:
        self._settings, self._service, self._endpoint, self._cluster = settings, service, endpoint, cluster
        self._weights, self._image = weights, image

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
            case "model_weights" | "image" if self.sharers():
                pass  # others need some of it: what they don't need goes one by one, through `discard`
            case _ if any(Path(leftover.id).is_relative_to(root) for root in (self._settings.home, self._settings.cache_dir, self._service.temp)):
                shutil.rmtree(leftover.id, ignore_errors=True)

    # ------------------------------------------------ the store

    def held(self) -> tuple[Held, ...]:
        return (*self._weights.held(), *self._image.held(), *self._logs())

    def discard(self, held: Held, progress: Progress) -> int:
        try:
            match held.part:
                case "image":
                    return self._image.discard(held, progress)
                case "log":
                    return self._cut(Path(held.id), held)
                case _:
                    return self._weights.discard(held)
        except OSError as error:
            raise Transient(f"{held.part} {held.id} can not be removed", why=str(error), next="check the rights of that folder, then: llm-pipeline collect") from error

    def sharers(self) -> tuple[Sharer, ...]:
        return homes.others(self._settings.cache_dir, self._settings.home)

    # ------------------------------------------------ private

    def _logs(self) -> Iterator[Held]:
        """Logs that only grow, once they are too long; and those of each model, for when nobody remembers it."""
        folder = self._settings.home / "logs"
        for path in (*sorted(folder.glob("*.log")), self._endpoint.log()):
            if path.is_file() and (size := path.stat().st_size) > LOG_LIMIT:
                yield Held("log", str(path), path.name, size - LOG_KEPT, spent=f"longer than {LOG_LIMIT >> 20} MiB: its newest {LOG_KEPT >> 20} MiB stay")
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.is_dir():
                yield Held("log", str(path), f"logs of {path.name}", folder_size(path), model=path.name)

    def _cut(self, path: Path, held: Held) -> int:
        """Whoever writes appends, and goes on in the same file; the newest bytes are in `<name>.1`."""
        if path.is_dir() and path.is_relative_to(self._settings.home / "logs"):
            shutil.rmtree(path, ignore_errors=True)
            return held.bytes
        if not path.is_file():
            return 0
        with path.open("rb") as file:
            file.seek(-min(LOG_KEPT, path.stat().st_size), os.SEEK_END)
            path.with_name(path.name + ".1").write_bytes(file.read())
        os.truncate(path, 0)
        return held.bytes

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
