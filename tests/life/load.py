"""Steady load from clients of several kinds, and what became of each request."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx


@dataclass(frozen=True)
class Answer:
    """One request: when it began and ended, which release answered, whether it is whole. `first`: when its answer began."""

    began: float
    ended: float
    release: str
    good: bool
    why: str = ""
    long: bool = False
    first: float = 0.0


@dataclass
class Load:
    """Four clients (kept connection or a new one each time, streamed or not), and one with a long stream open while `long_when` says so.

    Steady, not heavy: on two cores the candidate has to start beside it.
    """

    url: str
    model: str
    long_when: Callable[[], bool]
    pause: float = 0.8
    answers: list[Answer] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Load:
        kinds = [(keep, stream, False) for keep in (True, False) for stream in (True, False)] + [(True, True, True)]
        self._threads = [threading.Thread(target=self._client, args=kind, daemon=True) for kind in kinds]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=60)

    @property
    def failed(self) -> list[Answer]:
        return [answer for answer in self.answers if not answer.good]

    def releases(self, *, long: bool = False) -> Counter[str]:
        """How many answers each release gave."""
        return Counter(answer.release for answer in self.answers if answer.good and (answer.long or not long))

    def _client(self, keep: bool, stream: bool, long: bool) -> None:
        client = httpx.Client(trust_env=False, timeout=60)
        while not self._stop.is_set():
            if not keep:
                client.close()
                client = httpx.Client(trust_env=False, timeout=60)
            if long and not self.long_when():
                time.sleep(0.1)
                continue
            self.answers.append(self._ask(client, stream=stream, long=long))
            time.sleep(0 if long else self.pause)
        client.close()

    def _ask(self, client: httpx.Client, *, stream: bool, long: bool) -> Answer:
        began = time.time()
        body = {"model": self.model, "messages": [{"role": "user", "content": "What is a candidate?"}], "stream": stream, "temperature": 0, "max_tokens": 450 if long else 32}
        if long:
            body |= {"ignore_eos": True}
        release, why, first = "", "", 0.0
        try:
            if not stream:
                answer = client.post(self.url + "/chat/completions", json=body)
                first = time.time()
                release = answer.headers.get("x-llm-release", "")
                good = answer.status_code == 200 and bool(answer.json()["choices"][0]["message"]["content"])
                why = "" if good else f"{answer.status_code} {answer.text[:200]}"
            else:
                with client.stream("POST", self.url + "/chat/completions", json=body) as answer:
                    first = time.time()
                    release = answer.headers.get("x-llm-release", "")
                    lines = [line for line in answer.iter_lines() if line.startswith("data:")]
                good = answer.status_code == 200 and bool(lines) and lines[-1].strip() == "data: [DONE]"
                why = "" if good else f"{answer.status_code} {lines[-1:]}"
        except (httpx.HTTPError, ValueError, KeyError, json.JSONDecodeError) as error:
            good, why = False, f"{type(error).__name__}: {error}"
        return Answer(began, time.time(), release, good, why, long, first)
