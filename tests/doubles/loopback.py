"""What the doubles over HTTP share: servers on loopback that answer while a block runs, and end with it whatever clients keep open.

    class Clock(Served):
        def __init__(self) -> None:
            super().__init__(ClockHandler)

    class ClockHandler(Handler[Clock]):
        def do_GET(self) -> None:
            self.send(200, self.double.time.encode(), {})
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Generic, Self, TypeVar

D = TypeVar("D", bound="Served")


class Served:
    """A double with one server, or one for each name.

    skew        seconds that its clock is ahead
    closing     set when the block ends: whoever is to be silent until then waits for it
    unexpected  what it was asked and does not know
    """

    def __init__(self, handler: type[BaseHTTPRequestHandler], *names: str) -> None:
        self.skew, self.closing = 0.0, threading.Event()
        self.unexpected: list[str] = []
        self.servers = {name: Server(self, handler, name) for name in names or ("",)}

    def __enter__(self) -> Self:
        for server in self.servers.values():
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        for server in self.servers.values():
            server.shutdown()
            server.server_close()

    @property
    def url(self) -> str:
        """Of the first server."""
        return next(iter(self.servers.values())).url


class Server(ThreadingHTTPServer, Generic[D]):
    """On a free port."""

    daemon_threads = True

    def __init__(self, double: D, handler: type[BaseHTTPRequestHandler], name: str) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.double, self.name = double, name
        self.open: list[socket.socket] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, address = super().get_request()
        self.open.append(connection)
        return connection, address

    def server_close(self) -> None:
        """Also ends the connections that clients keep open: a server that is gone answers nothing."""
        super().server_close()
        for connection in self.open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what these tests are about."""


class Handler(BaseHTTPRequestHandler, Generic[D]):
    """Silent; its clock is the double's."""

    protocol_version = "HTTP/1.1"
    server: Server[D]

    @property
    def double(self) -> D:
        return self.server.double

    def send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """The whole answer; to a HEAD what precedes the body."""
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(time.time() + self.double.skew)
