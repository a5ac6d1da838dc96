"""A lock of the cluster that dies with its holder: a `coordination.k8s.io` Lease that is renewed, expires, and goes when it is given back.

    held       made by whoever holds it, renewed every RENEW seconds by a thread, removed at the end
    expired    not renewed for SECONDS, by the clock of whoever waits: nobody's clocks have to agree
    dead       the holder was a process of this machine, and is provably gone: no need to wait
    lost       could not be renewed for GIVE_UP seconds and can not be now, or somebody took it: the holder stops at its next wait, and never goes on
               unprotected. On a machine that only stood still nobody took it: its version is still ours, so it is renewed and work goes on
    left       of a holder that was killed: taken away by whoever next asks for it, and by the next step of the cluster itself
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from infra import workers
from infra.errors import Conflict, Denied, PipelineError
from infra.kubernetes import kinds, namespace
from infra.kubernetes.api import Object
from infra.kubernetes.failures import Absent
from infra.kubernetes.place import Place
from infra.kubernetes.reading import unix
from infra.kubernetes.writes import write
from infra.waiting import Progress

SECONDS, RENEW, GIVE_UP = 20, 5.0, 15.0
"""Seconds: until others take it, between two renewals, and until the holder stops by itself (before others may begin)."""

HOLDER, WORKER = "llm-pipeline/holder", "llm-pipeline/worker"

DEAD = 3600.0
"""Seconds after which a Lease that was not renewed is nobody's, by any clock."""


def abandoned(lease: Object) -> bool:
    """Whether the holder is provably gone, or silent for longer than clocks differ."""
    worker = (lease["metadata"].get("annotations") or {}).get(WORKER, "")
    return workers.gone(worker) or time.time() - unix(lease["spec"].get("renewTime") or lease["metadata"]["creationTimestamp"]) > DEAD


def sweep(place: Place) -> None:
    """Takes away the Leases of ours (locks, and room for a start) that nobody holds any more: nobody waits for them, so nobody else would come for them."""
    for item in place.api.list(kinds.LEASE, place.namespace, place.selector()).items:
        if abandoned(item):
            with contextlib.suppress(Conflict):  # somebody takes it over at this moment
                place.api.delete(kinds.LEASE, item["metadata"]["name"], place.namespace, uid=item["metadata"]["uid"], version=item["metadata"]["resourceVersion"])


class Lease:
    """One lock, as one who wants it sees it. `shown`: its name for people; `who`: what those who wait are told."""

    def __init__(self, place: Place, name: str, shown: str, who: str) -> None:
        self._place, self._name, self._shown, self._who = place, name, shown, who
        self._token = secrets.token_hex(8)
        self._version, self._renewed, self._taken, self._since = "", 0.0, "", ""
        self._seen: tuple[str, float] = ("", 0.0)
        self._renewing = threading.Lock()

    @contextlib.contextmanager
    def held(self, progress: Progress) -> Iterator[None]:
        """Waits until it is ours; then keeps it. Raises Conflict when it was lost meanwhile, from every wait of `progress` and at the end."""
        self._take(progress)
        done = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(done,), name=f"lease {self._name}", daemon=True)
        keeper.start()
        try:
            with self._guarding(progress):
                yield
            self.check()
        finally:
            done.set()
            keeper.join()
            self._drop()

    def check(self) -> None:
        """Raises Conflict when it is not ours any more, or may soon not be."""
        if time.monotonic() - self._renewed > GIVE_UP and not self._taken:
            with contextlib.suppress(PipelineError):
                self._renew()
        silent = time.monotonic() - self._renewed
        if self._taken or silent > GIVE_UP:
            raise Conflict(
                f"the lock {self._shown} was lost", why=self._taken or f"it could not be renewed for {silent:,.0f} s, and others may take it after {SECONDS} s",
                next="run the same command again: it goes on from what is there",
            )  # fmt: skip

    # ------------------------------------------------ taking

    def _take(self, progress: Progress) -> None:
        version = ""
        while not self._try(version, progress):
            expired = self._place.api.until(kinds.LEASE, self._place.namespace, lambda now: self._free(now, progress), progress, fields=f"metadata.name={self._name}")
            version = expired["metadata"]["resourceVersion"] if expired else ""

    def _try(self, version: str, progress: Progress) -> bool:
        """Makes it, or takes over the one of this version, which expired."""
        self._renewed = time.monotonic()
        try:
            found = write(self._place.api, self._manifest(), version)
        except (Absent, Denied) as error:
            if version or not namespace.away(self._place, error):
                if isinstance(error, Denied):
                    raise
                return False
            namespace.ensure(self._place, progress)
            return False
        except Conflict:
            return False
        self._version = found["metadata"]["resourceVersion"]
        return True

    def _free(self, now: Sequence[Object], progress: Progress) -> Object | None:
        """Nothing when it is gone, itself when nobody holds it any more, None while somebody does."""
        if not now:
            return {}
        (lease,) = now
        spec, version = lease["spec"], lease["metadata"]["resourceVersion"]
        if self._seen[0] != version:
            self._seen = (version, time.monotonic())
        worker = (lease["metadata"].get("annotations") or {}).get(WORKER, "")
        if not spec.get("holderIdentity") or workers.gone(worker) or time.monotonic() - self._seen[1] > spec.get("leaseDurationSeconds", SECONDS):
            return lease
        progress.phase("waiting for the lock", f"{self._shown} is held by {spec['holderIdentity']}")
        return None

    def _manifest(self) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self._since = self._since or now
        holder = f"{self._who} ({platform.node()}, pid {os.getpid()})"
        spec = {"holderIdentity": holder, "leaseDurationSeconds": SECONDS, "acquireTime": self._since, "renewTime": now}
        meta = self._place.meta(self._name, "lock", annotations={HOLDER: self._token, WORKER: workers.myself()})
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}

    # ------------------------------------------------ keeping

    @contextlib.contextmanager
    def _guarding(self, progress: Progress) -> Iterator[None]:
        """Every wait of the holder asks for the lock too."""
        before = progress.stop

        def stop() -> None:
            self.check()
            before()

        progress.stop = stop
        try:
            yield
        finally:
            progress.stop = before

    def _keep(self, done: threading.Event) -> None:
        while not done.wait(RENEW):
            with contextlib.suppress(PipelineError):
                if not self._renew():
                    return

    def _renew(self) -> bool:
        """False: it is lost for good."""
        with self._renewing:
            return self._renewed_now()

    def _renewed_now(self) -> bool:
        for _ in range(2):
            asked = time.monotonic()
            try:
                found = self._place.api.replace(self._manifest_at(self._version))
            except (Conflict, Absent):
                now = self._ours()
                if now is None:
                    return self._leaving()
                self._version = now["metadata"]["resourceVersion"]
                continue
            self._version, self._renewed = found["metadata"]["resourceVersion"], asked
            break
        return True

    def _leaving(self) -> bool:
        """Not ours any more. In a namespace that goes away nobody else can take it either: whoever removes that goes on."""
        found = self._place.api.get(kinds.NAMESPACE, self._place.namespace)
        if found is None or namespace.leaving(found):
            self._renewed = time.monotonic()
            return True
        self._taken = "somebody else took or removed it"
        return False

    def _manifest_at(self, version: str) -> Object:
        made = self._manifest()
        return {**made, "metadata": {**made["metadata"], "resourceVersion": version}}

    def _ours(self) -> Object | None:
        """The Lease as it is now, when we are its holder (an answer was lost)."""
        found = self._place.api.get(kinds.LEASE, self._name, self._place.namespace)
        return found if found and (found["metadata"].get("annotations") or {}).get(HOLDER) == self._token else None

    def _drop(self) -> None:
        """Gives it back; when that fails it expires by itself. Never that of the next holder: the delete carries the version."""
        with contextlib.suppress(PipelineError):
            try:
                self._remove(self._version)
            except Conflict:
                if found := self._ours():
                    self._remove(found["metadata"]["resourceVersion"])

    def _remove(self, version: str) -> None:
        self._place.api.delete(kinds.LEASE, self._name, self._place.namespace, version=version)
