"""`llm-pipeline rollback | retry | pin | unpin | approve | reject | notify`: a person's word on what serves, and what comes next."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from infra import settings
from llm_pipeline import actions, console, jobs, revisions, screens
from llm_pipeline import notify as notifying
from llm_pipeline.options import Json, Name, Seconds, Yes
from llm_pipeline.runs import Dagster


def rollback(
    model: Name,
    release: Annotated[str | None, typer.Argument(metavar="RELEASE", help="None: the last accepted one that is not live.")] = None,
    hold: Annotated[bool, typer.Option("--hold", help="Stay until `unpin`, even when something newer appears.")] = False,
    as_json: Json = False, yes: Yes = False, timeout: Seconds = 3600,
) -> None:  # fmt: skip
    """Go back to an earlier release until something newer appears."""
    dagster = Dagster(settings.load())
    with console.board(quiet=as_json) as board:
        outcomes = actions.rollback(dagster, model, release, board.listen, hold=hold, timeout=timeout)
    screens.finish(dagster, outcomes, as_json=as_json, took=time.time() - board.began)


def retry(model: Name, as_json: Json = False, yes: Yes = False, timeout: Seconds = 3600) -> None:
    """Lift the mark of a refused or failed release, and try it again."""
    dagster = Dagster(settings.load())
    with console.board(quiet=as_json) as board:
        outcomes = actions.retry(dagster, model, board.listen, timeout=timeout)
    screens.finish(dagster, outcomes, as_json=as_json, took=time.time() - board.began)


def pin(
    model: Name,
    revision: Annotated[str | None, typer.Argument(metavar="REVISION", help="None: the live release, whole.")] = None,
    as_json: Json = False, yes: Yes = False, timeout: Seconds = 120,
) -> None:  # fmt: skip
    """Stay on the live release, or on a revision."""
    run = jobs.pin(Dagster(settings.load()), model, revision, lambda *_: None, remove=False, timeout=timeout)
    screens.pinned(model, run, as_json=as_json)


def unpin(model: Name, as_json: Json = False, yes: Yes = False, timeout: Seconds = 120) -> None:
    """Follow the declaration again."""
    run = jobs.pin(Dagster(settings.load()), model, None, lambda *_: None, remove=True, timeout=timeout)
    screens.pinned(model, run, as_json=as_json)


def approve(
    model: Name,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Kept with the decision.")] = "",
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Stay and show the phases.")] = True,
    as_json: Json = False, yes: Yes = False, timeout: Seconds = 3600,
) -> None:  # fmt: skip
    """Let the candidate that waits go live."""
    said(model, reason, approve=True, follow=follow, as_json=as_json, timeout=timeout)


def reject(
    model: Name,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Kept with the decision.")] = "",
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Stay and show the phases.")] = True,
    as_json: Json = False, yes: Yes = False, timeout: Seconds = 3600,
) -> None:  # fmt: skip
    """Remove the candidate that waits; what serves goes on."""
    said(model, reason, approve=False, follow=follow, as_json=as_json, timeout=timeout)


def notify(model: Name, as_json: Json = False, timeout: Seconds = 120) -> None:
    """Look at the source now, and begin what follows from it."""
    dagster = Dagster(settings.load())
    news, run = notifying.notify(dagster, actions.stage(model), timeout)
    found = revisions.describe(news) | {"run_id": run}
    if as_json:
        console.document(found)
    else:
        screens.notified(found, revisions.told(news))
    raise typer.Exit(1 if news.sighting.problem else 0)


def said(model: str, reason: str, *, approve: bool, follow: bool, as_json: bool, timeout: float) -> None:
    """A person's word on a candidate, and what it caused."""
    dagster = Dagster(settings.load())
    with console.board(quiet=as_json) as board:
        outcome = jobs.approve(dagster, model, board.listen, yes=approve, why=reason, follow=follow, timeout=timeout)
    screens.finish(dagster, [outcome], as_json=as_json, took=time.time() - board.began)
