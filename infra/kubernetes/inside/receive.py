"""Receiving files by HTTP: only what the manifest names, only until it is whole and right.

    GET  /state                    {"files": {path: {"have": bytes, "ok": bool}}}
    POST /files/<path>?at=<byte>   appends the body, when `at` is what is here already; else 409. {"have": bytes, "ok": bool}

Nothing can be read, and nothing else can be written: whoever reaches the port can at worst send bytes that are thrown away. A body's
last block is answered when the whole file was verified.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from infra.errors import Transient
from infra.kubernetes.inside.order import PORT
from infra.kubernetes.inside.shelf import Shelf
from infra.weights.manifest import File

BLOCK = 1 << 20
IDLE = 900.0
"""Seconds without a request after which nobody is believed to come any more: who sends asks at least every minute."""


class Receiver:
    """Takes what lacks on the shelf."""

    def __init__(self, shelf: Shelf, port: int = PORT, idle: float = IDLE) -> None:
        self.shelf, self.idle = shelf, idle
        self._files = {file.path: file for file in shelf.order.manifest.files}
        self._locks = {path: threading.Lock() for path in self._files}
        self.heard = time.monotonic()
        self._whole = threading.Event()
        self.server = _Server(self, port)

    def run(self) -> None:
        """Until everything is here. Transient when nobody sends any more."""
        threading.Thread(target=self.server.serve_forever, args=(0.1,), daemon=True).start()
        try:
            while self.shelf.missing():
                self._whole.wait(1.0)
                self.shelf.tell("waiting for files", sum(self.have(file) for file in self._files.values()))
                if time.monotonic() - self.heard > self.idle:
                    raise Transient("nobody sends the files any more", why=f"no request came for {self.idle:g} s", next="run the same command again: it goes on where it stopped")
        finally:
            self.server.shutdown()
            self.server.server_close()

    def state(self) -> dict[str, Any]:
        return {"files": {path: {"have": self.have(file), "ok": path in self.shelf.sums} for path, file in self._files.items()}}

    def have(self, file: File) -> int:
        if file.path in self.shelf.sums:
            return file.size
        partial = self.shelf.partial(file)
        return partial.stat().st_size if partial.exists() else 0

    def append(self, path: str, at: int, body: Any, length: int) -> tuple[int, dict[str, Any]]:
        """Status and answer. What came before a connection broke stays, and counts."""
        file = self._files.get(path)
        if file is None:
            return 404, {"why": "the manifest names no such file"}
        with self._locks[path]:
            have = self.have(file)
            if path in self.shelf.sums or at != have or at + length > file.size:
                return 409, {"have": have, "ok": path in self.shelf.sums}
            self._write(file, body, length)
            if self.have(file) < file.size:
                return 200, {"have": self.have(file), "ok": False}
            if not self.shelf.take(file):
                return 422, {"have": 0, "ok": False, "why": f"these bytes are not {file.digest}"}
            if not self.shelf.missing():
                self._whole.set()
            return 200, {"have": file.size, "ok": True}

    def _write(self, file: File, body: Any, length: int) -> None:
        with self.shelf.partial(file).open("ab") as target:
            while length and (block := body.read(min(BLOCK, length))):
                target.write(block)
                length -= len(block)
                self.shelf.fetched += len(block)
                self.heard = time.monotonic()


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, receiver: Receiver, port: int) -> None:
        self.receiver = receiver
        self.address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        super().__init__(("", port), _Handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Handler(BaseHTTPRequestHandler):
    """One request per connection: an idle one would keep the pod from ending."""

    timeout = 120

    def do_GET(self) -> None:
        self._answer(200, self._receiver.state())

    def do_POST(self) -> None:
        self._receiver.heard = time.monotonic()
        url = urlsplit(self.path)
        at, length = parse_qs(url.query).get("at", ["0"])[0], self.headers.get("Content-Length", "")
        if not (url.path.startswith("/files/") and at.isdecimal() and length.isdecimal()):
            self._answer(400, {"why": "POST /files/<path>?at=<byte>, with Content-Length"})
            return
        self._answer(*self._receiver.append(unquote(url.path.removeprefix("/files/")), int(at), self.rfile, int(length)))

    @property
    def _receiver(self) -> Receiver:
        assert isinstance(self.server, _Server)
        return self.server.receiver

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name for it
        """Says nothing: the log is read by a program."""
