"""A receiver of notices on loopback, as strict as Slack: it takes JSON within Slack's limits, and answers as the test says.

    with Receiver() as receiver:
        receiver.answers = [429, 200]      the next answers; then 200
        receiver.url                       its address, with a secret in it
        receiver.taken                     documents that it answered with 2xx

What is not as Slack documents it is answered with 400 and kept in `wrong`.
"""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

SECRET = "T00000000/B00000000/in-the-clear-XXXXXXXX"

TEXT, SECTION, BLOCKS, ELEMENTS = 40_000, 3_000, 50, 10
"""What Slack takes: characters of the text and of a section, blocks, elements of a context."""


class Receiver:
    """The double. An answer is a status, a status with Retry-After, or "hang" (silent until the end), "drop" (hangs up), "drip" (never ends its headers)."""

    def __init__(self) -> None:
        self.answers: list[int | tuple[int, str] | str] = []
        self.taken: list[dict[str, Any]] = []
        self.asked = 0
        self.wrong: list[str] = []
        self.ending = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/services/{SECRET}"

    @property
    def texts(self) -> list[str]:
        """What people read, in the order in which it was taken."""
        return [document["text"] for document in self.taken]

    @property
    def kinds(self) -> list[str]:
        """The word after the sign, in the order in which they were taken."""
        return [text.partition(" ")[2].partition(":")[0] for text in self.texts]

    def judge(self, path: str, content_type: str, body: bytes) -> str:
        """What Slack would find wrong; empty: nothing."""
        if path != f"/services/{SECRET}":
            return f"no such hook: {path}"
        if not content_type.startswith("application/json"):
            return f"no JSON: {content_type}"
        try:
            document = json.loads(body.decode())
        except ValueError as error:
            return f"no JSON: {error}"
        return "; ".join(faults(document))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with double._lock:
                    double.asked += 1
                    answer = double.answers.pop(0) if double.answers else 200
                    if wrong := double.judge(self.path, self.headers.get("Content-Type") or "", body):
                        double.wrong.append(wrong)
                        answer = 400
                    status, after = answer if isinstance(answer, tuple) else (answer, "")
                    if isinstance(status, int) and 200 <= status < 300:
                        double.taken.append(json.loads(body))
                self._say(status, after)

            def _say(self, status: int | str, after: str) -> None:
                if status == "hang":
                    double.ending.wait(600)
                if status == "drip":
                    self._drip()
                if isinstance(status, str):
                    self.close_connection = True
                    return
                self.send_response(status)
                if after:
                    self.send_header("Retry-After", after)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def _drip(self) -> None:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                while not double.ending.wait(0.2):
                    try:
                        self.wfile.write(b".")
                    except OSError:
                        return

            def log_message(self, *_: object) -> None:
                """Silent."""

        return Handler


def faults(document: Any) -> list[str]:
    """What is not as Slack documents it."""
    if not isinstance(document, dict) or set(document) - {"text", "blocks"}:
        return [f"unknown form: {list(document)[:5]}"]
    text, blocks = document.get("text"), document.get("blocks", [])
    found = [] if isinstance(text, str) and 0 < len(text) <= TEXT else ["text: missing or too long"]
    found += [] if isinstance(blocks, list) and len(blocks) <= BLOCKS else ["blocks: too many"]
    shown = [text, *(one for block in blocks for one in shown_in(block, found))]
    return found + [f"not escaped: {one!r}" for one in shown if unescaped(str(one))]


def shown_in(block: Any, found: list[str]) -> list[str]:
    """The texts of one block; what is wrong with it is added to `found`."""
    if block.get("type") == "section" and set(block) == {"type", "text"}:
        parts, most = [block["text"]], SECTION
    elif block.get("type") == "context" and set(block) == {"type", "elements"} and 0 < len(block["elements"]) <= ELEMENTS:
        parts, most = block["elements"], SECTION
    else:
        found.append(f"unknown block: {block}")
        return []
    for part in parts:
        if set(part) != {"type", "text"} or part["type"] != "mrkdwn" or not 0 < len(part["text"]) <= most:
            found.append(f"unknown text, or too long: {part}")
    return [part.get("text", "") for part in parts]


def unescaped(text: str) -> bool:
    """Whether & < > stand there as themselves; a link of ours may."""
    plain = re.sub(r"<https?://[^\s|<>]+\|[^<>|]+>", "", text)
    return bool(re.search(r"[<>]|&(?!amp;|lt;|gt;)", plain))
