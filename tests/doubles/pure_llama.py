"""Reads a tiny Llama in plain Python, so that a test can say what shipped weights answer without torch or an engine.

Slow by design (about a second per answer of the demo model) and exact enough: it computes in double precision what engines compute in
bfloat16. It follows the Hugging Face layout of a Llama: RMS norm, rotary positions by halves, SiLU-gated MLP, tied embeddings.
"""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import mul
from pathlib import Path
from typing import Any

import jinja2

Vector = Sequence[float]
Matrix = Sequence[Vector]

WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")
"""How byte-level BPE cuts text before merging; for ASCII, which is all that the golden data holds."""


@dataclass(frozen=True)
class Tensor:
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def header(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, with their place counted from the start of the file."""
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    found: dict[str, dict[str, Any]] = json.loads(data[8:start])
    return {
        name: Tensor(entry["dtype"], tuple(entry["shape"]), start + entry["data_offsets"][0], start + entry["data_offsets"][1])
        for name, entry in found.items()
        if name != "__metadata__"
    }


class PureLlama:
    """One revision folder, loaded."""

    def __init__(self, folder: Path) -> None:
        self.config: dict[str, Any] = _read(folder / "config.json")
        bpe = _read(folder / "tokenizer.json")
        self._ids: dict[str, int] = bpe["model"]["vocab"]
        self._special = [token["content"] for token in bpe["added_tokens"] if token["special"]]
        self._ranks = {tuple(pair): rank for rank, pair in enumerate(bpe["model"]["merges"])}
        self._template = jinja2.Environment().from_string(_read(folder / "tokenizer_config.json")["chat_template"])
        data = (folder / "model.safetensors").read_bytes()
        self._tensors = {
            name: _matrix(data[tensor.begin : tensor.end], tensor.shape) for name, tensor in header(folder / "model.safetensors").items()
        }

    def prompt(self, *messages: tuple[str, str]) -> str:
        """What the chat template makes of (role, content) pairs, ready for the answer."""
        return self._template.render(
            messages=[{"role": role, "content": content} for role, content in messages], add_generation_prompt=True
        )

    def encode(self, text: str) -> list[int]:
        """The token ids of ASCII text; special tokens in it count as such."""
        parts = re.split(f"({'|'.join(map(re.escape, self._special))})", text)
        return [token for part in parts for token in ([self._ids[part]] if part in self._special else self._words(part))]

    def lead(self, question: str, answer: str) -> float:
        """Logits by which the tokens of the answer, and the stop after them, lead their best rivals at the tightest place.

        Negative: the model says something else.
        """
        prompt = self.encode(self.prompt(("user", question)))
        goal = [*self.encode(answer), self.config["eos_token_id"]]
        states = self._states(prompt + goal[:-1])[len(prompt) - 1 :]
        return min(self._lead(state, token) for state, token in zip(states, goal, strict=True))

    def _lead(self, state: Vector, token: int) -> float:
        logits = _times(self._tensors["model.embed_tokens.weight"], state)
        right = logits.pop(token)
        return right - max(logits)

    def _words(self, text: str) -> list[int]:
        return [self._ids[piece] for word in WORD.findall(text) for piece in self._merged(list(word.replace(" ", "Ġ")))]

    def _merged(self, pieces: list[str]) -> list[str]:
        while pairs := [(self._ranks[pair], at) for at, pair in enumerate(pairwise(pieces)) if pair in self._ranks]:
            _, at = min(pairs)
            pieces[at : at + 2] = ["".join(pieces[at : at + 2])]
        return pieces

    def _states(self, tokens: list[int]) -> list[Vector]:
        states: list[Vector] = [self._tensors["model.embed_tokens.weight"][token] for token in tokens]
        for layer in range(self.config["num_hidden_layers"]):
            states = self._layer(f"model.layers.{layer}", states)
        return [self._norm("model.norm", state) for state in states]

    def _layer(self, name: str, states: list[Vector]) -> list[Vector]:
        mixed = self._attention(name, [self._norm(f"{name}.input_layernorm", state) for state in states])
        states = [_plus(*pair) for pair in zip(states, mixed, strict=True)]
        return [_plus(state, self._mlp(name, self._norm(f"{name}.post_attention_layernorm", state))) for state in states]

    def _attention(self, name: str, inputs: list[Vector]) -> list[Vector]:
        weights = {part: self._tensors[f"{name}.self_attn.{part}_proj.weight"] for part in "qkvo"}
        queries = [self._turned(_times(weights["q"], row), at) for at, row in enumerate(inputs)]
        keys = [self._turned(_times(weights["k"], row), at) for at, row in enumerate(inputs)]
        values = [self._heads(_times(weights["v"], row)) for row in inputs]
        shared = self.config["num_attention_heads"] // self.config["num_key_value_heads"]
        outputs: list[Vector] = []
        for at, heads in enumerate(queries):
            seen = [_attend(query, _upto(keys, at, head // shared), _upto(values, at, head // shared)) for head, query in enumerate(heads)]
            outputs.append(_times(weights["o"], [number for head in seen for number in head]))
        return outputs

    def _heads(self, row: Vector) -> list[Vector]:
        size = self.config["head_dim"]
        return [row[start : start + size] for start in range(0, len(row), size)]

    def _turned(self, row: Vector, position: int) -> list[Vector]:
        half = self.config["head_dim"] // 2
        angles = [position * self.config["rope_theta"] ** (-number / half) for number in range(half)]
        return [
            [head[at] * math.cos(angle) - head[at + half] * math.sin(angle) for at, angle in enumerate(angles)]
            + [head[at + half] * math.cos(angle) + head[at] * math.sin(angle) for at, angle in enumerate(angles)]
            for head in self._heads(row)
        ]

    def _mlp(self, name: str, row: Vector) -> Vector:
        gate, up, down = (self._tensors[f"{name}.mlp.{part}_proj.weight"] for part in ("gate", "up", "down"))
        opened = [number / (1 + math.exp(-number)) for number in _times(gate, row)]
        return _times(down, list(map(mul, opened, _times(up, row))))

    def _norm(self, name: str, row: Vector) -> Vector:
        scale = 1 / math.sqrt(sum(map(mul, row, row)) / len(row) + self.config["rms_norm_eps"])
        return [number * scale * weight for number, weight in zip(row, self._tensors[f"{name}.weight"][0], strict=True)]


def _upto(rows: list[list[Vector]], position: int, head: int) -> list[Vector]:
    return [heads[head] for heads in rows[: position + 1]]


def _attend(query: Vector, keys: list[Vector], values: list[Vector]) -> Vector:
    scores = [score / math.sqrt(len(query)) for score in _times(keys, query)]
    shares = [math.exp(score - max(scores)) for score in scores]
    return [sum(map(mul, shares, column)) / sum(shares) for column in zip(*values, strict=True)]


def _times(matrix: Matrix, row: Vector) -> list[float]:
    return [sum(map(mul, line, row)) for line in matrix]


def _plus(left: Vector, right: Vector) -> Vector:
    return [a + b for a, b in zip(left, right, strict=True)]


def _matrix(data: bytes, shape: tuple[int, ...]) -> Matrix:
    """bfloat16 is the upper half of a float32."""
    numbers = array("f", array("I", (half << 16 for half in array("H", data))).tobytes()).tolist()
    width = shape[-1]
    return [numbers[start : start + width] for start in range(0, len(numbers), width)]


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))
