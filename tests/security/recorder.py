"""An HTTP proxy on loopback that passes nothing on and remembers who asked for what: whoever phones home through it is caught.

    with Recorder() as proxy:
        subprocess.run(..., env={**env, **proxy.variables})
    assert proxy.asked == []
"""

from __future__ import annotations

import socketserver
import threading
from typing import Self


class Recorder:
    """The proxy. `asked`: the first line of every request that came, as `CONNECT host:443` or `GET http://host/path`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.asked = self.asked

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def variables(self) -> dict[str, str]:
        """The environment that sends everybody here, in both spellings; no NO_PROXY: calls on loopback must know by themselves."""
        url = f"http://127.0.0.1:{self._server.server_address[1]}"
        names = ("http_proxy", "https_proxy", "all_proxy")
        return {spelled: url for name in names for spelled in (name, name.upper())} | {"no_proxy": "", "NO_PROXY": ""}


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    asked: list[str]


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        line = self.rfile.readline(8192).decode(errors="replace").strip()
        self.server.asked.append(line.rsplit(" HTTP/", 1)[0] or "a connection without a request")
        self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
