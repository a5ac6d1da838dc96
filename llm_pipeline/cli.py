"""The verbs. Each reads, asks, shows; every mutation is a Dagster run (one history, the same locks and checks), but for leases (leases.py says why)."""

from __future__ import annotations

import os
import signal
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
from llm_pipeline import actions, chat, components, console, decide_verbs, dev, doctor, init_verb, jobs, lease_verbs, manifests, plan_verb, rest_verbs, screens, views
from llm_pipeline.doctor import screen
from llm_pipeline.help import Grouped
from llm_pipeline.options import Json, Name, Names, Seconds, Yes
from llm_pipeline.runs import Dagster, interrupted

app = typer.Typer(
    cls=Grouped, name="llm-pipeline", no_args_is_help=True, add_completion=True, rich_markup_mode=None, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="\b\nThe life of self-hosted LLMs: bring one up, talk to it, change it, end it.\nExample: llm-pipeline up demo; llm-pipeline chat demo 'What is a release?'",
)  # fmt: skip

INTERRUPTED = 130
"""What typer makes of Ctrl-C."""

DIFFERS = 10
"""Of `diff`: nothing is wrong, and something differs."""

LIFE, LOOK, DECIDE, MACHINE = "Life", "Look", "Decide", "Machine"
"""Groups of verbs: in `--help`, and as headings in docs/cli.md."""


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
        agree = plan_verb.agree(dagster, board, yes=yes, as_json=as_json)
        outcomes = actions.up(dagster, names or [], board.listen, revision=revision, follow=follow, timeout=timeout, agree=agree)
    screens.finish(dagster, outcomes, as_json=as_json, took=time.time() - board.began)


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
            one = jobs.down(dagster, target, board.listen, include_models=include_models, purge=purge, timeout=timeout)
            report = {"removed": report["removed"] + one["removed"], "kept": one["kept"], "left": report["left"] + one["left"], "report_run_id": one["report_run_id"]}
    screens.taken_down(report, targets, as_json=as_json)
    raise typer.Exit(1 if report["left"] else 0)


app.command(rich_help_panel=LIFE)(rest_verbs.sleep)
app.command(rich_help_panel=LIFE)(rest_verbs.wake)
app.add_typer(lease_verbs.app, rich_help_panel=LIFE)


# ---------------------------------------------------------------- decide

for word in (decide_verbs.rollback, decide_verbs.retry, decide_verbs.pin, decide_verbs.unpin, decide_verbs.approve, decide_verbs.reject, decide_verbs.notify):
    app.command(rich_help_panel=DECIDE)(word)


# ---------------------------------------------------------------- look


@app.command(rich_help_panel=LOOK)
def status(names: Names = None, watch: Annotated[bool, typer.Option("--watch", help="Every 2 s, until Ctrl-C.")] = False, as_json: Json = False) -> None:
    """What serves, what is wrong with the rest, and what to do."""
    dagster = Dagster(load())
    declared = components.declared()
    strange = {*(names or [])} - {*declared.models, *(broken.name for broken in declared.broken)}
    if strange and (unknown := strange - {*views.model_names([])}):
        actions.stage(min(unknown))
    while True:
        found = views.status(dagster, names or [])
        if as_json:
            console.document(found)
        else:
            screens.status(found)
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
    talk = chat.Talk(platform.endpoint, model, chat.served_name(platform, model), timeout)
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
    shown = [(r["release"], (r["revision"] or "")[:10], r["result"], console.ago(r["seconds"]), r["by"], console.brief(r["why"])) for r in rows]
    console.table(shown, ("release", "revision", "result", "took", "by", "why")) if shown else console.line("nothing was tried yet")
    console.following(f"llm-pipeline rollback {model}" if sum(r["result"] == "accepted" for r in rows) > 1 else f"llm-pipeline status {model}")


@app.command(rich_help_panel=LOOK)
def why(model: Name, last: Annotated[int, typer.Option(metavar="N", help="How many.")] = 20, as_json: Json = False) -> None:
    """What the loop decided by itself, and because of what."""
    rows = views.why(Decisions(actions.platform_with(model).records, model), last)
    if as_json:
        console.document(rows)
        return
    screens.why(rows)


app.command(rich_help_panel=LOOK)(rest_verbs.usage)
app.command(rich_help_panel=LOOK)(plan_verb.plan)


@app.command(rich_help_panel=LOOK)
def generate(model: Name, as_json: Json = False) -> None:
    """Print every manifest that an `up` would apply."""
    found = manifests.generate(model, Dagster(load()))
    if as_json:
        console.document(found)
        return
    sys.stdout.write(manifests.text(found))


@app.command(rich_help_panel=LOOK)
def diff(model: Name, as_json: Json = False) -> None:
    """Show what is live otherwise than declared."""
    found = manifests.diff(model, Dagster(load()))
    if as_json:
        console.document(found)
    else:
        screens.diff(found)
    raise typer.Exit(0 if found["equal"] else DIFFERS)


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
    found = views.collectable(dagster) if dry_run else jobs.collect(dagster, lambda *_: None, timeout=timeout)
    if as_json:
        console.document(found)
        return
    screens.collected(found, dry_run=dry_run)


app.command(rich_help_panel=MACHINE)(init_verb.init)


@app.command("doctor", rich_help_panel=MACHINE)
def doctor_(
    as_json: Json = False, rbac: Annotated[bool, typer.Option("--rbac", help="Print the rights that Kubernetes clusters have to give, as a manifest.")] = False,
) -> None:  # fmt: skip
    """What is missing on this machine, and how to get it."""
    if rbac:
        print(doctor.rbac(), end="")
        return
    lines = doctor.examine(load(), doctor.left())
    if as_json:
        console.document([row.as_dict() for row in lines])
    else:
        screen.show(lines)
    raise typer.Exit(1 if any(row.state == "missing" for row in lines) else 0)


@app.command("dagster", hidden=True)
def dagster_(action: Annotated[str, typer.Argument(metavar="start|stop")]) -> None:
    """Dagster of this clone: what `make up` starts and `make down` ends."""
    found, progress = load(), Progress(180, report=lambda phase: console.note(f"{phase.name}: {phase.detail}"))
    if action == "start":
        started = dev.start(found, progress)
        console.note(f"Dagster {'started' if started else 'runs already'}: {Dagster(found).url}")
    else:
        console.note("Dagster stopped" if dev.stop(found, progress) else "Dagster was not running")


def remove(dagster: Dagster, rows: list[dict[str, Any]], timeout: float) -> None:
    """Leftovers of a model go by its teardown, the rest one by one."""
    for model in sorted({row["model"] for row in rows if row["model"]}):
        if not Decisions(actions.platform_with(model).records, model).wanted:
            jobs.down(dagster, model, lambda *_: None, timeout=timeout)
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
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a script began it in the background: Ctrl-C is not meant for it there
        signal.signal(signal.SIGINT, interrupted)
    os.umask(0o077)  # home, cache and Dagster's storage are this user's alone; children inherit it
    with one_message():
        code = run(standalone_mode=False) or 0
        if code == INTERRUPTED:
            console.note("\nstopped following; what was begun goes on\n  see it again: llm-pipeline status --watch\n  end it:       llm-pipeline down MODEL", "busy")
        sys.exit(code)


if __name__ == "__main__":
    main()
