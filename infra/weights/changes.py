"""What differs between two revisions, in words of people: weights, tokenizer, config, chat template, code. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from infra.weights.manifest import Manifest

KINDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("weights", re.compile(r".*\.(safetensors|bin)(\.index\.json)?")),
    ("chat template", re.compile(r"(additional_chat_templates/.*|chat_template.*|.*\.jinja)")),
    ("tokenizer", re.compile(r"(.*token.*|vocab.*|merges.*|spiece.*|.*\.(model|tiktoken))", re.IGNORECASE)),
    ("code", re.compile(r".*\.py")),
    ("config", re.compile(r".*")),
)
"""The first that fits a file's path counts. A template inside of tokenizer_config.json is told as the tokenizer's."""


@dataclass(frozen=True)
class Changes:
    """`parts`: what an engine would see of it; empty: nothing. `size`: bytes of the files that are new or other."""

    parts: tuple[str, ...]
    size: int

    def __str__(self) -> str:
        return ", ".join(self.parts) or "README only"


def changes(old: Manifest | None, new: Manifest) -> Changes:
    """From `old` (None: nothing was there) to `new`; files that went count too."""
    before, after = ({file.path: file for file in one.files} if one else {} for one in (old, new))
    moved = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    kinds = {next(kind for kind, pattern in KINDS if pattern.fullmatch(path)) for path in moved}
    return Changes(tuple(kind for kind, _ in KINDS if kind in kinds), sum(after[path].size for path in moved if path in after))
