"""Sending files to the pod that fills a claim, by HTTP through the API server's proxy: in pieces, from where it stopped, several files at once.

The pod says how much of each file it has; what it does not have is sent, and what it verified never again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock
from typing import Any
from urllib.parse import quote

import httpx

from infra.errors import ConfigError, Transient
from infra.kubernetes import kinds
from infra.kubernetes.inside.order import PORT
from infra.kubernetes.place import Place
from infra.waiting import Progress, Transfer
from infra.weights import File
from infra.weights.parallel import Stopped, each

PIECE = 8 << 20
"""Bytes of one request: what is sent again after a broken connection, and little enough for any proxy between us."""

SENDERS, ATTEMPTS, PAUSE = 2, 6, 1.0
VERIFYING_SECONDS = 300.0
"""The answer to a file's last piece comes when all of it was read again."""


class Upload:
    """Files of `folder` to one pod. `over`: whether that pod has all it needs, and is gone: it ends with its last file."""

    def __init__(self, place: Place, pod: str, folder: Path, files: Iterable[File], over: Callable[[], bool]) -> None:
        self._place, self._pod, self._folder, self._over = place, pod, folder, over
        self._files = sorted(files, key=lambda file: -file.size)
        self._here = {file.path: 0 for file in self._files}
        self._reached = dict(self._here)
        self._failed: dict[int, tuple[int, int]] = {}
        self._lock, self._sent, self._begun = Lock(), 0, time.monotonic()

    def run(self, progress: Progress) -> int:
        """Until the pod has verified everything; bytes sent."""
        total = sum(file.size for file in self._files)

        def tell() -> None:
            rate = self._sent / max(0.1, time.monotonic() - self._begun)
            progress.phase("weights", f"sending to pod {self._pod}: {Transfer(sum(self._here.values()), total, rate)}")

        each(self._files, self._sure, progress, threads=SENDERS, tick=tell, again=self._again)
        return self._sent

    def _sure(self, file: File, stop: Event) -> None:
        """Sends it, unless the pod ended because it has everything: also when only its last answer was lost."""
        try:
            self._send(file, stop)
        except Transient:
            if not self._over():
                raise
        self._reach(file, file.size)

    def _send(self, file: File, stop: Event) -> None:
        with self._client() as client, (self._folder / file.path).open("rb") as source:
            told = self._asked(client, file)
            while not told["ok"]:
                self._reach(file, int(told["have"]))
                if stop.is_set():
                    raise Stopped
                source.seek(int(told["have"]))
                told = self._post(client, file, int(told["have"]), source.read(PIECE))

    def _asked(self, client: httpx.Client, file: File) -> dict[str, Any]:
        with self._mapped():
            reply = client.get("state")
        self._accepted(reply, file)
        return dict(reply.json()["files"][file.path])

    def _post(self, client: httpx.Client, file: File, at: int, piece: bytes) -> dict[str, Any]:
        if not piece and at < file.size:
            raise ConfigError(f"{file.path} became shorter while it was sent", next="run the same command again: it looks anew")
        with self._mapped():
            reply = client.post(f"files/{quote(file.path)}", params={"at": at}, content=piece)
        if reply.status_code == 409:
            return dict(reply.json())
        self._accepted(reply, file)
        with self._lock:
            self._sent += len(piece)
        return dict(reply.json())

    def _accepted(self, reply: httpx.Response, file: File) -> None:
        if reply.status_code == 422:
            raise Transient(f"{file.path} arrived damaged", why=f"pod {self._pod}: {reply.json().get('why')}", next="run the same command again: it sends this file anew, after a look at the folder")
        if reply.status_code >= 400:
            raise Transient(f"pod {self._pod} does not take {file.path}", why=f"status {reply.status_code}: {reply.text[:200]}", next="run the same command again")

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise Transient(f"the connection to pod {self._pod} broke", why=f"{type(error).__name__}: {error}", next="run the same command again: it goes on where it stopped") from error

    def _again(self, index: int, error: Exception) -> float | None:
        """Tries in a row without a new byte are counted."""
        count, most = self._failed.get(index, (0, 0))
        got = self._reached[self._files[index].path]
        count = 1 if got > most else count + 1
        self._failed[index] = (count, got)
        return PAUSE * count if isinstance(error, Transient) and count < ATTEMPTS else None

    def _reach(self, file: File, have: int) -> None:
        self._here[file.path] = have
        self._reached[file.path] = max(self._reached[file.path], have)

    def _client(self) -> httpx.Client:
        made = self._place.api.proxy(kinds.POD, self._place.namespace, self._pod, PORT, VERIFYING_SECONDS)
        made.base_url = httpx.URL(f"{made.base_url}".rstrip("/") + "/")
        return made
