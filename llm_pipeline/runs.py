"""The one Dagster of this clone: is it there, launch a run, follow it.

Launched through GraphQL when webserver and a fresh daemon are there; else as a child process in a session of its own on the same
storage, which goes on when whoever follows stops following.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import httpx

from assets.step import TAG_MODEL
from assets.workers import AT_WORK, TAG_WORKER, bury, ended
from infra import loopback, workers
from infra.errors import Blocked, PipelineError, Problem, Timeout, Transient
from infra.local.machine import listener_folder
from infra.settings import ROOT, Settings, private
from llm_pipeline.loaded import LOADED_KEY, fingerprint

LOCATION, REPOSITORY = "llm_pipeline", "__repository__"
ASSET_JOB = "__ASSET_JOB"
"""Dagster's own job over all assets: a person's runs and the loop's are runs of it. A job of the loop's own would be a copy of the whole graph,
loaded and kept a second time."""

TAG_LAUNCH = "llm/launch"

LAUNCH = """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) { __typename
  ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } ... on RunConfigValidationInvalid { errors { message } }
  ... on InvalidSubsetError { message } ... on UnauthorizedError { message } ... on RunConflict { message } } }"""
RELOAD = """mutation($l: String!) { reloadRepositoryLocation(repositoryLocationName: $l) { __typename
  ... on WorkspaceLocationEntry { locationOrLoadError { __typename ... on PythonError { message } } } ... on PythonError { message } } }"""
LOADED_QUERY = """query($k: [AssetKeyInput!]) { assetNodes(assetKeys: $k) { metadataEntries { label ... on TextMetadataEntry { text } } } }"""
DAEMONS = "{ instance { daemonHealth { allDaemonStatuses { daemonType healthy } } } }"


@dataclass(frozen=True)
class Launch:
    """What to run: stages of the graph, or a job with its config."""

    tags: Mapping[str, str]
    assets: Sequence[tuple[str, str]] = ()
    job: str = ASSET_JOB
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """Something that happened in a run. kind: note · phase · started · done · skipped · failed · log · check · ended"""

    kind: str
    stage: str
    text: str = ""
    at: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)


_INTERRUPTED = threading.Event()


def interrupted(*_: object) -> None:
    """The handler of Ctrl-C: as ever, and remembered. Where a library swallows the exception (in a callback, a destructor), whoever follows a run still hears of it."""
    _INTERRUPTED.set()
    raise KeyboardInterrupt


class Dagster:
    """The instance of this clone, and its webserver when there is one."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.url = f"http://127.0.0.1:{settings.dagster_port}"
        self._instance: dg.DagsterInstance | None = None

    @property
    def instance(self) -> dg.DagsterInstance:
        """The storage that CLI, webserver, daemon and run workers share."""
        if self._instance is None:
            self._instance = dg.DagsterInstance.from_config(str(self.settings.instance_dir))
        return self._instance

    def webserver(self) -> str | None:
        """Its URL when it answers, and is ours: another clone's on the same port is not."""
        try:
            with loopback.client(3) as client:
                info = client.get(self.url + "/server_info").json()
        except (httpx.HTTPError, ValueError):
            return None
        return self.url if "dagster_webserver_version" in info and self._ours() else None

    def daemon(self) -> bool:
        """Whether a daemon with a fresh heartbeat would start what is queued."""
        try:
            rows = self._ask(DAEMONS)["instance"]["daemonHealth"]["allDaemonStatuses"]
        except PipelineError:
            return False
        return all(row["healthy"] for row in rows if row["daemonType"] in ("QUEUED_RUN_COORDINATOR", "SENSOR"))

    def reload(self, cluster: str) -> str | None:
        """Makes edited YAML and code count, where anything was edited since they were loaded. Returns what Dagster says when it can not."""
        nodes = self._ask(LOADED_QUERY, {"k": [{"path": [cluster, "cluster"]}]})["assetNodes"]
        if fingerprint() in [row.get("text") for node in nodes for row in node["metadataEntries"] if row["label"] == LOADED_KEY]:
            return None
        answer = self._ask(RELOAD, {"l": LOCATION}, timeout=120)["reloadRepositoryLocation"]
        inner = answer.get("locationOrLoadError") or {}
        return answer.get("message") or inner.get("message")

    def launch(self, what: Launch, *, needs_daemon: bool = True) -> str:
        """Launches, and returns the run's id. `down` passes needs_daemon=False: it goes on as if neither were there.

        What a killed run left is ended first: with a daemon the new one would wait behind it for ever.
        """
        bury(self.instance)
        if self.webserver() and self.daemon():
            return self._submit(what)
        if self.webserver() and needs_daemon:
            raise Blocked(
                "Dagster's webserver runs without its daemon", why="a run would wait in the queue for ever", next="make up (starts both), or end the webserver and run the same command again",
            )  # fmt: skip
        return self._child(what)

    def follow(self, run_id: str, timeout: float) -> Iterator[Event]:
        """What happens in a run, until it ended. Raises Timeout; stopping to listen never stops the run."""
        until, cursor, said = time.monotonic() + timeout, None, ""
        while True:
            if _INTERRUPTED.is_set():
                raise KeyboardInterrupt
            run = self.instance.get_run_by_id(run_id)
            page = self.instance.get_records_for_run(run_id, cursor=cursor, limit=200)
            cursor = page.cursor
            yield from (event for record in page.records if (event := read_event(record.event_log_entry)))
            if page.has_more:
                continue
            if run is None or run.is_finished:
                yield Event("ended", "", run.status.value if run else "LOST", time.time())
                return
            if workers.gone(run.tags.get(TAG_WORKER, "")) or self._orphan(run):
                ended(self.instance, run_id)
                continue
            if (told := self._waits_for(run)) and told != said:
                said = told
                yield Event("note", "", told)
            if time.monotonic() > until:
                raise Timeout(f"run {run_id[:8]} still goes on after {timeout:,.0f} s", next=f"follow it in Dagster: {self.url}/runs/{run_id}")
            time.sleep(0.3)

    # ------------------------------------------------ private

    def _ours(self) -> bool:
        """Whoever listens there works in this clone: every Dagster process of ours has the root as its working directory."""
        return listener_folder(self.settings.dagster_port) == ROOT

    def _ask(self, query: str, variables: Mapping[str, Any] | None = None, timeout: float = 20) -> dict[str, Any]:
        try:
            with loopback.client(timeout) as client:
                answer = client.post(self.url + "/graphql", json={"query": query, "variables": variables or {}}).json()
        except (httpx.HTTPError, ValueError) as error:
            raise Transient(f"Dagster at {self.url} does not answer", why=f"{type(error).__name__}: {error}", next="make up starts it") from error
        if answer.get("errors"):
            raise Transient("Dagster refuses the question", log=str(answer["errors"])[:500], next="is it of another version? make down, then make up")
        return dict(answer["data"])

    def _submit(self, what: Launch) -> str:
        selector: dict[str, Any] = {"repositoryLocationName": LOCATION, "repositoryName": REPOSITORY, "jobName": what.job}
        if what.assets:
            selector["assetSelection"] = [{"path": list(key)} for key in what.assets]
        tags = [{"key": k, "value": v} for k, v in what.tags.items()]
        params = {"selector": selector, "runConfigData": json.dumps(dict(what.config)), "mode": "default", "executionMetadata": {"tags": tags}}
        answer = self._ask(LAUNCH, {"p": params}, timeout=60)["launchRun"]
        if answer["__typename"] == "LaunchRunSuccess":
            return str(answer["run"]["runId"])
        told = answer.get("message") or "; ".join(row["message"] for row in answer.get("errors", [])) or answer["__typename"]
        raise Transient("Dagster does not take the run", why=told.splitlines()[0][:400], next="look at its code location: " + self.url + "/locations")

    def _child(self, what: Launch) -> str:
        """A process of its own on the same storage; the run is found by a tag, since its id is made there."""
        mark = uuid.uuid4().hex
        instance = self.instance  # opened first: two processes that make a new storage at once leave it with two heads, unusable for ever
        order = {"assets": [list(key) for key in what.assets], "job": what.job, "config": dict(what.config), "tags": {**what.tags, TAG_LAUNCH: mark}}
        log = private(self.settings.home / "logs") / "runs.log"
        env = {**os.environ, "DAGSTER_HOME": str(self.settings.instance_dir)}
        with log.open("ab") as out:
            child = subprocess.Popen(
                [sys.executable, "-m", "llm_pipeline.child", json.dumps(order)], stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=ROOT, env=env, start_new_session=True,
            )  # fmt: skip
        until = time.monotonic() + 120
        while time.monotonic() < until:
            found = instance.get_runs(dg.RunsFilter(tags={TAG_LAUNCH: mark}), limit=1)
            if found:
                self._children = {**getattr(self, "_children", {}), found[0].run_id: child}
                return found[0].run_id
            if child.poll() is not None:
                break
            time.sleep(0.2)
        last = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
        raise Transient("the run did not begin", why=last[0][:300] if last else None, next=f"look at {log}")

    def _waits_for(self, run: dg.DagsterRun) -> str:
        """Why a queued run has not begun; empty when it has."""
        if run.status != dg.DagsterRunStatus.QUEUED:
            return ""
        tags = {name: run.tags[name] for name in (TAG_MODEL,) if name in run.tags}
        before = self.instance.get_runs(dg.RunsFilter(statuses=AT_WORK, tags=tags), limit=1) if tags else []
        if before:
            return f"another run of {run.tags[TAG_MODEL]} goes first: {before[0].run_id[:8]}"
        return "" if self.daemon() else "it waits in Dagster's queue, and no daemon takes it out: make up starts one"

    def _orphan(self, run: dg.DagsterRun) -> bool:
        """A run of a child of ours that ended without saying so."""
        child = getattr(self, "_children", {}).get(run.run_id)
        return child is not None and child.poll() is not None and not self.instance.get_run_by_id(run.run_id).is_finished  # type: ignore[union-attr]


def read_event(entry: dg.EventLogEntry) -> Event | None:
    """What of Dagster's log a person follows."""
    event = entry.dagster_event
    if event is None:
        return Event("log", stage_named(entry.step_key), entry.user_message, entry.timestamp) if entry.step_key else None
    at, kind = entry.timestamp, event.event_type_value
    stage = stage_of(event)
    match kind:
        case "ASSET_OBSERVATION":
            facts = plain(event.asset_observation_data.asset_observation.metadata)
            return Event("phase", stage, str(facts.get("phase", "")), at, facts) if "phase" in facts else None
        case "ASSET_MATERIALIZATION":
            return Event("done", stage, "", at, plain(event.materialization.metadata))
        case "ASSET_CHECK_EVALUATION":
            found = event.event_specific_data
            return Event("check", stage, found.check_name, at, {"passed": found.passed, "why": found.description})  # type: ignore[union-attr]
        case "STEP_START":
            return Event("started", stage, "", at)
        case "STEP_FAILURE":
            return Event("failed", stage, "", at, {"problem": problem_of(event), "rule": by_rule(event)})
        case "STEP_SKIPPED":
            return Event("skipped", stage, "", at)
    return None


def stage_of(event: dg.DagsterEvent) -> str:
    """`<model>/<stage>` of an event."""
    if event.asset_key:
        return "/".join(event.asset_key.path)
    return stage_named(event.step_key or "")


def stage_named(step: str) -> str:
    """`<model>/<stage>` of a step's key."""
    return step.replace("__", "/", 1)


def problem_of(event: dg.DagsterEvent) -> Problem:
    """The four parts of a failed step; a step that was killed has none of its own."""
    data = event.step_failure_data
    parts = plain(data.user_failure_data.metadata) if data.user_failure_data else {}
    if "what" in parts:
        return Problem(str(parts["what"]), *(str(parts[k]) if k in parts else None for k in ("why", "next", "log")))
    cause = data.error.cause if data.error and data.error.cause else data.error
    line = cause.message.strip().splitlines()[0][:300] if cause and cause.message.strip() else "the step ended without a reason"
    return Problem("a step failed in a way that nobody foresaw", why=line, next="please report it with the run's log; the same command again goes on from here")


def by_rule(event: dg.DagsterEvent) -> bool:
    """Whether a step failed because a rule said no."""
    data = event.step_failure_data.user_failure_data
    return data is not None and plain(data.metadata).get("exit_code") == Blocked.exit_code


def plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata values without Dagster's wrappers."""
    return {key: getattr(value, "value", value) for key, value in metadata.items()}
