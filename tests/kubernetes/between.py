"""A real HTTP server between the product and a real API server, that breaks what it is told to break.

    with between(lab.api) as middle:
        middle.break_next("POST", "/configmaps", "after")      # forwarded, and then the connection is cut: it counted, and nobody was told
        middle.break_next("GET", "/pods", 503, times=2)         # or answered like this, without asking
        middle.rough = True                                         # or the first, third and fifth request of each kind, in all these ways by turns
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import yaml

from infra.kubernetes.api import Api

WAYS: tuple[str | int, ...] = ("before", "after", 429, 500, 503)

EACH = 3
"""How often requests of one kind are broken in a rough network: each has to be waited for."""

HOP = {"host", "connection", "keep-alive", "content-length", "content-encoding", "transfer-encoding", "accept-encoding", "authorization", "date"}
"""Headers of one connection only."""

OBJECT = re.compile(r"/apis?/(?:[^/]+/)?v\d\w*/(?:namespaces/[^/]+/)?(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<rest>.+))?$")


@dataclass
class Fault:
    """What happens to the next `times` requests of this method whose path contains `part`: cut before or after, or a status."""

    method: str
    part: str
    what: str | int
    times: int = 1


@dataclass(frozen=True)
class Strike:
    """At this very request, before or after the server took it, somebody dies; nobody gets an answer."""

    after: bool
    kill: Callable[[], None]


@dataclass
class Middle:
    """`seen`: every request, as `METHOD /path`; `broken`: how many of each kind it broke while `rough`; `look`: told of each with its body."""

    kubeconfig: Path
    faults: list[Fault] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    rough: bool = False
    broken: Counter[str] = field(default_factory=Counter)
    look: Callable[[str, str, bytes], Strike | None] = lambda *_: None
    _asked: Counter[str] = field(default_factory=Counter)
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
            return self._roughly(f"{method} {shape(path)}") if self.rough else None

    def _roughly(self, kind: str) -> str | int | None:
        self._asked[kind] += 1
        if self._asked[kind] % 2 == 0 or self.broken[kind] >= EACH:
            return None
        self.broken[kind] += 1
        return WAYS[(zlib.crc32(kind.encode()) + self.broken[kind]) % len(WAYS)]


def shape(path: str) -> str:
    """What all requests of one kind have in common: `pods/NAME/log`, `deployments`, `deployments?watch`."""
    where, _, query = path.partition("?")
    found = OBJECT.match(where)
    if not found:
        return where
    words = (found["plural"], "NAME" if found["name"] else "", found["rest"])
    return "/".join(word for word in words if word) + ("?watch" if "watch=true" in query else "")


@contextlib.contextmanager
def between(api: Api, folder: Path) -> Iterator[Middle]:
    """A kubeconfig whose only context, `between`, leads through it."""
    middle = Middle(folder / "between.yaml")
    client = httpx.Client(base_url=api.server, verify=api._trust(), auth=api._sign, timeout=60, trust_env=False, limits=httpx.Limits(max_connections=None))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            strike = middle.look(self.command, self.path, body)
            fault = middle.fault(self.command, self.path)
            if strike and not strike.after:
                strike.kill()
            if fault == "before" or (strike and not strike.after):
                return self._cut()
            if isinstance(fault, int):
                return self._tell(fault)
            headers = {key: value for key, value in self.headers.items() if key.lower() not in HOP}
            with client.stream(self.command, self.path, content=body, headers=headers) as answer:
                if fault == "after" or strike:
                    answer.read()
                    if strike:
                        strike.kill()
                    return self._cut()
                self._pass(answer)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any

        def _pass(self, answer: httpx.Response) -> None:
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                if name.lower() not in HOP:
                    self.send_header(name, value)
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
