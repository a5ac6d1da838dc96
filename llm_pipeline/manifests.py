"""The documents of `generate` and `diff`, and their text. A platform that sends no objects says what stands for them in one sentence."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from assets.step import Model
from assets.upstream import given
from infra.states import Difference, Sent
from infra.waiting import Progress
from llm_pipeline import actions
from llm_pipeline.runs import Dagster

SECONDS = 120.0
WIDEST = 60
"""Characters of a value that are shown on a line; `--json` has it whole."""


def generate(name: str, dagster: Dagster) -> dict[str, Any]:
    """What an `up` of this model would send, with notes on what only its cluster knows."""
    model = actions.stage(name)
    part = model.platform.manifests
    if part is None:
        return {"model": name, "release": None, "manifests": [], "notes": [_none(model)]}
    release, rows = part.declared(given(model, lambda: dagster.instance).spec, model.base, Progress(SECONDS))
    return {"model": name, "release": release.id, "manifests": [row.document for row in rows], "notes": [list(row.notes) for row in rows]}


def text(found: dict[str, Any]) -> str:
    """As YAML, one document each; notes are comments before it."""
    if not found["manifests"]:
        return "".join(f"# {note}\n" for note in found["notes"])
    head = f"# {found['model']}, release {found['release']}: what `up` sends, in this order. A pin, and what was admitted before, are known to the cluster only.\n"
    return head + "".join(_document(Sent(item, tuple(notes))) for item, notes in zip(found["manifests"], found["notes"], strict=True))


def diff(name: str, dagster: Dagster) -> dict[str, Any]:
    """Live against declared. On a platform without objects: whether the release that is declared serves."""
    model = actions.stage(name)
    wish = actions.consider(model, dagster)
    if wish.release is None:
        rows: Iterable[Difference] = (Difference("Release", name, "", wish.seen.live.id if wish.seen.live else None, "can not be told"),)
    elif model.platform.manifests is None:
        live = wish.seen.live.id if wish.seen.live and wish.seen.serves else None
        rows = () if wish.unchanged else (Difference("Release", name, "release", live, wish.release.id),)
    else:
        rows = model.platform.manifests.differences(wish.release, Progress(SECONDS))
    found = [vars(row) for row in rows]
    notes = [*wish.notes, *((_none(model),) if model.platform.manifests is None else ())]
    return {"model": name, "release": wish.release.id if wish.release else None, "equal": not found, "differences": found, "notes": notes}


def lines(found: dict[str, Any]) -> Iterator[str]:
    """For people: `+` would be made, `-` would go, `~` would be changed."""
    for row in found["differences"]:
        what = f"{row['kind']} {row['name']}"
        if not row["field"]:
            mark = "+" if row["live"] is None else "-" if row["declared"] is None else "~"
            yield f"{mark} {what}" + (f": {row['live']}; {row['declared']}" if mark == "~" else "")
        elif _is_text(row["live"]) and _is_text(row["declared"]):
            yield f"~ {what}  {row['field']}"
            yield from (f"    {line}" for line in difflib.unified_diff(row["live"].splitlines(), row["declared"].splitlines(), lineterm="", n=1) if not line.startswith(("---", "+++")))
        else:
            yield f"~ {what}  {row['field']}: {_short(row['live'])} -> {_short(row['declared'])}"


# ------------------------------------------------ private


def _none(model: Model) -> str:
    return (
        f"{model.spec.cluster} is of platform {model.platform.name}: nothing is sent there, its servers are processes of this machine;"
        f" llm-pipeline logs {model.name} shows with which arguments they run"
    )


def _document(sent: Sent) -> str:
    notes = "".join(f"# {note}\n" for note in sent.notes)
    return f"---\n{notes}{yaml.dump(dict(sent.document), Dumper=_Readable, sort_keys=False, width=160, allow_unicode=True)}"


class _Readable(yaml.SafeDumper):
    """Texts of several lines as blocks, and nothing as a reference to something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Readable.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\n" in value


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    told = value if isinstance(value, str) else json.dumps(value, default=str)
    return told if len(told) <= WIDEST else f"{told[: WIDEST - 1]}…"
