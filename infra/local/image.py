"""image: what the engine runs in; on this machine a virtual environment, made from the same lock as the container image.

Upstream       deployment                                  Downstream     ray_service
Unchanged      same lock, Python and platform: the same digest, nothing is built
On failure     nothing stays; pip's last lines are in the error
In the folder  bin/python · image.json (written last: without it the folder is no image) · build.log

It is built beside its place, checked by importing what an engine imports, and moved there. All models of one flavour share it, and
so may several homes: an OS file lock lets one process build while the others wait. Whoever holds that lock may remove what an
earlier holder left behind, for a living builder would hold it still.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread

from filelock import FileLock

from infra.errors import CapacityError, ConfigError, PipelineError, Timeout, Transient, Withdrawn
from infra.local.homes import register
from infra.local.image_build import GIB, SERVING, Build, Recipe, digest, pins, recipes, remove_aside
from infra.local.locks import take
from infra.local.machine import folder_size
from infra.local.processes import end, mark_of, read_json
from infra.platform import Release
from infra.specs import ModelSpec
from infra.states import Held, ImageState
from infra.waiting import Progress

MARKER = "image.json"


class LocalImage:
    """The images in `<cache>/images/<16 hex>/`.

    torch_index   where torch's CPU build is, when pip as it is configured has none
    flavours      how each flavour is made; None: from the locks in `serving`
    home          who builds here: told to others that share the cache
    """

    def __init__(self, cache: Path, torch_index: str, serving: Path = SERVING, flavours: Mapping[str, Recipe] | None = None, home: Path | None = None) -> None:
        self._cache, self._home = cache.absolute(), home
        self._root = self._cache / "images"
        self._torch_index = torch_index
        self._serving = serving
        self._flavours = flavours

    def observe(self, spec: Release) -> ImageState | None:
        """The image of this release; None when it was not built, or when the Python that it was made with is gone."""
        return self._stored(spec.image)

    def apply(self, spec: Release, progress: Progress) -> ImageState:
        """Builds it unless it is there. Raises ConfigError when its lock is not the one that is here, CapacityError, Transient."""
        if self._home:
            register(self._cache, self._home)
        if found := self._stored(spec.image):
            return found
        recipe = self._recipe(spec)
        with self._lock(spec.image, progress):
            return self._stored(spec.image) or self._build(recipe, spec.image, progress)

    def delete(self, spec: Release, progress: Progress) -> None:
        """Removes it, for all models of this flavour: that no release needs it any more is for the caller to know."""
        self._take_away(spec.image, progress)

    def held(self) -> tuple[Held, ...]:
        """Images, whole or not, and what interrupted builds and removals left."""
        if not self._root.is_dir():
            return ()
        unfinished = {found.group(1) for path in self._root.iterdir() if (found := UNFINISHED.fullmatch(path.name))}
        whole = {state.digest: state for state in self.kept()}
        names = {f"local:{path.name}" for path in self._root.iterdir() if NAME.fullmatch(path.name)}
        rows = [_held(image, whole.get(image), self._folder(image)) for image in sorted(names)]
        return (*rows, *(row for name in sorted(unfinished) if (row := self._unfinished(name))))

    def discard(self, held: Held, progress: Progress) -> int:
        """Removes one thing that `held` showed; bytes freed. Of a build only what no living builder holds."""
        if held.spent and held.id.startswith(UNDONE):
            lock = self._lock_of(held.id.removeprefix(UNDONE))
            if not take(lock):
                return 0
            try:
                self._sweep(held.id.removeprefix(UNDONE), progress)
            finally:
                lock.release()
            return held.bytes
        return held.bytes if self._take_away(held.id, progress) else 0

    def resolve(self, spec: ModelSpec, progress: Progress) -> str:
        """The digest of the image that this spec asks for. Reads the lock, nothing else."""
        return digest(pins(self._flavour("gpu" if spec.resources.gpu else "cpu").lock))

    def kept(self) -> tuple[ImageState, ...]:
        """All images here, of any lock."""
        names = sorted(p.name for p in self._root.iterdir() if NAME.fullmatch(p.name)) if self._root.is_dir() else []
        return tuple(state for name in names if (state := self._stored(f"local:{name}")))

    # ------------------------------------------------------------ private

    def _take_away(self, image: str, progress: Progress) -> bool:
        """Out of the way at once, then removed: killed in between, the next sweep finds it."""
        folder = self._folder(image)
        if not self._root.is_dir():
            return False
        with self._lock(image, progress):
            there = folder.exists()
            if there:
                folder.rename(folder.with_name(f".gone-{folder.name}-{os.getpid()}"))
            self._sweep(folder.name, progress)
        return there

    def _unfinished(self, name: str) -> Held | None:
        """What a build or a removal of this image left, when nobody is at it any more."""
        lock = self._lock_of(name)
        if not take(lock):
            return None
        lock.release()
        size = sum(folder_size(path) for pattern in (f".building-{name}-*", f".gone-{name}-*") for path in self._root.glob(pattern))
        return Held("image", UNDONE + name, f"what was left of image {name}", size, spent="its build or its removal was interrupted")

    def _folder(self, image: str) -> Path:
        kind, _, name = image.partition(":")
        if kind == "local" and NAME.fullmatch(name):
            return self._root / name
        raise ConfigError(
            f"{image!r} is not an image of this machine",
            why="local images are named local:<16 hex digits>; this one is of another platform",
            next="llm-pipeline up MODEL (a release with the image that the lock makes)",
        )

    def _stored(self, image: str) -> ImageState | None:
        folder = self._folder(image)
        try:
            marker = read_json(folder / MARKER)
            usable = (folder / "bin" / "python").exists()
        except OSError as error:
            raise Transient(f"whether {image} is there can not be told", why=str(error), next=f"check the disk of {folder}") from error
        return _state(image, folder, marker) if marker and usable else None

    def _flavour(self, name: str) -> Recipe:
        return (self._flavours or recipes(self._serving))[name]

    def _recipe(self, release: Release) -> Recipe:
        """What makes this release's image; ConfigError when that can't be made here any more."""
        recipe = self._flavour("gpu" if release.needs_gpu else "cpu")
        today = digest(pins(recipe.lock))
        if today == release.image:
            return recipe
        raise ConfigError(
            f"the image {release.image} of {release.name} is gone and can not be built again",
            why=f"the lock {recipe.lock.name}, or this machine's Python or platform, has changed since; they make {today} now",
            next=f"llm-pipeline up {release.model} (a release with today's image); or restore the {recipe.lock.name} of then, and repeat",
        )

    @contextmanager
    def _lock(self, image: str, progress: Progress) -> Iterator[None]:
        """One process at a time; the waiting ones say for whom. The lock ends with its holder, however that ends."""
        name = self._folder(image).name
        self._root.mkdir(parents=True, exist_ok=True)
        lock, since = self._lock_of(name), time.monotonic()

        def free() -> bool | None:
            if take(lock):
                return True
            builders = [p.name.rpartition("-")[2] for p in self._root.glob(f".building-{name}-*")]
            who = f"process {builders[-1]} builds it" if builders else "another process holds it"
            progress.phase("image", f"{who}, waiting since {time.monotonic() - since:.0f} s")
            return None

        progress.until(free, every=0.2)
        try:
            yield
        finally:
            lock.release()

    def _lock_of(self, name: str) -> FileLock:
        return FileLock(self._root / f".lock-{name}", thread_local=False)

    def _build(self, recipe: Recipe, image: str, progress: Progress) -> ImageState:
        place = self._folder(image)
        self._sweep(place.name, progress)
        self._sweep_others(place.name, progress)
        _demand_room(self._root, recipe)
        started = time.time()
        beside = place.with_name(f".building-{place.name}-{os.getpid()}")
        build = Build(beside, recipe, self._torch_index, progress, self._mark(place.name))
        try:
            versions = build.make()
            shutil.rmtree(build.temp)
            build.relocate(place)
            _write_marker(beside, image, recipe.flavour, versions, time.time() - started)
            _remove(place, progress)
            beside.rename(place)
        except BaseException as error:
            self._discard(beside, place.name, error, progress)
            raise
        return _state(image, place, read_json(place / MARKER) or {}, changed=True)

    def _mark(self, name: str) -> str:
        return mark_of(self._root, "image", name)

    def _sweep(self, name: str, progress: Progress) -> None:
        """Under the lock of `name`: ends what still runs for an unfinished build of it (pip survives its builder), removes the rest."""
        end(self._mark(name), progress, grace=0)
        for pattern in (f".building-{name}-*", f".gone-{name}-*"):
            for folder in self._root.glob(pattern):
                _remove(folder, progress)

    def _discard(self, beside: Path, name: str, error: BaseException, progress: Progress) -> None:
        """Removes a build that failed. Who was told to stop waits for 1.5 s only, and a process of its own goes on.

        A busy disk takes a minute for the 64,000 files of an image, and a `down` has to end every wait within 2 s. Should that
        process be killed too, the next build finds the folder.
        """
        end(self._mark(name), progress, grace=0)
        told_to_stop = isinstance(error, Withdrawn | Timeout) or not isinstance(error, PipelineError)
        remover = remove_aside(beside, self._mark(name))
        collect = Thread(target=remover.wait, daemon=True)
        collect.start()
        collect.join(1.5 if told_to_stop else progress.left)

    def _sweep_others(self, name: str, progress: Progress) -> None:
        """The same for every other image whose lock is free: gigabytes that nobody else would come back for."""
        found = {p.name.split("-")[1] for pattern in (".building-*-*", ".gone-*-*") for p in self._root.glob(pattern)}
        for other in sorted(found - {name}):
            lock = self._lock_of(other)
            if take(lock):
                try:
                    self._sweep(other, progress)
                finally:
                    lock.release()


NAME = re.compile(r"[0-9a-f]{16}")
UNFINISHED = re.compile(r"\.(?:building|gone)-([0-9a-f]{16})-\d+")
UNDONE = "unfinished:"


def _held(image: str, state: ImageState | None, folder: Path) -> Held:
    if state is None:
        return Held("image", image, "an image that can not be used", folder_size(folder))
    versions = ", ".join(f"{name} {value}" for name, value in sorted(state.versions.items()) if name in ("ray", "vllm"))
    return Held("image", image, versions or "an image", state.size, since=folder.stat().st_mtime)


def _state(image: str, folder: Path, marker: Mapping[str, object], *, changed: bool = False) -> ImageState:
    versions = marker.get("versions")
    return ImageState(
        image,
        str(folder),
        size=int(str(marker.get("bytes", 0))),
        versions={str(k): str(v) for k, v in versions.items()} if isinstance(versions, dict) else {},
        seconds=float(str(marker.get("seconds", 0))),
        changed=changed,
    )


def _write_marker(folder: Path, image: str, flavour: str, versions: Mapping[str, str], seconds: float) -> None:
    size = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
    made = datetime.now(UTC).isoformat(timespec="seconds")
    marker = {"digest": image, "flavour": flavour, "versions": dict(versions), "seconds": round(seconds, 1), "bytes": size, "made": made}
    (folder / MARKER).write_text(json.dumps(marker, indent=1))


def _demand_room(root: Path, recipe: Recipe) -> None:
    free = shutil.disk_usage(root).free
    if free < recipe.room:
        raise CapacityError(
            f"no room to build the image for {recipe.flavour}",
            why=f"it needs {recipe.room / GIB:.1f} GiB, {root} has {free / GIB:.1f} GiB free",
            next="free some space, or set LLM_PIPELINE_CACHE to a folder on another disk; then repeat",
        )


def _remove(folder: Path, progress: Progress) -> None:
    """Removes a folder and asks meanwhile whether to go on. Marker first: a half-removed image is none."""
    (folder / MARKER).unlink(missing_ok=True)
    for path, folders, files in os.walk(folder, topdown=False):
        progress.check()
        for name in (*files, *folders):
            inside = Path(path, name)
            inside.rmdir() if name in folders and not inside.is_symlink() else inside.unlink()
    if folder.exists():
        folder.rmdir()
