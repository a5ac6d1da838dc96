"""The verbs. Each reads, asks, shows; every mutation is a Dagster run (one history, the same locks and checks)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer._click.exceptions import ClickException  # typer carries its own click and exports this one from nowhere else

from assets.teardown import leftovers as unwanted
from infra import settings as settings_module
from infra.decisions import Decisions
from infra.errors import ConfigError, PipelineError, Problem
from infra.settings import ROOT, Settings
from infra.waiting import Phase, Progress
from llm_pipeline import actions, chat, components, console, dev, doctor, views
from llm_pipeline.actions import Outcome
from llm_pipeline.runs import Dagster

app = typer.Typer(
    name="llm-pipeline", no_args_is_help=True, add_completion=True, rich_markup_mode=None, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The whole life of self-hosted LLMs: bring one up, talk to it, change it, take it down.\n\nExample: llm-pipeline up demo; llm-pipeline chat demo 'What is a release?'",
)  # fmt: skip

Names = Annotated[list[str] | None, typer.Argument(metavar="MODEL...", help="Models; none: every one that is wanted.")]
Name = Annotated[str, typer.Argument(metavar="MODEL")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")]
Seconds = Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="How long to wait, at most.")]

INTERRUPTED = 130
"""What typer makes of Ctrl-C."""

LIFE, LOOK, MACHINE = "Life", "Look", "Machine"


# ---------------------------------------------------------------- life


@app.command(rich_help_panel=LIFE)
def up(
    names: Names = None,
    revision: Annotated[str | None, typer.Option(metavar="R", help="This revision instead of the declared one.")] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Stay and show the phases.")] = True,
    as_json: Json = False, yes: Yes = False, timeout: Seconds = 3600,
) -> None:  # fmt: skip
    """Bring models up, and go live only with what passes acceptance."""
    dagster = Dagster(load())
    with console.board(quiet=as_json) as board:
        outcomes = actions.up(dagster, names or [], board.listen, revision=revision, follow=follow, timeout=timeout)
    finish(dagster, outcomes, as_json=as_json, took=time.time() - board.began)


@app.command(rich_help_panel=LIFE)
def down(
    names: Names = None,
    cluster: Annotated[list[str] | None, typer.Option("--cluster", metavar="C", help="A whole cluster.")] = None,
    include_models: Annotated[bool, typer.Option("--include-models", help="Its wanted models too.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Every model and cluster of this clone.")] = False,
    purge: Annotated[bool, typer.Option("--purge", help="Weights, images and history too.")] = False,
    as_json: Json = False, yes: Yes = False, timeout: Seconds = 900,
) -> None:  # fmt: skip
    """Take models or a cluster down, and prove that nothing is left."""
    dagster = Dagster(load())
    targets = list(cluster or []) + list(names or [])
    if everything:
        targets, include_models = list(components.declared().clusters), True
    elif not targets:
        targets = [row["model"] for row in (views.model_row(name) for name in views.model_names([])) if row["state"] != "absent"]
    if purge and not yes and sys.stdin.isatty():
        typer.confirm(f"Remove weights, images and history of {', '.join(targets)} too?", abort=True, err=True)
    report: dict[str, Any] = {"removed": [], "kept": [], "left": [], "report_run_id": None}
    with console.board(quiet=as_json) as board:
        for target in targets:
            one = actions.down(dagster, target, board.listen, include_models=include_models, purge=purge, timeout=timeout)
            report = {"removed": report["removed"] + one["removed"], "kept": one["kept"], "left": report["left"] + one["left"], "report_run_id": one["report_run_id"]}
    show_report(report, targets, as_json=as_json)
    raise typer.Exit(1 if report["left"] else 0)


@app.command(rich_help_panel=LIFE)
def rollback(
    model: Name,
    release: Annotated[str | None, typer.Argument(metavar="RELEASE", help="None: the last accepted one that is not live.")] = None,
    hold: Annotated[bool, typer.Option("--hold", help="Stay until `unpin`, even when something newer appears.")] = False,
    as_json: Json = False, yes: Yes = False, timeout: Seconds = 3600,
) -> None:  # fmt: skip
    """Go back to an earlier release until something newer appears."""
    dagster = Dagster(load())
    with console.board(quiet=as_json) as board:
        outcomes = actions.rollback(dagster, model, release, board.listen, hold=hold, timeout=timeout)
    finish(dagster, outcomes, as_json=as_json, took=time.time() - board.began)


@app.command(rich_help_panel=LIFE)
def retry(model: Name, as_json: Json = False, yes: Yes = False, timeout: Seconds = 3600) -> None:
    """Lift the mark of a refused or failed release, and try it again."""
    dagster = Dagster(load())
    with console.board(quiet=as_json) as board:
        outcomes = actions.retry(dagster, model, board.listen, timeout=timeout)
    finish(dagster, outcomes, as_json=as_json, took=time.time() - board.began)


@app.command(rich_help_panel=LIFE)
def pin(
    model: Name,
    revision: Annotated[str | None, typer.Argument(metavar="REVISION", help="None: the live release, whole.")] = None,
    as_json: Json = False, yes: Yes = False, timeout: Seconds = 120,
) -> None:  # fmt: skip
    """Stay on the live release, or on a revision."""
    run = actions.pin(Dagster(load()), model, revision, lambda *_: None, remove=False, timeout=timeout)
    show_pin(model, run, as_json=as_json)


@app.command(rich_help_panel=LIFE)
def unpin(model: Name, as_json: Json = False, yes: Yes = False, timeout: Seconds = 120) -> None:
    """Follow the declaration again."""
    run = actions.pin(Dagster(load()), model, None, lambda *_: None, remove=True, timeout=timeout)
    show_pin(model, run, as_json=as_json)


# ---------------------------------------------------------------- look


@app.command(rich_help_panel=LOOK)
def status(names: Names = None, watch: Annotated[bool, typer.Option("--watch", help="Every 2 s, until Ctrl-C.")] = False, as_json: Json = False) -> None:
    """What serves, what is wrong with the rest, and what to do."""
    dagster = Dagster(load())
    unknown = [name for name in names or [] if name not in views.model_names([]) and name not in {b.name for b in components.declared().broken}]
    if unknown:
        actions.stage(unknown[0])
    while True:
        found = views.status(dagster, names or [])
        if as_json:
            console.document(found)
        else:
            show_status(found)
        if not watch:
            good = all(row["state"] in ("serving", "asleep", "absent") for row in found["models"])
            raise typer.Exit(0 if good else 1)
        time.sleep(2)


@app.command("chat", rich_help_panel=LOOK)
def chat_(
    model: Name,
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", help="None: a session.")] = None,
    as_json: Json = False, timeout: Seconds = 300,
) -> None:  # fmt: skip
    """Talk to a model; the answer streams."""
    platform = actions.platform_with(model)
    served = chat.served_name(platform, model)
    talk = chat.Talk(platform.endpoint, served, timeout)
    if prompt is None and not as_json:
        chat.session(talk)
        return
    question = prompt if prompt is not None else sys.stdin.read()
    if as_json:
        console.document(talk.whole(question))
        return
    for piece in talk.stream(question):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


@app.command(rich_help_panel=LOOK)
def logs(
    model: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows.")] = False,
    release: Annotated[str | None, typer.Option(metavar="R", help="None: the live one, else the last one tried.")] = None,
    part: Annotated[str, typer.Option(metavar="engine|ray|route", help="Whose log.")] = "engine",
    as_json: Json = False,
) -> None:
    """Show what the engine, Ray or the router wrote."""
    if part not in ("engine", "ray", "route"):
        raise ConfigError(f"there is no part {part}", why="parts are engine, ray, route", next=f"llm-pipeline logs {model} --part engine")
    platform = actions.platform_with(model)
    if as_json:
        lines = "".join(chat.log_lines(platform, model, release, part, follow=False)).splitlines()
        console.document({"model": model, "release": chat.release_name(platform, model, release).rsplit("-", 1)[-1], "part": part, "lines": lines})
        return
    for text in chat.log_lines(platform, model, release, part, follow=follow):
        sys.stdout.write(text)
        sys.stdout.flush()


@app.command(rich_help_panel=LOOK)
def history(model: Name, as_json: Json = False) -> None:
    """Every attempt to bring a release up, newest first."""
    platform = actions.platform_with(model)
    rows = views.history(Decisions(platform.records, model), platform)
    if as_json:
        console.document(rows)
        return
    shown = [(r["release"], (r["revision"] or "")[:10], r["result"], console.ago(r["seconds"]), r["by"], r["why"]) for r in rows]
    console.table(shown, ("release", "revision", "result", "took", "by", "why")) if shown else console.line("nothing was tried yet")
    console.following(f"llm-pipeline rollback {model}" if sum(r["result"] == "accepted" for r in rows) > 1 else f"llm-pipeline status {model}")


@app.command(rich_help_panel=LOOK)
def why(model: Name, last: Annotated[int, typer.Option(metavar="N", help="How many.")] = 20, as_json: Json = False) -> None:
    """What the loop decided by itself, and because of what."""
    rows = views.why(Decisions(actions.platform_with(model).records, model), last)
    if as_json:
        console.document(rows)
        return
    console.table([(r["at"], r["action"], r["because"]) for r in rows], ("at", "action", "because")) if rows else console.line("the loop never had to act")


@app.command(rich_help_panel=MACHINE)
def leftovers(delete: Annotated[bool, typer.Option("--delete", help="Remove them.")] = False, as_json: Json = False, yes: Yes = False, timeout: Seconds = 300) -> None:
    """Everything of ours that exists although nobody wants it."""
    dagster = Dagster(load())
    rows = views.leftovers()
    if delete and rows:
        remove(dagster, rows, timeout)
        rows = views.leftovers()
    if as_json:
        console.document(rows)
    elif rows:
        console.table([(r["part"], r["id"], r["model"] or "-", r["why_ours"]) for r in rows], ("part", "what", "model", "why it is ours"))
        console.following("llm-pipeline leftovers --delete")
    else:
        console.line("nothing is left over", "good")
    raise typer.Exit(1 if rows else 0)


@app.command(rich_help_panel=MACHINE)
def collect(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
    as_json: Json = False, yes: Yes = False, timeout: Seconds = 1800,
) -> None:  # fmt: skip
    """Remove weights, images, logs and runs that nobody needs."""
    dagster = Dagster(load())
    found = views.collectable(dagster) if dry_run else actions.collect(dagster, lambda *_: None, timeout=timeout)
    if as_json:
        console.document(found)
        return
    show_collected(found, dry_run=dry_run)


@app.command("doctor", rich_help_panel=MACHINE)
def doctor_(
    as_json: Json = False, rbac: Annotated[bool, typer.Option("--rbac", help="Print the rights that Kubernetes clusters have to give, as a manifest.")] = False,
) -> None:  # fmt: skip
    """What is missing on this machine, and how to get it."""
    if rbac:
        print(doctor.rbac(), end="")
        return
    lines = list(doctor.examine(load()))
    bad = [row for row in lines if row.state == "missing"]
    if as_json:
        console.document([row.as_dict() for row in lines])
    else:
        console.table([(row.state.upper(), row.check, row.what + (f"\n-> {row.next}" if row.next else "")) for row in lines])
    raise typer.Exit(1 if bad else 0)


@app.command("dagster", hidden=True)
def dagster_(action: Annotated[str, typer.Argument(metavar="start|stop")]) -> None:
    """Dagster of this clone: what `make up` starts and `make down` ends."""
    found, progress = load(), Progress(180, report=lambda phase: console.note(f"{phase.name}: {phase.detail}"))
    if action == "start":
        started = dev.start(found, progress)
        console.note(f"Dagster {'started' if started else 'runs already'}: {Dagster(found).url}")
    else:
        console.note("Dagster stopped" if dev.stop(found, progress) else "Dagster was not running")


# ---------------------------------------------------------------- showing


def finish(dagster: Dagster, outcomes: list[Outcome], *, as_json: bool, took: float) -> None:
    """The end of `up`, `rollback` and `retry`: verdict first, then numbers, then what to type next."""
    if as_json:
        documents = [outcome.as_dict() for outcome in outcomes]
        console.document(documents[0] if len(documents) == 1 else documents)
    else:
        for outcome in outcomes:
            show_outcome(dagster, outcome, took)
    raise typer.Exit(max((outcome.exit_code for outcome in outcomes), default=0))


def show_outcome(dagster: Dagster, outcome: Outcome, took: float) -> None:
    """One model's end."""
    for text in outcome.notes:
        console.note(text, "busy")
    if outcome.problem:
        console.card(outcome.problem)
        return
    if outcome.result == "launched":
        console.line(f"{outcome.model}: run {outcome.run_id} was launched", "good")
        console.following(f"llm-pipeline status {outcome.model} --watch")
        return
    console.line(f"{outcome.model} is {'unchanged: it serves' if outcome.result == 'unchanged' else 'serving'} release {outcome.release}", "good")
    if outcome.result == "serving":
        console.line()
        question, answer = chat.sample(outcome.model)
        if answer:
            console.line(f"  Q  {question}")
            console.line(f"  A  {answer}")
            console.line()
        console.stages(outcome.seconds, outcome.changed)
        console.line()
    if outcome.outage is not None:
        console.note(f"nobody answered for {outcome.outage:.1f} s: there was no room for two", "busy")
    rows = [("endpoint", outcome.endpoint or "-"), ("revision", (outcome.revision or "-")[:40]), ("dagster", dagster.url if dagster.webserver() else "not running (make up)")]
    console.table(rows if outcome.result == "unchanged" else [*rows, ("took", console.ago(took))], styles=("quiet",))
    console.following(f"llm-pipeline chat {outcome.model}", "llm-pipeline status")


def show_status(found: dict[str, Any]) -> None:
    """Verdict first, the first thing that is wrong in words, then what to type next."""
    rows = []
    for row in found["models"]:
        facts = [row["release"] or "", console.ago(views.since(row)) if row["state"] == "serving" else "", f"{row['in_flight']} in flight" if row["in_flight"] is not None else ""]
        told = row["problem"]["what"] if row["problem"] else ""
        rows.append((row["model"], console.state(row["state"]), "  ".join(f for f in facts if f), told))
    console.table(rows) if rows else console.line("no model is declared: add assets/models/<name>/defs.yaml")
    for row in found["clusters"]:
        if row["problem"]:
            console.card(Problem(**row["problem"]))
    dagster = found["dagster"]
    console.line()
    if endpoint := next((row["endpoint"] for row in found["models"] if row["endpoint"]), None):
        console.line(f"endpoint  {endpoint}", "quiet")
    console.line(f"dagster   {dagster['webserver']}" if dagster["daemon"] else "dagster   not running: nothing heals by itself", "quiet" if dagster["daemon"] else "busy")
    if found.get("cache") and found["cache"]["over"]:
        told, following = doctor.fullness(found["cache"])
        console.line(f"cache     {told}; {following}", "busy")
    wrong = next((row for row in found["models"] if row["problem"]), None)
    if wrong:
        console.following(wrong["problem"]["next"] or f"llm-pipeline logs {wrong['model']}")
    elif serving := next((row["model"] for row in found["models"] if row["state"] == "serving"), None):
        console.following(f"llm-pipeline chat {serving}")
    else:
        console.following("llm-pipeline up")


def show_report(report: dict[str, Any], targets: list[str], *, as_json: bool) -> None:
    """What `down` removed, kept and left."""
    if as_json:
        console.document(report)
        return
    if not targets:
        console.line("nothing is up", "good")
    else:
        console.line(f"{', '.join(targets)}: down, nothing left" if not report["left"] else f"{len(report['left'])} things are left", "bad" if report["left"] else "good")
    rows = [("removed", f"{r['part']} {r['id']}") for r in report["removed"]] + [("left", f"{r['part']} {r['id']}") for r in report["left"]]
    rows += [("kept", f"{r['what']} ({console.size(r['bytes'])})") for r in report["kept"]]
    console.table(rows, styles=("quiet",)) if rows else None
    console.following("llm-pipeline leftovers --delete" if report["left"] else "llm-pipeline up")


def show_collected(found: dict[str, Any], *, dry_run: bool) -> None:
    """What went, or would go, and why the rest stays."""
    word = "would go" if dry_run else "removed"
    count = len(found["removed"])
    told = f"{count} thing{'' if count == 1 else 's'} {'would go' if dry_run else 'went'}, {console.size(found['freed_bytes'])}" if count else "nothing is unneeded"
    console.line(told, "good")
    if not dry_run and found["postponed"]:
        console.note(f"weights and images were left for the next time: {found['postponed']}", "busy")
    rows = [(mark, row["part"], f"{row['what']} ({console.size(row['bytes'])}): {row['why']}") for mark, key in ((word, "removed"), ("stays", "kept")) for row in found[key]]
    console.table(rows, styles=("quiet",)) if rows else None
    console.following("llm-pipeline collect" if dry_run and found["removed"] else "llm-pipeline status")


def show_pin(model: str, run: str, *, as_json: bool) -> None:
    """What holds now."""
    row = views.model_row(model)
    if as_json:
        console.document({"model": model, "pinned": row["pinned"], "run_id": run})
    elif row["pinned"]:
        console.line(f"{model} stays on {row['pinned']['release'] or row['pinned']['revision']}", "good")
        console.following(f"llm-pipeline unpin {model}")
    else:
        console.line(f"{model} follows its declaration", "good")
        console.following(f"llm-pipeline up {model}")


def remove(dagster: Dagster, rows: list[dict[str, Any]], timeout: float) -> None:
    """Leftovers of a model go by its teardown, the rest one by one."""
    for model in sorted({row["model"] for row in rows if row["model"]}):
        if not Decisions(actions.platform_with(model).records, model).wanted:
            actions.down(dagster, model, lambda *_: None, timeout=timeout)
    progress = Progress(timeout, report=lambda phase: _quiet(phase))
    for cluster in components.declared().clusters:
        platform = components.platform_of(cluster)
        for found in unwanted(platform, cluster):
            platform.inventory.remove(found, progress)


def _quiet(_: Phase) -> None:
    """Nobody wants to read the phases of a clean-up."""


# ---------------------------------------------------------------- entry


def load() -> Settings:
    """The settings, once per command."""
    return settings_module.load()


@contextmanager
def one_message() -> Iterator[None]:
    """A user's mistake is one message with an exit code; a bug is a traceback; Ctrl-C stops following, never a run."""
    try:
        yield
    except PipelineError as error:
        console.card(error.problem)
        sys.exit(error.exit_code)
    except ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def main(run: Callable[..., Any] = app) -> None:
    """The command `llm-pipeline`."""
    if not (ROOT / "workspace.yaml").is_file():
        console.card(Problem("llm-pipeline runs from its clone", why="it was installed without -e, so its graph and YAML are not here", next="git clone it, then: make up"))
        sys.exit(2)
    os.chdir(ROOT)
    os.umask(0o077)  # home, cache and Dagster's storage are this user's alone; children inherit it
    with one_message():
        code = run(standalone_mode=False) or 0
        if code == INTERRUPTED:
            console.note("\nstopped following; what was begun goes on\n  see it again: llm-pipeline status --watch\n  end it:       llm-pipeline down MODEL", "busy")
        sys.exit(code)


if __name__ == "__main__":
    main()
