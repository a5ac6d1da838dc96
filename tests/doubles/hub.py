"""A Hub on loopback, as huggingface-hub 2.4 and a browser of files know it; strict, with faults to switch on.

Two servers: the Hub, and the host that large (LFS) files are redirected to. Answers follow the Hub's documented behaviour: model info
with blobs (or of what `expand` names, which alone keeps its ETag while others download), the tree in pages with a Link header, resolve with X-Repo-Commit, ETag, X-Linked-Etag and X-Linked-Size, ranges, and
X-Error-Code for what is refused, whose token it is (`people`: name and role). Whatever is asked that a Hub does not know is answered with 404 and kept in `unexpected`.

    with Hub() as hub:
        sha = hub.commit("org/tiny", {"config.json": b"{}", "model.safetensors": b"..."})
        hub.fault("stall", path="model.safetensors", after=1000)
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

from tests.doubles.loopback import Handler, Served

Kind = Literal["stall", "truncate", "drop", "flip", "status", "norange", "gone"]
LFS = (".safetensors", ".bin", ".gguf", ".onnx", "tokenizer.json")
PAGE = 1000


@dataclass
class Fault:
    """Goes wrong `times` times for requests whose file (or, for the API, whose path) fits `path`.

    stall     sends `after` bytes, then nothing until the other side or the double goes away
    truncate  sends `after` bytes of the announced length, then closes
    drop      resets the connection after `after` bytes
    flip      changes the byte at offset `after` of the file
    status    answers with `status`, and Retry-After where `retry_after` is given
    norange   ignores Range: sends the whole file with 200
    gone      answers as if the commit had no such file
    """

    kind: Kind
    path: str = "*"
    times: int = 1
    after: int = 0
    status: int = 500
    retry_after: str | None = None


@dataclass(frozen=True)
class Request:
    """One request that came, as far as a test may want to know it."""

    server: str
    method: str
    path: str
    range: str | None
    authorised: bool
    if_none_match: str | None = None


@dataclass(frozen=True)
class Span:
    """Bytes of a file that went out: from `start` to `end`."""

    path: str
    start: int
    end: int


@dataclass
class Commit:
    sha: str
    files: dict[str, bytes]


@dataclass
class Repo:
    """`gated`: only tokens in `accepted` may fetch; `private`: to all others it does not exist; `unread`: tokens that were not given the right to read it."""

    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False
    accepted: set[str] = field(default_factory=set)
    unread: set[str] = field(default_factory=set)


class Hub(Served):
    """The double. `tokens`: the tokens that it knows; any other is refused, as on the Hub, wherever it is shown.
    `deaf`: it takes connections and answers nothing.
    """

    def __init__(self, page: int = PAGE) -> None:
        super().__init__(_Handler, "hub", "cdn")
        self.page = page
        self.repos: dict[str, Repo] = {}
        self.tokens: set[str] = set()
        self.people: dict[str, tuple[str, str]] = {}
        self.deaf = False
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.answers: list[int] = []
        self.sent = 0
        self.spans: list[Span] = []
        self.slow = 0.0
        self.on_fetch: Callable[[str], object] = lambda _: None
        self._lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return self.url

    def commit(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """A commit with exactly these files; moves the branch. The sha is that of the content, so equal commits are one."""
        there = self.repos.setdefault(repo, Repo())
        parent = there.refs.get(branch, "")
        sha = hashlib.sha1(json.dumps([parent, sorted((p, git_id(b)) for p, b in files.items())]).encode()).hexdigest()
        there.commits[sha] = Commit(sha, dict(files))
        there.refs[branch] = sha
        return sha

    def fault(self, kind: Kind, path: str = "*", **more: object) -> Fault:
        fault = Fault(kind, path, **more)  # type: ignore[arg-type]
        self.faults.append(fault)
        return fault

    def fetched(self, path: str) -> list[Request]:
        """The GETs that brought bytes of this file."""
        return [
            r for r in self.requests if r.method == "GET" and r.path.endswith("/" + path) and (r.server == "cdn" or not path.endswith(LFS))
        ]

    def twice(self) -> int:
        """Bytes that went out more than once, each counted as often as it was too many."""
        rows: dict[str, Counter[int]] = {}
        for span in self.spans:
            rows.setdefault(span.path, Counter()).update({span.start: 1, span.end: -1})
        total = 0
        for edges in rows.values():
            depth, before = 0, 0
            for at in sorted(edges):
                total += max(0, depth - 1) * (at - before)
                depth, before = depth + edges[at], at
        return total

    def take(self, path: str, kinds: tuple[Kind, ...]) -> Fault | None:
        """The first fault that fits, used up once."""
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and fault.kind in kinds and fnmatch.fnmatch(path, fault.path):
                    fault.times -= 1
                    return fault
        return None


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def pointer_id(content: bytes) -> tuple[str, int]:
    """Git knows an LFS file by its pointer only."""
    pointer = (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{hashlib.sha256(content).hexdigest()}\nsize {len(content)}\n".encode()
    )
    return git_id(pointer), len(pointer)


class _Handler(Handler[Hub]):
    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _write(self) -> None:
        """Nobody of ours changes anything there."""
        self.hub.unexpected.append(f"{self.command} {self.path}")
        self._refuse(405, None, "nobody writes here")

    do_POST = do_PUT = do_PATCH = do_DELETE = _write

    @property
    def hub(self) -> Hub:
        return self.double

    def _answer(self) -> None:
        self.hub.requests.append(
            Request(
                self.server.name, self.command, urlsplit(self.path).path, self.headers.get("Range"), "Authorization" in self.headers, self.headers.get("If-None-Match"),
            )
        )
        path = unquote(urlsplit(self.path).path)
        if self.hub.deaf:
            return self._until_gone()
        if self.server.name == "cdn":
            return self._cdn(path)
        token = self._token()
        if token is not None and token not in self.hub.tokens:
            return self._refuse(401, None, "Invalid credentials in Authorization header")
        if fault := self.hub.take(path.rpartition("/")[2] if "/resolve/" in path else path, ("status",)):
            headers = {"Retry-After": fault.retry_after} if fault.retry_after is not None else {}
            return self._send(fault.status, b"busy", headers)
        if path == "/api/models":
            return self._json([{"id": name} for name in sorted(self.hub.repos)], {})
        if path == "/api/whoami-v2":
            return self._whoami(token)
        for pattern, call in ((API, self._info), (TREE, self._tree), (RESOLVE, self._resolve)):
            if match := pattern.fullmatch(path):
                return self._within(match["repo"], match["revision"] or "main", token, call, match)
        self.hub.unexpected.append(f"{self.command} {self.path}")
        return self._refuse(404, None, "no such page")

    def _whoami(self, token: str | None) -> None:
        if token is None:
            return self._refuse(401, None, "Invalid username or password.")
        name, role = self.hub.people.get(token, ("ann", "read"))
        return self._json({"type": "user", "id": "0", "name": name, "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}}, {})

    def _token(self) -> str | None:
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        return value if kind == "Bearer" else None

    def _within(
        self, name: str, revision: str, token: str | None, call: Callable[[str, Commit, re.Match[str]], None], match: re.Match[str]
    ) -> None:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and token not in repo.accepted):
            return self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        if match.re is RESOLVE and token in repo.unread:
            return self._refuse(403, None, "Your fine-grained token does not have the permission to read this repository")
        if match.re is RESOLVE and repo.gated and token not in repo.accepted:
            return self._refuse(403 if token else 401, "GatedRepo", f"Access to model {name} is restricted.")
        commit = repo.commits.get(repo.refs.get(revision, revision))
        if commit is None:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return call(name, commit, match)

    def _info(self, name: str, commit: Commit, match: re.Match[str]) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if expand := query.get("expand"):
            return self._expanded(commit, expand)
        blobs = "blobs" in query
        siblings = [{"rfilename": path} | (_sibling(content, path) if blobs else {}) for path, content in sorted(commit.files.items())]
        body = {
            "_id": "0",
            "id": name,
            "modelId": name,
            "sha": commit.sha,
            "siblings": siblings,
            "private": False,
            "gated": False,
            "tags": [],
            "downloads": len(self.hub.requests),
        }
        self._conditional(body, {"X-Repo-Commit": commit.sha})

    def _expanded(self, commit: Commit, expand: list[str]) -> None:
        """Only what was asked for; what a Hub does not know is refused, not left out."""
        if expand != ["sha"]:
            self.hub.unexpected.append(f"expand={expand}")
            return self._refuse(400, None, "Invalid option")
        return self._conditional({"_id": "0", "id": "org/x", "sha": commit.sha}, {})

    def _conditional(self, body: object, headers: dict[str, str]) -> None:
        """With a weak ETag over the answer; 304 to who has it already."""
        tag = f'W/"{hashlib.sha1(json.dumps(body).encode()).hexdigest()[:20]}"'
        if self.headers.get("If-None-Match") == tag:
            return self._send(304, b"", {"ETag": tag})
        return self._json(body, headers | {"ETag": tag})

    def _tree(self, name: str, commit: Commit, match: re.Match[str]) -> None:
        query = parse_qs(urlsplit(self.path).query)
        start = int(query.get("cursor", ["0"])[0])
        entries = [_entry(content, path) for path, content in sorted(commit.files.items())]
        rest = entries[start + self.hub.page :]
        link = f"{self.server.url}{urlsplit(self.path).path}?recursive=True&cursor={start + self.hub.page}"
        self._json(entries[start : start + self.hub.page], {"Link": f'<{link}>; rel="next"'} if rest else {})

    def _resolve(self, name: str, commit: Commit, match: re.Match[str]) -> None:
        path = match["path"]
        content = commit.files.get(path)
        self.hub.on_fetch(path)
        if content is None or self.hub.take(path, ("gone",)):
            return self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit.sha})
        if not path.endswith(LFS):
            return self._content(path, content, {"X-Repo-Commit": commit.sha, "ETag": f'"{git_id(content)}"'})
        digest = hashlib.sha256(content).hexdigest()
        headers = {"X-Repo-Commit": commit.sha, "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        where = f"{self.hub.servers['cdn'].url}/{commit.sha}/{name}/{path}?Signature=signed&Policy=p"
        return self._send(302, b"", headers | {"Location": where})

    def _cdn(self, path: str) -> None:
        """Answers signed requests only, and no credentials: a store refuses a request that is authorised twice."""
        sha, _, rest = path.lstrip("/").partition("/")
        name, file = "/".join(rest.split("/")[:2]), "/".join(rest.split("/")[2:])
        repo = self.hub.repos.get(name)
        if "Authorization" in self.headers or "Signature" not in parse_qs(urlsplit(self.path).query) or repo is None:
            self.hub.unexpected.append(f"CDN {self.command} {path}, authorised: {'Authorization' in self.headers}")
            return self._send(400, b"only one auth mechanism allowed", {})
        if fault := self.hub.take("cdn:" + file, ("status",)):
            return self._send(fault.status, b"busy", {"Retry-After": fault.retry_after} if fault.retry_after is not None else {})
        return self._content(file, repo.commits[sha].files[file], {"ETag": '"cdn"'})

    def _content(self, path: str, content: bytes, headers: dict[str, str]) -> None:
        fault = self.hub.take(path, ("stall", "truncate", "drop", "flip", "norange")) if self.command == "GET" else None
        if fault and fault.kind == "flip":
            content = content[: fault.after] + bytes([content[fault.after] ^ 1]) + content[fault.after + 1 :]
        start, asked = 0, re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and not (fault and fault.kind == "norange"):
            start, total = int(asked[1]), len(content)
            if start >= total:
                return self._send(416, b"", {"Content-Range": f"bytes */{total}"})
            content = content[: int(asked[2]) + 1] if asked[2] else content
            headers |= {"Content-Range": f"bytes {start}-{len(content) - 1}/{total}"}
        self.send_response(206 if headers.get("Content-Range") else 200)
        for key, value in (headers | {"Content-Length": str(len(content) - start), "Accept-Ranges": "bytes"}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self._body(path, start, content[start:], fault)

    def _body(self, path: str, start: int, body: bytes, fault: Fault | None) -> None:
        broken = fault is not None and fault.kind in ("stall", "truncate", "drop")
        for at in range(0, len(part := body[: fault.after] if broken and fault else body), 64 << 10):
            self.wfile.write(part[at : at + (64 << 10)])
            end = min(at + (64 << 10), len(part))
            self.hub.sent += end - at
            self.hub.spans.append(Span(path, start + at, start + end))
            if self.hub.slow and self.hub.closing.wait(self.hub.slow):
                break
        if broken and fault:
            self._break(fault)

    def _break(self, fault: Fault) -> None:
        self.wfile.flush()
        self.close_connection = True
        if fault.kind == "stall":
            self._until_gone()
        if fault.kind == "drop":
            time.sleep(0.05)  # what was sent must arrive before the reset overtakes it
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())

    def _until_gone(self) -> None:
        self.connection.settimeout(0.05)
        while not self.hub.closing.is_set():
            try:
                if not self.connection.recv(1):
                    return
            except TimeoutError:
                continue
            except OSError:
                return

    def _json(self, body: object, headers: dict[str, str]) -> None:
        self._send(200, json.dumps(body).encode(), headers | {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str | None, message: str, headers: dict[str, str] | None = None) -> None:
        errors = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._send(status, json.dumps({"error": message}).encode(), errors | (headers or {}))

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.hub.answers.append(status)
        self.send(status, body, headers)


API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(/revision/(?P<revision>.+))?")
TREE = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)")
RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


def _sibling(content: bytes, path: str) -> dict[str, object]:
    if not path.endswith(LFS):
        return {"size": len(content), "blobId": git_id(content)}
    blob, size = pointer_id(content)
    return {
        "size": len(content),
        "blobId": blob,
        "lfs": {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": size},
    }


def _entry(content: bytes, path: str) -> dict[str, object]:
    if not path.endswith(LFS):
        return {"type": "file", "path": path, "size": len(content), "oid": git_id(content)}
    blob, size = pointer_id(content)
    lfs = {"size": len(content), "oid": hashlib.sha256(content).hexdigest(), "pointerSize": size}
    return {"type": "file", "path": path, "size": len(content), "oid": blob, "lfs": lfs}
