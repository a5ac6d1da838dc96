"""gpu_nodepool on this machine: whether a release fits, before anything is started. Nothing is made.

What one replica needs without a GPU says the memory planner: weights, key/value cache, what one step takes, and an overhead per kind
of engine that was measured once. It must fit into the memory that is free now, less a margin. What grows into its memory only later (a release that starts, or is about
to) counts with what it needs, not with what it has. What rests counts with what its head uses, and no more. CPUs are logical slots: only `resources.cpu` that somebody declared counts,
against the CPUs that the releases of other models left undeclared. GPUs belong to one release each.

    <home>/room/<release>.json     what a release needs, written when it got its room; counts while its lock is held (it is about to
                  <release>.lock   start) or while it runs, so that nothing has to be cleared after a kill
                  .lock            one look at a time

Upstream     deployment            Downstream     ray_service
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock
from filelock import Timeout as Busy

from infra.errors import CapacityError
from infra.fitting import Chips, in_main_memory, insisted, judge, on_gpus
from infra.footprint import OVERHEAD, planned
from infra.local import machine
from infra.local.locks import take
from infra.local.processes import read_json, write_json
from infra.local.ray_service import LocalService
from infra.planner import catalogue
from infra.platform import Release, WeightsPart, model_of
from infra.settings import private
from infra.states import Capacity, Fit
from infra.waiting import Progress
from infra.weights import Outline, lying

MARGIN = 512 << 20
"""Bytes that stay free for the machine itself."""


@dataclass(frozen=True)
class Taken:
    """What a release took that runs, or is about to. `unused`: bytes of its memory that it does not have yet."""

    release: str
    model: str
    needs: Mapping[str, float]
    unused: float


class LocalCapacity:
    """`CapacityPart` as arithmetic over what is free."""

    def __init__(self, home: Path, weights: WeightsPart, service: LocalService) -> None:
        self._room, self._weights, self._service = home / "room", weights, service

    def observe(self, release: Release) -> Capacity | None:
        return self.room(release)

    def apply(self, release: Release, progress: Progress) -> Capacity:
        """Raises CapacityError with the numbers when the release can not fit even with everything else of its model gone.

        ConfigError: it would not fit if nothing else ran here.
        """
        if self._runs(release):
            return self.room(release)
        fit = insisted(judge(self, self._weights, release, progress), release)
        found = replace(self.room(release), fit=fit)
        if found.fits:
            return found
        others = tuple(state.release for state in self._service.running(release.model) if state.release != release.name)
        alone = self.room(release, without=others)
        if alone.fits:
            return replace(found, fits=True, why=f"only without {', '.join(others)}: {found.why}")
        raise self._no_room(release, alone, others)

    def delete(self, release: Release, progress: Progress) -> None:
        """Forgets what the release needed; of one that runs or is about to, that stays."""
        if self._note(release.name).exists() and release.name not in {taken.release for taken in self._taken()}:
            self._note(release.name).unlink(missing_ok=True)

    def fits(self, release: Release, outline: Outline) -> Fit:
        """All replicas share this machine; what stays free for the machine itself is nobody's."""
        here = machine.look()
        host = (here.memory - MARGIN) // max(1, release.spec.replicas.min)
        if not release.needs_gpu:
            return in_main_memory(release, outline, host, "this machine, if nothing else ran")
        chips = [Chips(name, catalogue().gpu(name), count, host, "this machine") for name, count in Counter(here.gpus).items()]
        return on_gpus(release, outline, chips, "this machine has no GPU that its driver shows")

    def room(self, release: Release, without: tuple[str, ...] = ()) -> Capacity:
        own = next((state for state in self._service.running(release.model) if state.release == release.name), None)
        if own and own.computes:
            return Capacity(fits=True, why="it runs already", needs=self._needs(release), free={})
        needs = self._needs(release)
        freed = sum(self._service.memory(name) for name in {*without, *([own.release] if own else ())})
        here = machine.look()
        taken = [one for one in self._taken() if one.release != release.name and one.release not in without]
        slots = sum(one.needs.get("cpus", 0) for one in taken if one.model != release.model)
        free = {
            "memory": float(machine.memory_free() + freed - MARGIN - sum(one.unused for one in taken)),
            "gpus": float(len(here.gpus) - sum(one.needs.get("gpus", 0) for one in taken)), "cpus": float(here.cpus - slots),
        }  # fmt: skip
        short = [name for name in ("memory", "gpus", "cpus") if needs[name] > max(0.0, free[name])]
        why = "; ".join(_sentence(name, needs[name], free[name], taken, here) for name in short or ("memory",))
        return Capacity(fits=not short, why=why, needs=needs, free=free)

    @contextmanager
    def reserve(self, release: Release, progress: Progress, without: tuple[str, ...] = ()) -> Iterator[Capacity]:
        """See `CapacityPart`. The lock dies with its holder, and what a release needs counts no more when nothing of it runs."""
        mine = self._lock(release.name)
        with self._alone(progress):
            found = self.room(release, without)
            if found.fits:
                self._forget()
                with suppress(Busy):  # somebody looks whether it is held: a moment
                    mine.acquire(timeout=5)
                write_json(self._note(release.name), {"model": release.model, "needs": dict(found.needs)})
        try:
            yield found
        finally:
            mine.release()

    # ------------------------------------------------ private

    def _runs(self, release: Release) -> bool:
        return any(state.release == release.name and state.computes for state in self._service.running(release.model))

    def _no_room(self, release: Release, found: Capacity, others: tuple[str, ...]) -> CapacityError:
        running = [state.release for state in self._service.running() if state.release not in (*others, release.name)]
        return CapacityError(
            f"{release.name} does not fit on this machine", why=found.why,
            next=("take another model down first: llm-pipeline down " + model_of(running[0])) if running
            else "lower engine.max_model_len or max_num_seqs, or use a smaller or quantised model",
        )  # fmt: skip

    def _taken(self) -> Iterator[Taken]:
        """Everything of this home that got room and still has it."""
        running = {state.release for state in self._service.running() if state.computes}
        for path in sorted(self._room.glob("*.json")):
            found = read_json(path)
            if found is None or not (path.stem in running or self._held(path.stem)):
                continue
            needs = {str(name): float(value) for name, value in dict(found["needs"]).items()}  # type: ignore[call-overload]
            yield Taken(path.stem, str(found["model"]), needs, max(0.0, needs.get("memory", 0.0) - self._service.memory(path.stem)))

    @contextmanager
    def _alone(self, progress: Progress) -> Iterator[None]:
        """One look at a time, so that what one takes the next one sees."""
        private(self._room)
        lock = self._lock("")
        progress.until(lambda: take(lock) or None, every=0.1)
        try:
            yield
        finally:
            lock.release()

    def _forget(self) -> None:
        """What got room once and has it no more."""
        kept = {taken.release for taken in self._taken()}
        for path in self._room.glob("*.json"):
            if path.stem not in kept:
                path.unlink(missing_ok=True)

    def _held(self, name: str) -> bool:
        """Whether somebody is about to start it."""
        lock = self._lock(name)
        free = take(lock)
        if free:
            lock.release()
        return not free

    def _note(self, name: str) -> Path:
        return self._room / f"{name}.json"

    def _lock(self, name: str) -> FileLock:
        return FileLock(self._room / f"{name}.lock", thread_local=False, fallback_to_soft=False, preserve_lock_file=True)

    def _needs(self, release: Release) -> dict[str, float]:
        spec = release.spec
        replicas = max(1, spec.replicas.min)
        if spec.resources.memory is not None:
            memory = float(spec.resources.memory)
        elif release.needs_gpu:
            memory = float(OVERHEAD[spec.engine.kind])
        else:
            memory = float(planned(release, self._outline(release)).needs)
        return {"memory": memory * replicas, "gpus": float(spec.resources.gpu or 0) * replicas, "cpus": float(spec.resources.cpu or 0) * replicas}

    def _outline(self, release: Release) -> Outline:
        """Of weights that are here; else nothing: this is asked often, and asks no source."""
        stored = self._weights.observe(release)
        return lying(Path(stored.path), release.manifest) if stored else Outline()


def _sentence(name: str, need: float, free: float, taken: Sequence[Taken], here: machine.Machine) -> str:
    """What is short (memory: or not), with both numbers and who has the rest."""
    if name == "memory":
        later = sum(one.unused for one in taken)
        more = f", {later / 2**30:.1f} GiB that {', '.join(one.release for one in taken if one.unused)} will still take" if later >= 2**27 else ""
        return f"needs {need / 2**30:.1f} GiB of memory, {max(0.0, free) / 2**30:.1f} GiB are free (less a margin of {MARGIN / 2**30:.1f} GiB{more})"
    word, total = ("GPUs", len(here.gpus)) if name == "gpus" else ("CPUs", here.cpus)
    who = ", ".join(f"{one.release} {one.needs[name]:g}" for one in taken if one.needs.get(name))
    return f"needs {need:g} {word}, this machine has {total:g}" + (f" and {max(0.0, free):g} are not taken ({who})" if free < total else "")
