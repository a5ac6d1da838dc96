"""Talking to a model through its endpoint, and reading what it wrote: `chat` and `logs`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from infra.decisions import Decisions
from infra.errors import ConfigError, PipelineError, Transient, redact
from infra.platform import EndpointPart, Platform
from llm_pipeline import actions, console


@dataclass
class Talk:
    """A conversation with one model. `served_name`: what the endpoint calls it."""

    endpoint: EndpointPart
    model: str
    served_name: str
    timeout: float
    said: list[dict[str, str]] = field(default_factory=list)

    def stream(self, prompt: str) -> Iterator[str]:
        """The answer in pieces. The conversation remembers it."""
        body = {"model": self.served_name, "messages": [*self.said, {"role": "user", "content": prompt}], "stream": True, "temperature": 0}
        whole = ""
        try:
            with self.endpoint.client(self.model, self.timeout) as client, client.stream("POST", "/chat/completions", json=body) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise refused(self.model, answer)
                for line in answer.iter_lines():
                    if line.startswith("data: {"):
                        event = json.loads(line[6:])
                        piece = (event["choices"][0]["delta"].get("content") or "") if event.get("choices") else ""
                        whole += piece
                        if piece:
                            yield piece
        except httpx.HTTPError as error:
            raise unreachable(self.model, self.endpoint.url(self.model), error) from error
        self.said += [{"role": "user", "content": prompt}, {"role": "assistant", "content": whole}]

    def whole(self, prompt: str) -> dict[str, Any]:
        """The answer as the endpoint's own document."""
        body = {"model": self.served_name, "messages": [*self.said, {"role": "user", "content": prompt}], "temperature": 0}
        try:
            with self.endpoint.client(self.model, self.timeout) as client:
                answer = client.post("/chat/completions", json=body)
        except httpx.HTTPError as error:
            raise unreachable(self.model, self.endpoint.url(self.model), error) from error
        if answer.status_code != 200:
            raise refused(self.model, answer)
        return {**answer.json(), "release": answer.headers.get("x-llm-release")}


def served_name(platform: Platform, model: str) -> str:
    """What the endpoint calls the model."""
    decisions = Decisions(platform.records, model)
    live = decisions.live
    record = decisions.release(live.release) if live else None
    if record:
        return record.release.served_name
    if not decisions.wanted:
        raise ConfigError(f"{model} is not up", next=f"llm-pipeline up {model}")
    raise Transient(f"{model} has no accepted release yet", next=f"llm-pipeline status {model}")


def sample(model: str) -> tuple[str, str]:
    """A question that the model knows, and its answer now; nothing when it can not be asked."""
    try:
        stage = actions.stage(model)
        golden = stage.spec.acceptance.golden
        question = golden[0].prompt if golden else "Say hello in one sentence."
        talk = Talk(stage.platform.endpoint, model, stage.spec.served_name, 60)
        return question, "".join(talk.stream(question)).strip()
    except PipelineError:
        return "", ""


def session(talk: Talk) -> None:
    """Questions and answers until an empty line, Ctrl-D or Ctrl-C."""
    console.note(f"talking to {talk.model}; an empty line ends it")
    while True:
        try:
            prompt = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            break
        if not prompt:
            break
        for piece in talk.stream(prompt):
            print(piece, end="", flush=True)
        print()


def log_lines(platform: Platform, model: str, release: str | None, part: str, *, follow: bool) -> Iterator[str]:
    """The log of one part of one release, whole, then as it grows."""
    name = release_name(platform, model, release)
    offsets: dict[Path, int] = {}
    while True:
        paths = list(platform.ray_service.log(name, part))
        if not paths and not follow:
            raise ConfigError(f"{name} has no log of {part}", why="nothing of it was kept", next=f"llm-pipeline history {model}")
        for path in paths:
            yield from _grown(path, offsets)
        if not follow:
            return
        time.sleep(0.5)


def release_name(platform: Platform, model: str, release: str | None) -> str:
    """The named release; else what runs; else the last one tried."""
    decisions = Decisions(platform.records, model)
    releases = decisions.releases()
    if release:
        found = [name for name in releases if name.startswith(release)]
        if len(found) != 1:
            raise ConfigError(f"{model} has no release {release}", next=f"llm-pipeline history {model}")
        return f"{model}-{found[0]}"
    live = decisions.live
    if live:
        return f"{model}-{live.release}"
    running = platform.ray_service.running(model)
    if running:
        return running[-1].release
    tried = [(record.last.started, name) for name, record in releases.items() if record.last]
    if not tried:
        raise ConfigError(f"{model} was never tried", next=f"llm-pipeline up {model}")
    return f"{model}-{max(tried)[1]}"


def refused(model: str, answer: httpx.Response) -> PipelineError:
    """The endpoint's own words."""
    try:
        told = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        told = answer.text[:200]
    if answer.status_code == 401:
        return ConfigError("the endpoint asks for a key", why=str(told), next="set LLM_PIPELINE_API_KEY to the key that the endpoint was started with")
    return Transient(f"{model} does not answer ({answer.status_code})", why=redact(str(told)), next=f"llm-pipeline status {model}")


def unreachable(model: str, url: str, error: Exception) -> PipelineError:
    """Nothing listens there, or it broke off."""
    return Transient(f"{model} is not reached at {url}", why=f"{type(error).__name__}: {error}", next=f"llm-pipeline status {model}")


def _grown(path: Path, offsets: dict[Path, int]) -> Iterator[str]:
    try:
        with path.open(errors="replace") as file:
            file.seek(offsets.get(path, 0))
            text = file.read()
            offsets[path] = file.tell()
        yield redact(text)
    except OSError:
        return
