"""What the verbs show at their end: verdict first, then numbers, the first thing that is wrong, and what to type next."""

from __future__ import annotations

from typing import Any

import typer

from infra import settings
from infra.errors import Problem
from llm_pipeline import chat, console, doctor, manifests, views
from llm_pipeline.actions import Outcome
from llm_pipeline.runs import Dagster


def finish(dagster: Dagster, outcomes: list[Outcome], *, as_json: bool, took: float) -> None:
    """The end of `up`, `rollback` and `retry`: verdict first, then numbers, then what to type next."""
    if as_json:
        documents = [outcome.as_dict() for outcome in outcomes]
        console.document(documents[0] if len(documents) == 1 else documents)
    else:
        for outcome in outcomes:
            ended(dagster, outcome, took)
    raise typer.Exit(max((outcome.exit_code for outcome in outcomes), default=0))


def ended(dagster: Dagster, outcome: Outcome, took: float) -> None:
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
    if outcome.result == "unchanged" and outcome.endpoint is None:
        return  # its notes say how it is
    if outcome.result == "asleep":
        console.line(f"{outcome.model} sleeps; release {outcome.release} comes back when somebody asks", "quiet")
        console.following(f"llm-pipeline wake {outcome.model}")
        return
    console.line(f"{outcome.model} is {'unchanged: it serves' if outcome.result == 'unchanged' else 'serving'} release {outcome.release}", "good")
    if outcome.result == "serving":
        console.line()
        question, answer = chat.sample(outcome.model)
        if answer:
            console.table([("  Q", question), ("  A", answer)])
            console.line()
        console.stages(outcome.seconds, outcome.changed)
        console.line()
    if outcome.outage is not None:
        console.note(f"nobody answered for {outcome.outage:.1f} s: there was no room for two", "busy")
    rows = [("endpoint", outcome.endpoint or "-"), ("revision", (outcome.revision or "-")[:40]), ("dagster", dagster.url if dagster.webserver() else "not running (make up)")]
    console.table(rows if outcome.result == "unchanged" else [*rows, ("took", console.ago(took))], styles=("quiet",))
    console.following(f"llm-pipeline chat {outcome.model}", "llm-pipeline status")


def status(found: dict[str, Any]) -> None:
    """Verdict first, the first thing that is wrong in words, then what to type next."""
    rows = []
    for row in found["models"]:
        facts = [row["release"] or "", console.ago(views.since(row)) if row["state"] in ("serving", "asleep") else ""]
        facts += [f"{row['usd_per_hour']:.2f} USD/h"] if row["usd_per_hour"] and not row["asleep"] else []
        facts += [slept(row["asleep"])] if row["asleep"] else [f"{row['in_flight']} in flight" if row["in_flight"] is not None else ""]
        told = row["problem"]["what"] if row["problem"] else row["waits"]["why"] if row["waits"] else unreached(row["source"]) or beside(row) or saved(row)
        rows.append((row["model"], console.state(row["state"]), "  ".join(f for f in facts if f), told))
    console.table(rows) if rows else console.line("no model is declared: add assets/models/<name>/defs.yaml")
    for row in (row for row in found["models"] if row["asleep"] and not row["asleep"]["bridged"]):
        console.note(f"{row['model']} takes about {console.ago(row['asleep']['wake_seconds'])} to wake: longer than a client with two retries waits; wake it before it is asked, or raise idle.hold", "busy")
    for row in found["clusters"]:
        if row["problem"]:
            console.card(Problem(**row["problem"]))
        elif row.get("goes"):
            console.note(f"cluster {row['cluster']} is taken down at {row['goes']['at']}: {row['goes']['why']}. To keep it: llm-pipeline lease take MODEL", "busy")
    dagster = found["dagster"]
    console.line()
    for endpoint, via in dict.fromkeys((row["endpoint"], row["via"]) for row in found["models"] if row["endpoint"]):
        console.line(f"endpoint  {endpoint}" + ("  (no router: requests are not held, woken for, counted or marked)" if via == "service" else ""), "quiet")
    console.line(f"dagster   {dagster['webserver']}" if dagster["daemon"] else f"dagster   not running: nothing heals{' or wakes' if any(row['asleep'] for row in found['models']) else ''} by itself", "quiet" if dagster["daemon"] else "busy")
    if found.get("cache") and found["cache"]["over"]:
        told, following = doctor.fullness(found["cache"])
        console.line(f"cache     {told}; {following}", "busy")
    wrong = next((row for row in found["models"] if row["problem"]), None)
    if wrong:
        if wrong["chain"]:
            console.line()
            console.links(wrong["chain"])
            console.card(Problem(**wrong["problem"]))
        console.following(wrong["problem"]["next"] or f"llm-pipeline logs {wrong['model']}")
    elif serving := next((row["model"] for row in found["models"] if row["state"] == "serving"), None):
        console.following(f"llm-pipeline chat {serving}")
    elif sleeping := next((row["model"] for row in found["models"] if row["state"] == "asleep"), None):
        console.following(f"llm-pipeline wake {sleeping}")
    elif starting := next((row["model"] for row in found["models"] if row["state"] == "starting"), None):
        console.following(f"llm-pipeline status {starting} --watch")
    else:
        console.following("llm-pipeline up")


def slept(asleep: dict[str, Any]) -> str:
    """How deep it sleeps, and what waking costs."""
    return f"{asleep['rung']}, wakes in about {asleep['wake_seconds']} s"


def beside(row: dict[str, Any]) -> str:
    """The other release that is up while one serves: a candidate, or what is about to go."""
    return f"beside it: {row['candidate']}" if row["candidate"] and row["state"] == "serving" else ""


def saved(row: dict[str, Any]) -> str:
    """What its sleep gives back, or that it is paid for all the same; empty where that is nothing, or not known."""
    if row["asleep"] and row["asleep"]["usd_per_hour_freed"]:
        return f"saves {row['asleep']['usd_per_hour_freed']:.2f} USD/h"
    return f"its nodes stay: {row['usd_per_hour']:.2f} USD/h" if row["asleep"] and row["usd_per_hour"] else ""


def unreached(source: dict[str, Any] | None) -> str:
    """That a source does not answer, and since when; empty when it does."""
    return f"its source is not reached since {source['since']}: {source['problem']}" if source and not source["reachable"] else ""


def notified(found: dict[str, Any], told: str) -> None:
    """What `notify` saw, and what follows from it."""
    problem, model = found["source"]["problem"], found["model"]
    if problem:
        console.card(Problem(**problem))
        return
    console.line(f"{model}: {told}", "busy" if found["waits"] else "good")
    rows = [("to fetch", console.size(found["bytes"])), ("until", (found["waits"] or {}).get("until") or ""), ("link", found["link"] or "")]
    console.table([row for row in rows if row[1]], styles=("quiet",)) if found["before"] != found["revision"] else None
    if found["run_id"]:
        console.line(f"its rollout was launched: run {found['run_id'][:8]}")
        console.following(f"llm-pipeline status {model} --watch")
        return
    console.following(f"llm-pipeline up {model} --revision {found['revision']}" if found["waits"] else f"llm-pipeline status {model}")


def why(rows: list[dict[str, Any]]) -> None:
    """Each verdict with its reason; below it from what to what, by whom, and what became of its run."""
    if not rows:
        console.line("the loop never had to act")
        return
    console.table([(row["at"][:19].replace("T", " "), row["action"], f"{row['because']}\n{aftermath(row)}") for row in rows], ("at (UTC)", "verdict", "because"))


def aftermath(row: dict[str, Any]) -> str:
    """`from -> to, by whom, run, how it ended`: what of it is known."""
    moved = f"{row['from'] or 'nothing'} -> {row['to']}" if row["to"] and row["to"] != row["from"] else ""
    run = f"run {row['run_id'][:8]}" if row["run_id"] else ""
    ended = f"{row['result']} in {console.ago(row['seconds'])}" if row["result"] else "under way" if run else ""
    return ", ".join(word for word in (moved if moved not in row["because"] else "", f"by {row['by']}", run, ended) if word)


def diff(found: dict[str, Any]) -> None:
    """The verdict, each field that differs, and what to type next."""
    for told in found["notes"]:
        console.note(told, "busy")
    if found["equal"]:
        console.line(f"{found['model']} is as declared", "good")
        console.following(f"llm-pipeline status {found['model']}")
        return
    count = len(found["differences"])
    console.line(f"{found['model']}: {count} thing{'' if count == 1 else 's'} otherwise than declared", "busy")
    for told in manifests.lines(found):
        console.line(told)
    console.following(f"llm-pipeline up {found['model']}")


def taken_down(report: dict[str, Any], targets: list[str], *, as_json: bool) -> None:
    """What `down` removed, kept and left."""
    if as_json:
        console.document(report)
        return
    if not targets:
        console.line("nothing is up", "good")
    else:
        console.line(f"{', '.join(targets)}: down, nothing left" if not report["left"] else f"{len(report['left'])} things are left", "bad" if report["left"] else "good")
    rows = [("removed", f"{r['part']} {r['id']}") for r in report["removed"]] + [("left", f"{r['part']} {r['id']}") for r in report["left"]]
    rows += [("kept", f"{r['what'].replace(f'{settings.ROOT}/', '')} ({console.size(r['bytes'])})") for r in report["kept"]]
    console.table(rows, styles=("quiet",)) if rows else None
    console.following("llm-pipeline leftovers --delete" if report["left"] else "llm-pipeline up")


def collected(found: dict[str, Any], *, dry_run: bool) -> None:
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


def pinned(model: str, run: str, *, as_json: bool) -> None:
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
