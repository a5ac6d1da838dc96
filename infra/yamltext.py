"""A YAML file as plain data with the line of every key, or a list of what is wrong with it.

YAML can do more than a declaration needs, and some of it is harmful or surprising: tags that make objects, aliases that grow
without bound, `010` that is eight, `1:30` that is ninety, dates, keys that are said twice. Everything that comes out of here is
text, a number, true, false, null, a list or a mapping with text keys, and could as well have come from JSON.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]

FILE_LIMIT = 256 * 1024
DEPTH_LIMIT = 20
NODE_LIMIT = 20_000
"""Values in one document once its aliases are followed; a declaration has about fifty."""

At = tuple[str | int, ...]


@dataclass(frozen=True)
class Flaw:
    """One thing that is wrong: where, what, and what would be allowed (null when the text says it)."""

    line: int | None
    key: str
    text: str
    allowed: str | None = None

    def told(self, place: str) -> str:
        """One line: where (`defs.yaml:7`, `line 7`), the key when there is one, and what is wrong."""
        # A colon behind `hf_token` would look like a secret to the function that cuts secrets out of every message.
        colon = "" if self.key.lower().endswith(("token", "password", "secret")) else ":"
        return f"{place} {self.key}{colon} {self.text}" if self.key else f"{place} {self.text}"


class Flawed(Exception):
    """The document can not be used."""

    def __init__(self, flaws: Iterable[Flaw]) -> None:
        self.flaws = tuple(flaws)
        super().__init__("; ".join(flaw.told(f"line {flaw.line}") for flaw in self.flaws))


@dataclass(frozen=True)
class Document:
    """What a file says. `lines` and `texts` (scalars as they are written) are by path, keys and positions from the top."""

    data: dict[str, Any]
    lines: dict[At, int]
    texts: dict[At, str]

    def line(self, at: At) -> int | None:
        """The line of a key, or of the nearest block around it that is written."""
        while at and at not in self.lines:
            at = at[:-1]
        return self.lines.get(at)

    def written(self, at: At) -> str:
        """A value as the file has it, quotes included, short enough for a message; empty when it is not written."""
        if at in self.texts:
            return printable(self.texts[at], 40)
        value: Any = self.data
        for part in at:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return ""
        return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else ""


def text_of(path: Path, limit: int = FILE_LIMIT) -> str:
    """The text of a file, UTF-8 with or without byte order mark, at most `limit` bytes. Flawed: it can not be read as such."""
    raw = _bytes_of(path, limit)
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _flawed(None, "is written in UTF-16; save it as UTF-8")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _flawed(raw.count(b"\n", 0, error.start) + 1, f"is not UTF-8 (byte 0x{raw[error.start]:02x}); save it as UTF-8") from None
    if found := CONTROL.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise _flawed(
            line, f"has a control character ({printable(found[0])}); remove it" + (" or save as UTF-8" if found[0] == "\0" else "")
        )
    return text


def document(text: str) -> Document:
    """The one document in a text. Flawed: with every flaw that could be found, sorted by line."""
    root = _root(text)
    if root is None:
        raise _flawed(None, "is empty")
    if not isinstance(root, yaml.MappingNode):
        raise _flawed(root.start_mark.line + 1, "must be a mapping with the keys type and attributes")
    reader = _Reader(text)
    data = reader.value(root, ())
    if reader.flaws:
        raise Flawed(sorted(reader.flaws, key=lambda flaw: flaw.line or 0))
    return Document(data, reader.lines, reader.texts)


def dotted(at: Iterable[str | int]) -> str:
    """("acceptance", "golden", 0, "prompt") -> acceptance.golden[0].prompt"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{printable(part, 60)}" for part in at).lstrip(".")


def printable(text: str, limit: int = 200) -> str:
    """Text that any terminal and any encoder takes: what is not printable is written as an escape, what is long is cut."""
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown)


# -- bytes -------------------------------------------------------------------------------------------------------------

CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]")


def _bytes_of(path: Path, limit: int) -> bytes:
    try:
        # Not blocking: a pipe of that name would hold up every other declaration for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _flawed(None, "is not a file")
            raw = file.read(limit + 1)
    except IsADirectoryError:
        raise _flawed(None, "is a folder, not a file") from None
    except FileNotFoundError:
        there = path.suffix == ".yaml" and path.with_suffix(".yml").exists()
        raise _flawed(None, "is missing; rename defs.yml beside it" if there else "does not exist, or leads to nothing") from None
    except OSError as error:
        raise _flawed(None, f"can not be read: {error.strerror}") from None
    if len(raw) > limit:
        raise _flawed(None, f"is larger than {limit // 1024} KiB; something else was saved under this name")
    return raw


def _flawed(line: int | None, text: str) -> Flawed:
    return Flawed([Flaw(line, "", text)])


# -- YAML --------------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):  # type: ignore[misc, unused-ignore]
    """Composes nodes with a limit on depth: the composer recurses, and its scanner slows down with every level."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.depth > DEPTH_LIMIT:
            event = self.peek_event()  # type: ignore[no-untyped-call, unused-ignore]
            raise _flawed(event.start_mark.line + 1, f"is nested more than {DEPTH_LIMIT} levels deep")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _root(text: str) -> Any:
    """The node tree. libyaml reads what is plainly shallow, ten times as fast; whatever it refuses is read again for the better message."""
    if _shallow(text):
        with contextlib.suppress(yaml.YAMLError, ValueError, OverflowError):
            return yaml.CSafeLoader(text).get_single_node()
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise _not_yaml(error, text) from None
    except (ValueError, OverflowError):  # PyYAML hands an escape such as "\U00110000" to chr() as it is
        raise _flawed(loader.get_mark().line + 1, "has an escape or a number that stands for nothing") from None
    finally:
        loader.dispose()


def _shallow(text: str) -> bool:
    """Whether no nesting can be deeper than the limit: each level takes a bracket, or a column or a dash more in its line.

    libyaml has no limit of its own, and overflows the stack.
    """
    brackets = text.count("[") + text.count("{")
    deepest = max((len(line) - len(line.lstrip(" ")) + line.count("-") + line.count("?") + line.count(":") for line in text.splitlines()), default=0)
    return brackets + deepest < 500


UNCLOSED = "a quote or a bracket is opened here and never closed"
HINTS = {
    "'\\t'": "a tab stands where only spaces may; YAML indents with spaces",
    "mapping values are not allowed": "a colon stands where none may; check the indentation, or put the text in quotes",
    "could not find expected ':'": "a line has no colon; keys are written `key: value`",
    "unexpected end of stream": UNCLOSED,
    "<stream end>": UNCLOSED,
    "expected <block end>": "the indentation does not fit the lines above, or above a colon is missing or a quote not closed",
    "expected '<document start>'": "the indentation does not fit the lines above",
    "expected a single document": "more than one document (---) in the file; one file declares one thing",
    "undefined alias": "an alias (*) that nothing defines; put text that begins with * in quotes",
    "cannot start any token": "a character that no text may begin with; put the text in quotes",
    "expected ',' or": "a comma or a closing bracket is missing",
}
"""Words of PyYAML's messages, and what they mean to the person who wrote the file."""


def _not_yaml(error: Any, text: str) -> Flawed:
    problem = f"{error.problem or ''} {error.context or ''}"
    said = [told for words, told in HINTS.items() if words in problem]
    mark = error.context_mark if said[:1] == [UNCLOSED] and error.context_mark else error.problem_mark or error.context_mark
    lines = text.splitlines()
    if mark and mark.line < len(lines) and (found := TEMPLATE.search(lines[mark.line])):
        return _flawed(mark.line + 1, NO_TEMPLATES.format(found[0]))
    return _flawed(mark.line + 1 if mark else None, said[0] if said else f"is not YAML: {printable(str(error.problem))}")


class _Reader:
    """Nodes to plain data. Collects flaws and goes on, so that a person sees all of them at once."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.lines: dict[At, int] = {}
        self.texts: dict[At, str] = {}
        self.flaws: list[Flaw] = []
        self.nodes = 0

    def value(self, node: Any, at: At) -> Any:
        self.nodes += 1
        # An alias may lead to itself, or ten to ten to ten: what is followed is bounded, not what is written.
        if self.nodes > NODE_LIMIT or (len(at) > DEPTH_LIMIT and "*" in self._text):
            raise _flawed(node.start_mark.line + 1, "has aliases (*) that lead in a circle or to far too much")
        if len(at) > DEPTH_LIMIT:
            raise _flawed(node.start_mark.line + 1, f"is nested more than {DEPTH_LIMIT} levels deep")
        self.lines.setdefault(at, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode) and node.tag == STANDARD + "map":
            return self._mapping(node, at)
        if isinstance(node, yaml.SequenceNode) and node.tag == STANDARD + "seq":
            return [self.value(inner, (*at, place)) for place, inner in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, at)
        self._flaw(node, at, NO_TAGS.format(tag=_tag(node)))
        return None

    def _mapping(self, node: Any, at: At) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, inner in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != STANDARD + "str":
                if isinstance(key, yaml.MappingNode) and node.flow_style and key.flow_style:
                    self._flaw(key, at, NO_TEMPLATES.format("{{"))
                    continue
                shown = printable(key.value, 40) or "nothing" if isinstance(key, yaml.ScalarNode) else "a list or a mapping"
                self._flaw(key, at, f"{shown} can not be a key; keys are words, and text that begins with {{ or [ needs quotes")
                continue
            here = (*at, key.value)
            if key.value in data:
                self._flaw(key, here, f"stands twice; first in line {self.lines[here]}")
                continue
            self.lines[here] = key.start_mark.line + 1
            self._check_text(key, here, key.value)
            data[key.value] = self.value(inner, here)
        return data

    def _scalar(self, node: Any, at: At) -> str | int | float | bool | None:
        text, kind = node.value, node.tag.removeprefix(STANDARD)
        self.texts[at] = text if not node.style else f'"{text}"'
        if kind in ("str", "value"):
            self._check_text(node, at, text)
            return str(text)
        if kind == "null":
            return None
        if kind == "bool" and text.lower() in yaml.SafeLoader.bool_values:
            return bool(yaml.SafeLoader.bool_values[text.lower()])
        if kind == "int" and re.fullmatch(r"[-+]?(0|[1-9][0-9]{0,17})", text):
            return int(text)
        if kind == "float" and re.fullmatch(r"[-+]?([0-9]{1,18}\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,2})?", text):
            return float(text)
        self._flaw(node, at, SURPRISES.get(kind, NO_TAGS).format(got=printable(text, 40), tag=_tag(node)))
        return None

    def _check_text(self, node: Any, at: At, text: str) -> None:
        if found := TEMPLATE.search(text):
            self._flaw(node, at, NO_TEMPLATES.format(found[0]))
        elif found := ESCAPED.search(text):
            self._flaw(node, at, f"has a character that can not be sent as text ({printable(found[0])})")

    def _flaw(self, node: Any, at: At, text: str) -> None:
        shown = at[1:] if at[:1] == ("attributes",) else at
        self.flaws.append(Flaw(node.start_mark.line + 1, dotted(shown), text))


def _tag(node: Any) -> str:
    """A tag as it is written: !!set for tag:yaml.org,2002:set."""
    return printable(node.tag.replace(STANDARD, "!!"), 60)


STANDARD = "tag:yaml.org,2002:"

TEMPLATE = re.compile(r"\{\{|\{%|\{#")
"""What Dagster's own loader of components would try to fill in; taken as plain text here it would mean two things."""

NO_TEMPLATES = "{} begins a template, and templates are not filled in here; write the value itself"

NO_TAGS = "the tag {tag} is not used here; remove it"

ESCAPED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")

SURPRISES = {
    "bool": "{got} is neither true nor false",
    "int": "{got} is not a plain decimal number (of at most 18 digits); write it as one, or put text in quotes",
    "float": "{got} is not a plain decimal number; write it as one, or put text in quotes",
    "timestamp": "{got} is read as a date; put it in quotes",
    "merge": "<< (merging) is not used here; write the keys out",
}
"""What a scalar is refused with that YAML would read as something that few people mean."""
