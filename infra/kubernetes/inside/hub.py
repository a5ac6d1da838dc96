"""Fetching from the Hub with the standard library: plain HTTP with Range, as the laptop does, and with the same words for what it refuses.

The token goes to the Hub alone: large files are answered with a redirect to another host, where it is left out.
"""

from __future__ import annotations

import http.client
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any
from urllib.parse import quote, urlsplit

from infra.errors import PipelineError, Transient
from infra.kubernetes.inside.shelf import Shelf
from infra.waiting import Progress
from infra.weights import hub_errors
from infra.weights.manifest import File
from infra.weights.parallel import Stopped, each

DOWNLOADS, BLOCK = 4, 1 << 20
ATTEMPTS, PAUSE, PATIENCE = 5, 1.0, 120.0
"""Tries in a row without a new byte; seconds times their number between them; the longest Retry-After that is waited for."""


class ReadTimeout(Exception):
    """No byte for too long: the name by which hub_errors knows it."""


class ReadError(Exception):
    """The connection broke off."""


class Fetch:
    """What lacks on the shelf, from the Hub."""

    def __init__(self, shelf: Shelf, token: str) -> None:
        self.shelf, self.order, self._token = shelf, shelf.order, token
        self._files: list[File] = []
        self._here: dict[str, int] = {}
        self._failed: dict[int, tuple[int, int]] = {}

    def run(self) -> None:
        """Until everything is here; the first error that another try would not mend is raised."""
        self._files = sorted(self.shelf.missing(), key=lambda file: -file.size)
        before = self.order.manifest.size - sum(file.size for file in self._files)
        each(
            self._files, self._one, Progress(float("inf")), threads=DOWNLOADS, again=self._again,
            tick=lambda: self.shelf.tell("fetching", before + sum(self._here.values())),
        )  # fmt: skip

    def _one(self, file: File, stop: Event) -> None:
        partial = self.shelf.partial(file)
        partial.touch()
        have = partial.stat().st_size
        if have > file.size:
            partial.unlink()
            partial.touch()
            have = 0
        self._here[file.path] = have
        if have < file.size:
            self._fetch(file, have, stop)
        if partial.stat().st_size < file.size:
            raise Transient(f"{self.order.source}: {file.path} ended too early", why="the other side closed the connection")
        if not self.shelf.take(file, stop):
            self._here[file.path] = 0
            raise Transient(
                f"{self.order.source}: {file.path} arrived damaged", why=f"its digest is not the {file.digest} that the source promised; the damaged copy was thrown away",
                next="run the same command again: it fetches this file anew; if it stays so, suspect a proxy",
            )  # fmt: skip

    def _fetch(self, file: File, have: int, stop: Event) -> None:
        with self._opened(file, have) as reply, self.shelf.partial(file).open("r+b") as target:
            if have and reply.status != 206:
                self._here[file.path] = have = 0
            target.truncate(have)
            target.seek(have)
            while block := reply.read1(BLOCK):
                target.write(block)
                self.shelf.fetched += len(block)
                self._here[file.path] += len(block)
                if stop.is_set():
                    raise Stopped
                if target.tell() > file.size:
                    raise hub_errors.longer(self.order.source, file)

    @contextmanager
    def _opened(self, file: File, have: int) -> Iterator[Any]:
        order = self.order
        url = f"{order.endpoint.rstrip('/')}/{order.repo}/resolve/{order.revision}/{quote(file.path)}"
        asked = hub_errors.Asked(order.source, order.repo, order.endpoint.rstrip("/"), order.revision, file.path, order.stall)
        request = urllib.request.Request(url, headers={"User-Agent": "llm-pipeline", "Accept-Encoding": "identity"})  # noqa: S310 - the Hub's address, as set
        if have:
            request.add_header("Range", f"bytes={have}-")
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with urllib.request.build_opener(AtHome).open(request, timeout=order.stall) as reply:
                yield reply
        except urllib.error.HTTPError as error:
            with error:
                raise hub_errors.refusal(asked, hub_errors.Reply(error.code, dict(error.headers), "GET", url), bool(self._token)) from error
        except (OSError, http.client.HTTPException) as error:
            raise hub_errors.unreachable(asked, _named(error)) from error

    def _again(self, index: int, error: Exception) -> float | None:
        """Seconds until this file is tried again; None: that was it. A file that got further than ever starts its count anew."""
        if not isinstance(error, Transient):
            return None
        count, most = self._failed.get(index, (0, 0))
        got = self._here.get(self._files[index].path, 0)
        count = 1 if got > most else count + 1
        self._failed[index] = (count, max(got, most))
        wait = error.retry_after if error.retry_after is not None else PAUSE * count
        return wait if count < ATTEMPTS and wait <= PATIENCE else None


class AtHome(urllib.request.HTTPRedirectHandler):
    """Follows redirects, with our token only as long as they stay with the same host."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        if made is not None and urlsplit(newurl)[:2] != urlsplit(req.full_url)[:2]:
            made.remove_header("Authorization")
        return made


def _named(error: Exception) -> Exception:
    reason = getattr(error, "reason", error)
    if isinstance(error, TimeoutError) or isinstance(reason, TimeoutError | socket.timeout):
        return ReadTimeout(str(error))
    if isinstance(error, PipelineError):
        return error
    return ReadError(f"{type(error).__name__}: {error}") if isinstance(error, http.client.HTTPException | ConnectionError) else error
