"""A scripted engine that behaves like vLLM's OpenAI server on the wire. Standard library only; also importable (`engine(...)`).

    python tests/doubles/engine.py --port 0 --model demo --answers '{"ping": "pong"}'

Prints `listening on 127.0.0.1:PORT` once it takes requests. The answer to a prompt (the last user message) is looked up in
--answers (a JSON object or a file with one); another prompt gets --default. Tokens are words. Knobs for one request alone go
into its headers: x-first-ms, x-gap-ms, x-die-after.

GET /log says what it saw: arrived, done, running, aborted (Unix seconds each), last_arrival, and the last 100 requests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSION = "0.32.0"
Json = dict[str, Any]


@dataclass(frozen=True)
class Script:
    """What the engine is to do. Times in milliseconds; `die_after` n: the socket is cut after n tokens (0: before any answer)."""

    model: str
    answers: dict[str, str] = field(default_factory=dict)
    default: str = "one two three"
    root: str = "demo/demo-model"
    max_model_len: int = 2048
    first_ms: float = 0
    gap_ms: float = 0
    die_after: int | None = None
    unhealthy_after: int | None = None


@dataclass
class Log:
    """What the engine saw."""

    arrived: int = 0
    done: int = 0
    running: int = 0
    last_arrival: float = 0.0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    aborted: list[float] = field(default_factory=list)
    requests: deque[Json] = field(default_factory=lambda: deque(maxlen=100))

    def as_json(self) -> Json:
        return {**self.__dict__, "requests": list(self.requests)}


@dataclass(frozen=True)
class Pace:
    """Seconds before the first token and between two; after how many tokens to cut the socket (negative: never)."""

    first: float
    gap: float
    die: int


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    peer: int


class Refusal(Exception):
    """An answer in vLLM's error shape."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": status}}


class Cut(Exception):
    """The engine dies here: the socket is closed without an end."""


@dataclass(frozen=True)
class Running:
    """An engine in a process of its own."""

    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log(self) -> Json:
        with urllib.request.urlopen(f"{self.url}/log", timeout=10) as answer:
            found: Json = json.load(answer)
        return found


@contextlib.contextmanager
def engine(model: str, *options: str, port: int = 0) -> Iterator[Running]:
    """Runs one until the end of the block; `options` are those of the command line."""
    command = [sys.executable, __file__, "--port", str(port), "--model", model, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("listening"), f"the engine double did not start: {line!r}"
        yield Running(int(line.rsplit(":", 1)[1]), process.pid)
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


class Engine:
    """The server: one coroutine per connection, which also notices when the client leaves in the middle of an answer."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.log = Log()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._exchange(reader, writer):
                pass
        writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        method, path, headers = await _head(reader)
        counted = method == "POST"
        if counted:
            self.log.arrived += 1
            self.log.running += 1
            self.log.last_arrival = time.time()
        try:
            if headers.get("expect"):
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request = Request(method, path, headers, await _body(reader, headers), writer.get_extra_info("peername")[1])
            return await self._answer_while_listening(request, reader, writer)
        finally:
            self.log.running -= counted

    async def _answer_while_listening(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        answer = asyncio.create_task(self._answer(request, writer))
        gone = asyncio.create_task(reader.read(1))
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            gone.cancel()
            await asyncio.wait((gone,))
        else:
            answer.cancel()
            await asyncio.wait((answer,))
            self.log.aborted.append(time.time())
            gone.exception()
            return False
        try:
            answer.result()
        except Cut:
            writer.transport.abort()
            return False
        self.log.done += request.method == "POST"
        return True

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        route = (request.method, request.path.partition("?")[0])
        try:
            if route == ("POST", "/v1/chat/completions"):
                await self._chat(request, writer)
            elif route == ("GET", "/health"):
                _send(writer, 503 if self._unhealthy() else 200, b"")
            elif route == ("GET", "/metrics"):
                _send(writer, 200, self._metrics().encode(), "text/plain; version=0.0.4; charset=utf-8")
            elif page := self._pages().get(route):
                _send_json(writer, 200, page)
            else:
                self._note(request)
                _send_json(writer, 404, {"detail": "Not Found"})
        except Refusal as refusal:
            _send_json(writer, refusal.status, refusal.body)
        await writer.drain()

    def _pages(self) -> dict[tuple[str, str], Json]:
        s = self.script
        card = {"id": s.model, "object": "model", "created": 1, "owned_by": "vllm", "root": s.root, "parent": None}
        return {
            ("GET", "/v1/models"): {"object": "list", "data": [{**card, "max_model_len": s.max_model_len, "permission": []}]},
            ("GET", "/version"): {"version": VERSION},
            ("GET", "/log"): self.log.as_json(),
        }

    def _unhealthy(self) -> bool:
        limit = self.script.unhealthy_after
        return limit is not None and self.log.arrived >= limit

    def _metrics(self) -> str:
        log, label = self.log, f'{{engine="0",model_name="{self.script.model}"}}'
        rows = (
            ("gauge", "num_requests_running", log.running),
            ("gauge", "num_requests_waiting", 0),
            ("gauge", "kv_cache_usage_perc", 0.0),
            ("counter", "prompt_tokens_total", log.prompt_tokens),
            ("counter", "generation_tokens_total", log.generation_tokens),
        )
        lines = [line for kind, name, value in rows for line in (f"# TYPE vllm:{name} {kind}", f"vllm:{name}{label} {float(value)}")]
        lines += [
            "# TYPE vllm:request_success_total counter",
            f'vllm:request_success_total{{{label[1:-1]},finished_reason="stop"}} {float(log.done)}',
        ]
        return "\n".join(lines) + "\n"

    async def _chat(self, request: Request, writer: asyncio.StreamWriter) -> None:
        asked = self._read(request)
        tokens, finish = self._tokens(asked)
        usage = _usage(asked["messages"], tokens)
        self.log.prompt_tokens += usage["prompt_tokens"]
        created = int(time.time())
        head: Json = {"id": f"chatcmpl-{self.log.arrived:032x}", "created": created, "model": self.script.model}
        pace = self._pace(request.headers)
        if pace.die == 0:
            await asyncio.sleep(pace.first)
            raise Cut
        if asked.get("stream"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n")
            include = bool((asked.get("stream_options") or {}).get("include_usage"))
            await self._stream(writer, head, self._paced(pace, tokens), finish, usage if include else None)
            return
        text = "".join([token async for token in self._paced(pace, tokens)])
        message: Json = {"role": "assistant", "content": text, "refusal": None, "tool_calls": [], "reasoning_content": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish, "stop_reason": None}
        _send_json(writer, 200, {**head, "object": "chat.completion", "choices": [choice], "usage": usage, "prompt_logprobs": None})

    def _read(self, request: Request) -> Json:
        try:
            asked = json.loads(request.body)
        except ValueError as error:
            raise Refusal(400, "BadRequestError", f"There was an error parsing the body: {error}") from error
        finally:
            self._note(request)
        if not isinstance(asked, dict) or not isinstance(asked.get("messages"), list):
            raise Refusal(400, "BadRequestError", "[{'type': 'missing', 'loc': ('body', 'messages'), 'msg': 'Field required'}]")
        self.log.requests[-1].update(model=asked.get("model"), prompt=_prompt(asked["messages"])[:200], stream=bool(asked.get("stream")))
        if asked.get("model") not in (None, self.script.model):
            raise Refusal(404, "NotFoundError", f"The model `{asked['model']}` does not exist.", "model")
        self._check_numbers(asked)
        return asked

    def _check_numbers(self, asked: Json) -> None:
        temperature, limit, longest = asked.get("temperature"), _limit(asked), self.script.max_model_len
        if temperature is not None and temperature < 0:
            raise Refusal(400, "BadRequestError", f"temperature must be non-negative, got {temperature}.", "temperature")
        if limit is not None and limit < 1:
            raise Refusal(400, "BadRequestError", f"max_tokens must be at least 1, got {limit}.", "max_tokens")
        prompt = _count(asked["messages"])
        if prompt + (limit or 0) > longest:
            text = f"This model's maximum context length is {longest} tokens. However, you requested {prompt + (limit or 0)} tokens."
            raise Refusal(400, "BadRequestError", text, "input_tokens")

    def _note(self, request: Request) -> None:
        seen: Json = {
            "method": request.method,
            "path": request.path,
            "headers": request.headers,
            "bytes": len(request.body),
            "peer": request.peer,
        }
        self.log.requests.append(seen)

    def _tokens(self, asked: Json) -> tuple[list[str], str]:
        text = self.script.answers.get(_prompt(asked["messages"]), self.script.default)
        tokens, limit = re.findall(r"\S+\s*|\s+", text), _limit(asked)
        return (tokens[:limit], "length") if limit is not None and limit < len(tokens) else (tokens, "stop")

    def _pace(self, headers: dict[str, str]) -> Pace:
        def knob(name: str, otherwise: float) -> float:
            return float(headers.get(f"x-{name}", otherwise))

        s = self.script
        die = knob("die-after", -1 if s.die_after is None else s.die_after)
        return Pace(knob("first-ms", s.first_ms) / 1000, knob("gap-ms", s.gap_ms) / 1000, int(die))

    async def _paced(self, pace: Pace, tokens: list[str]) -> AsyncIterator[str]:
        for n, token in enumerate(tokens):
            if n == pace.die:
                raise Cut
            await asyncio.sleep(pace.gap if n else pace.first)
            self.log.generation_tokens += 1
            yield token
        if pace.die >= len(tokens):
            raise Cut

    async def _stream(self, writer: asyncio.StreamWriter, head: Json, tokens: AsyncIterator[str], finish: str, usage: Json | None) -> None:
        def event(choices: list[Json], **more: Json) -> None:
            _chunk(writer, json.dumps({**head, "object": "chat.completion.chunk", "choices": choices, **more}))

        def choice(delta: Json, reason: str | None = None) -> list[Json]:
            return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]

        begun = False
        async for token in tokens:
            if not begun:
                event(choice({"role": "assistant", "content": ""}))
                begun = True
            event(choice({"content": token}))
            await writer.drain()
        event(choice({"content": ""}, finish))
        if usage:
            event([], usage=usage)
        _chunk(writer, "[DONE]")
        writer.write(b"0\r\n\r\n")


async def _head(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str]]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin1").split("\r\n")
    method, path, _ = lines[0].split(" ", 2)
    pairs = (line.split(":", 1) for line in lines[1:] if line)
    return method, path, {name.lower(): value.strip() for name, value in pairs}


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if "chunked" not in headers.get("transfer-encoding", ""):
        return await reader.readexactly(int(headers.get("content-length", 0)))
    parts = []
    while size := int(await reader.readline(), 16):
        parts.append((await reader.readexactly(size + 2))[:-2])
    await reader.readline()
    return b"".join(parts)


def _send(writer: asyncio.StreamWriter, status: int, body: bytes, kind: str = "application/json") -> None:
    writer.write(f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)


def _send_json(writer: asyncio.StreamWriter, status: int, value: Json) -> None:
    _send(writer, status, json.dumps(value).encode())


def _chunk(writer: asyncio.StreamWriter, data: str) -> None:
    line = f"data: {data}\n\n".encode()
    writer.write(b"%x\r\n%s\r\n" % (len(line), line))


def _text(message: Json) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def _prompt(messages: list[Json]) -> str:
    return next((_text(m) for m in reversed(messages) if m.get("role") == "user"), "")


def _count(messages: list[Json]) -> int:
    return sum(len(_text(m).split()) for m in messages)


def _limit(asked: Json) -> int | None:
    new, old = asked.get("max_completion_tokens"), asked.get("max_tokens")
    limit: int | None = old if new is None else new
    return limit


def _usage(messages: list[Json], tokens: list[str]) -> Json:
    prompt = _count(messages)
    return {"prompt_tokens": prompt, "completion_tokens": len(tokens), "total_tokens": prompt + len(tokens), "prompt_tokens_details": None}


def _script() -> tuple[tuple[str, int], float, Script]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--listen-after", type=float, default=0, help="seconds of loading before the port opens")
    parser.add_argument("--model", required=True)
    parser.add_argument("--answers", default="{}", help="a JSON object, or a file with one")
    parser.add_argument("--default", default=Script.default)
    parser.add_argument("--root", default=Script.root)
    parser.add_argument("--max-model-len", type=int, default=Script.max_model_len)
    parser.add_argument("--first-ms", type=float, default=0)
    parser.add_argument("--gap-ms", type=float, default=0)
    parser.add_argument("--die-after", type=int)
    parser.add_argument("--unhealthy-after", type=int, help="/health answers 503 after so many requests")
    options = vars(parser.parse_args())
    answers = options.pop("answers")
    answers = answers if answers.lstrip().startswith("{") else Path(answers).read_text()
    return (options.pop("host"), options.pop("port")), options.pop("listen_after"), Script(**options, answers=json.loads(answers))


async def _main() -> None:
    address, listen_after, script = _script()
    await asyncio.sleep(listen_after)
    server = await asyncio.start_server(Engine(script).serve, *address, backlog=512, limit=1 << 26)
    print(f"listening on {address[0]}:{server.sockets[0].getsockname()[1]}", flush=True)
    stopped = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stopped.set)
    await stopped.wait()


if __name__ == "__main__":
    asyncio.run(_main())
