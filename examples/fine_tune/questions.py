"""Questions with known answers, asked over the OpenAI API: few of a candidate, all of a release."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import yaml

from infra.settings import ROOT, load, private

HERE = Path(__file__).parent
SECONDS = 120.0
"""For one answer: the first one of a candidate may still compile something."""


@dataclass(frozen=True)
class Question:
    """`contains`: what must be in the answer."""

    ask: str
    contains: str


@dataclass(frozen=True)
class Answer:
    """What came."""

    question: Question
    text: str

    @property
    def right(self) -> bool:
        return self.question.contains in self.text

    def __str__(self) -> str:
        return f"{self.question.ask!r}: expected {self.question.contains!r}, got {self.text!r}"


def canary() -> list[Question]:
    """A few that matter most."""
    return [Question(**row) for row in yaml.safe_load((HERE / "canary.yaml").read_text())]


def known() -> list[Question]:
    """Everything that the model was ever taught, with the newest answer."""
    old = {row["ask"]: row["v1"] for row in yaml.safe_load((ROOT / "assets/models/demo/questions.yaml").read_text())["questions"]}
    new = {row["ask"]: row["answer"] for row in yaml.safe_load((HERE / "lessons.yaml").read_text()) or []}
    return [Question(ask, answer) for ask, answer in {**old, **new}.items()]


def ask(address: str, model: str, questions: Sequence[Question]) -> list[Answer]:
    """Greedily, one after the other. `address` ends in /v1. Raises httpx.HTTPError when nobody answers: that is no verdict."""
    key = load().api_key
    headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    with httpx.Client(base_url=address, headers=headers, timeout=SECONDS, trust_env=False) as client:
        return [Answer(one, _asked(client, model, one.ask)) for one in questions]


def write(release: str, answers: Sequence[Answer]) -> Path:
    """The answers of a release, as JSON in the home."""
    path = private(load().home / "fine_tune" / "scores") / f"{release}.json"
    path.write_text(json.dumps([{**asdict(answer), "right": answer.right} for answer in answers], indent=1))
    return path


def _asked(client: httpx.Client, model: str, prompt: str) -> str:
    answer = client.post("/chat/completions", json={"model": model, "messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": 100})
    answer.raise_for_status()
    return str(answer.json()["choices"][0]["message"]["content"])
