"""Engines and a router as servers on loopback, in one thread of the test: what the double platform starts and stops in milliseconds.

They are the engine's double of tests/doubles/engine.py; a candidate may get one thing wrong, the router passes requests on and marks answers.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from tests.doubles.engine import Engine, Request, Script, _send_json
from tests.doubles.ray_engine import CompletingEngine

Change = Callable[[bytes], bytes]

WRONG: dict[str, Change] = {
    "other name": lambda data: data.replace(b'"id": "demo"', b'"id": "nemo"'),
    "never ends": lambda data: b"" if b"[DONE]" in data else data,
    "miscounts": lambda data: re.sub(rb'("total_tokens": )(\d+)', lambda m: m[1] + b"9" * len(m[2]), data),
}
"""What an engine gets wrong on the wire."""


class Servers:
    """The thread that all servers of one test share."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def open(self, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> asyncio.Server:
        """A server on a free port of loopback."""

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await serve(reader, writer)
            finally:
                writer.transport.abort()

        server: asyncio.Server = self._do(asyncio.start_server(connected, "127.0.0.1", 0))
        return server

    def end(self, server: asyncio.Server) -> None:
        """Nobody listens there any more."""
        if self._loop:
            self._loop.call_soon_threadsafe(server.close)

    def close(self) -> None:
        """Cuts every connection and ends the thread."""
        if self._loop and self._thread:
            self._do(_end_connections())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()
        self._loop = None

    def _do(self, work: Any) -> Any:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


def port_of(server: asyncio.Server) -> int:
    """Where it listens."""
    port: int = server.sockets[0].getsockname()[1]
    return port


class Altered:
    """A writer that changes what passes."""

    def __init__(self, writer: Any, change: Change) -> None:
        self._writer, self._change = writer, change

    def write(self, data: bytes) -> None:
        self._writer.write(self._change(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)


class Candidate(CompletingEngine):
    """The engine's double with one thing wrong."""

    def __init__(self, script: Script, wrong: str) -> None:
        super().__init__(script)
        self.wrong = wrong

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        if self.wrong == "unwell" and request.path == "/v1/completions":
            _send_json(writer, 500, {"error": {"message": "EngineCore encountered an issue", "code": 500}})
            await writer.drain()
            return
        given: Any = Altered(writer, WRONG[self.wrong]) if self.wrong in WRONG else writer
        await super()._answer(request, given)


class Router(Engine):
    """The endpoint: passes a request on to whoever is behind the name that it carries, and marks the answer."""

    def __init__(self, behind: Callable[[str], tuple[Engine, str] | None]) -> None:
        super().__init__(Script("router"))
        self._behind = behind

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        asked = str(json.loads(request.body).get("model")) if request.body else ""
        found = self._behind(asked)
        if found is None:
            _send_json(writer, 503, {"error": {"message": f"{asked} is not up", "type": "unavailable", "code": 503}})
            await writer.drain()
            return
        engine, mark = found

        def marked(data: bytes) -> bytes:
            return data.replace(b"\r\n", f"\r\nx-llm-release: {mark}\r\n".encode(), 1) if data.startswith(b"HTTP/1.1 ") else data

        given: Any = Altered(writer, marked)
        await engine._answer(request, given)


async def _end_connections() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0.01)  # transports close in the next rounds of the loop
