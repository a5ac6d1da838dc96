"""A real HTTP server between the product and a real API server, that breaks what it is told to break.

    with between(lab.api) as middle:
        middle.break_next("POST", "/configmaps", "after")      # forwarded, and then the connection is cut: it counted, and nobody was told
        middle.break_next("GET", "/pods", 503, times=2)         # or answered like this, without asking
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import yaml

from infra.kubernetes.api import Api


@dataclass
class Fault:
    """What happens to the next `times` requests of this method whose path contains `part`: cut before or after, or a status."""

    method: str
    part: str
    what: str | int
    times: int = 1


@dataclass
class Middle:
    """`seen`: every request, as `METHOD /path`."""

    kubeconfig: Path
    faults: list[Fault] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def break_next(self, method: str, part: str, what: str | int, times: int = 1) -> None:
        self.faults.append(Fault(method, part, what, times))

    def fault(self, method: str, path: str) -> str | int | None:
        with self._lock:
            self.seen.append(f"{method} {path}")
            for found in self.faults:
                if found.times > 0 and found.method in (method, "*") and found.part in path:
                    found.times -= 1
                    return found.what
        return None


@contextlib.contextmanager
def between(api: Api, folder: Path) -> Iterator[Middle]:
    """A kubeconfig whose only context, `between`, leads through it."""
    middle = Middle(folder / "between.yaml")
    client = httpx.Client(base_url=api.server, verify=api._trust(), auth=api._sign, timeout=60, trust_env=False, limits=httpx.Limits(max_connections=None))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = middle.fault(self.command, self.path)
            if fault == "before":
                return self._cut()
            if isinstance(fault, int):
                return self._tell(fault)
            headers = {key: value for key, value in self.headers.items() if key.lower() in ("accept", "content-type", "user-agent")}
            with client.stream(self.command, self.path, content=body, headers=headers) as answer:
                if fault == "after":
                    answer.read()
                    return self._cut()
                self._pass(answer)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any

        def _pass(self, answer: httpx.Response) -> None:
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers.get("content-type", ""))
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            with contextlib.suppress(OSError, httpx.HTTPError):
                for piece in answer.iter_bytes():
                    self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                self.wfile.write(b"0\r\n\r\n")

        def _tell(self, status: int) -> None:
            body = json.dumps({"kind": "Status", "code": status, "message": "broken by a test"}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Retry-After", "1")
            self.end_headers()
            self.wfile.write(body)

        def _cut(self) -> None:
            self.close_connection = True
            self.connection.shutdown(2)

        def log_message(self, *_: object) -> None:
            """Not on the terminal."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        middle.kubeconfig.write_text(yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "between", "users": [{"name": "u", "user": {}}],
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "contexts": [{"name": "between", "context": {"cluster": "c", "user": "u"}}],
        }))  # fmt: skip
        yield middle
        server.shutdown()
    client.close()
