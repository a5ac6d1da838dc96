"""One Job of weights, from its start or its adoption to what it said: by its name, so that two callers never have two of one kind."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from infra.errors import CapacityError, ConfigError, Denied, Permanent, PipelineError, Transient, redact
from infra.kubernetes import kinds, weights_job
from infra.kubernetes.api import Object
from infra.kubernetes.place import Place
from infra.kubernetes.weights_job import Task, claim_name
from infra.waiting import Progress

EVERY = 2.0
"""Seconds between two looks."""

STUCK_SECONDS = 120.0
"""A pod that could not start for so long is given up: a node that an autoscaler brings is there by then, as a rule."""

STALL_SECONDS = 600.0
"""A running pod that gets no further for so long hangs. Its own patience, for each transfer, is far shorter."""

PATIENT = ("ContainerCreating", "PodInitializing", "ErrImagePull")
"""What a container may wait for: the second try of a pull is waited for."""

TYPES: dict[str, type[PipelineError]] = {kind.__name__: kind for kind in (CapacityError, ConfigError, Denied, Permanent, Transient)}


class Run:
    """The Job of one task. `token`: the Hub's, for a Secret that goes with the Job."""

    def __init__(self, place: Place, task: Task, token: str | None) -> None:
        self._place, self._api, self._task, self._token = place, place.api, task, token
        self._stuck_since: float | None = None
        self._moved: tuple[object, float] = (None, time.monotonic())

    def start(self, progress: Progress) -> Object:
        """The Job that is at work, or a new one. What failed is cleared away first; so is a finished look, which says nothing of today."""
        found = self._find()
        if found and (_condition(found, "Failed") or found["metadata"].get("deletionTimestamp") or (self._task.order.mode == "verify" and _condition(found, "Complete"))):
            self.remove(progress)
            found = None
        if found is None:
            self._beside(None)
            found = self._api.apply(weights_job.job(self._place, self._task))
            self._beside(found)
        return found

    def receives(self, job: Object) -> bool:
        """Whether its pod waits for files from outside."""
        return str(job["metadata"]["annotations"].get("llm-pipeline/how")) == "receive" and not _condition(job, "Complete")

    def over(self) -> bool:
        """Whether it is done."""
        found = self._find()
        return bool(found and _condition(found, "Complete"))

    def receiver(self, progress: Progress) -> str | None:
        """The pod, as soon as it listens; None when it needs nothing any more."""

        def look() -> tuple[str | None] | None:
            job, pod = self._look(progress)
            if _condition(job, "Complete"):
                return (None,)
            return (pod["metadata"]["name"],) if pod and _condition(pod, "Ready") else None

        return progress.until(look, every=EVERY)[0]

    def result(self, progress: Progress) -> dict[str, Any]:
        """What it said when it was done. Raises what it said when it failed."""

        def look() -> dict[str, Any] | None:
            job, pod = self._look(progress)
            lines = list(self._lines(pod)) if pod else []
            self._watch(lines, pod, progress)
            if not _condition(job, "Complete"):
                return None
            if found := next((row["result"] for row in reversed(lines) if "result" in row), None):
                return dict(found)
            self.remove(progress)
            raise Transient(f"job {self._task.name} is done, but nobody can say what it did", why="its pod or its log is gone", next="run the same command again: it reads what is there")

        return progress.until(look, every=EVERY)

    def remains(self) -> bool:
        """Whether anything of it is there."""
        return any(self._api.get(kind, self._task.name, self._place.namespace) for kind in (kinds.JOB, kinds.CONFIG_MAP))

    def remove(self, progress: Progress) -> None:
        """The Job with its pods, also one that it made a moment ago; and what is beside it, should a killed start have left it without an owner."""
        where, name = self._place.namespace, self._task.name
        if found := self._api.get(kinds.JOB, name, where):
            self._api.delete(kinds.JOB, name, where, uid=found["metadata"]["uid"], foreground=True)
            self._api.until(kinds.JOB, where, lambda now: True if all(item["metadata"]["uid"] != found["metadata"]["uid"] for item in now) else None, progress, fields=f"metadata.name={name}")
        pods = f"{self._place.selector(weights_job.PART)},batch.kubernetes.io/job-name={name}"
        self._api.until(kinds.POD, where, lambda now: True if not now else None, progress, labels=pods)
        for kind in (kinds.CONFIG_MAP, kinds.SECRET):
            for item in self._api.list(kind, where, self._place.selector(weights_job.PART), f"metadata.name={name}").items:
                self._api.delete(kind, name, where, uid=item["metadata"]["uid"])

    # ------------------------------------------------ private

    def _find(self) -> Object | None:
        return self._api.get(kinds.JOB, self._task.name, self._place.namespace)

    def _beside(self, owner: Object | None) -> None:
        """Code, order and token: before the Job, so that its pod finds them; then again as the Job's own, so that they go with it."""
        self._api.apply(weights_job.code(self._place, self._task, owner))
        if self._token and self._task.token == (self._task.name, "token"):
            self._api.apply(weights_job.secret(self._place, self._task, self._token, owner))

    def _look(self, progress: Progress) -> tuple[Object, Object | None]:
        """The Job and its newest pod. Raises why it failed, or why its pod can not start."""
        job = self._find()
        if job is None:
            raise Transient(f"job {self._task.name} was removed while it worked", next="run the same command again")
        pods = self._api.list(kinds.POD, self._place.namespace, f"batch.kubernetes.io/job-name={self._task.name}").items
        pod = max(pods, key=lambda item: item["metadata"]["creationTimestamp"]) if pods else None
        if failed := _condition(job, "Failed"):
            raise self._failed(failed, pod)
        if not _condition(job, "Complete"):
            self._started(job, pod, progress)
        return job, pod

    def _lines(self, pod: Object) -> Iterator[dict[str, Any]]:
        """What the pod said lately."""
        for line in self._api.log(self._place.namespace, pod["metadata"]["name"], "weights", lines=20).splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                yield row

    def _watch(self, lines: list[dict[str, Any]], pod: Object | None, progress: Progress) -> None:
        told: dict[str, Any] = next((row for row in reversed(lines) if "text" in row), {})
        if told:
            progress.phase("weights", str(told["text"]))
        now = (pod["metadata"]["uid"] if pod else "", told.get("what"), told.get("done"), len(lines))
        if now != self._moved[0] or not pod or pod["status"].get("phase") != "Running":
            self._moved = (now, time.monotonic())
        if time.monotonic() - self._moved[1] > STALL_SECONDS:
            self.remove(progress)
            raise Transient(f"job {self._task.name} hangs", why=f"nothing moved for {STALL_SECONDS:g} s; the last it said: {told.get('text', 'nothing')}", next="run the same command again: a new pod goes on from what is there")

    def _started(self, job: Object, pod: Object | None, progress: Progress) -> None:
        """Says what its pod waits for; raises when that can not come, or took too long."""
        waits = _waits(pod) if pod else ("no pod yet", _message(self._events("Job", job["metadata"]["name"])))
        if waits is None:
            self._stuck_since = None
            return
        reason, message = waits
        if reason == "Unschedulable":
            message = _message(self._events("PersistentVolumeClaim", claim_name(self._task.order.manifest))) or message
        progress.phase("weights", f"pod of {self._task.name}: {reason} {message}".strip())
        since = self._stuck_since = self._stuck_since or time.monotonic()
        if reason == "InvalidImageName" or (reason == "CreateContainerConfigError" and time.monotonic() - since > 10):
            raise ConfigError(f"the pod of {self._task.name} can not start: {reason}", why=message, next="correct kubernetes.hub_secret, kubernetes.image_pull_secret or image, then the same command again")
        if time.monotonic() - since > (0 if reason == "ImagePullBackOff" else STUCK_SECONDS):
            kind = CapacityError if reason == "Unschedulable" else Transient
            raise kind(f"the pod of {self._task.name} does not start: {reason}", why=message or None, next=NEXT.get(reason, "kubectl describe job says more; then the same command again"))

    def _events(self, kind: str, name: str) -> tuple[Object, ...]:
        return self._api.list(kinds.EVENT, self._place.namespace, fields=f"involvedObject.kind={kind},involvedObject.name={name},type=Warning").items

    def _failed(self, condition: Object, pod: Object | None) -> PipelineError:
        """What the pod itself said is the better word; else the Job's."""
        said = next((row["problem"] for row in reversed(list(self._lines(pod))) if "problem" in row), None) if pod else None
        if said:
            kind = TYPES.get(str(said["kind"]), Transient)
            then = CLAIM_NEXT if "LLM_PIPELINE_CACHE" in str(said["next"]) else said["next"]
            return kind(str(said["what"]), why=said["why"], next=then, log=said["log"])
        log = redact(self._api.log(self._place.namespace, pod["metadata"]["name"], "weights", lines=8)) if pod else ""
        why = f"{condition.get('reason')}: {condition.get('message')}"
        return Transient(f"job {self._task.name} failed", why=why, next="run the same command again: it goes on from what is there", log=log or None)


NEXT = {
    "ImagePullBackOff": "look whether the image exists and kubernetes.image_pull_secret may pull it, then the same command again",
    "Unschedulable": "make room, or correct kubernetes.storage_class; then the same command again",
}

CLAIM_NEXT = "choose a kubernetes.storage_class whose volumes are as large as they are asked to be, and may be written; then: down --purge, and up again"


def _condition(item: Object, kind: str) -> Object | None:
    """The condition of this type when it is true."""
    return next((row for row in item.get("status", {}).get("conditions", []) if row["type"] == kind and row["status"] == "True"), None)


def _waits(pod: Object) -> tuple[str, str] | None:
    """Why it does not run yet, where that may be trouble; None: it runs, or is about to."""
    status = pod["status"]
    for row in status.get("containerStatuses", []):
        if waiting := row.get("state", {}).get("waiting"):
            return None if waiting.get("reason") in PATIENT else (str(waiting.get("reason")), str(waiting.get("message", "")))
    for row in status.get("conditions", []):
        if row["type"] == "PodScheduled" and row["status"] == "False":
            return str(row.get("reason")), str(row.get("message", ""))
    return None


def _message(events: tuple[Object, ...]) -> str:
    return str(max(events, key=lambda item: str(item.get("lastTimestamp") or item["metadata"]["creationTimestamp"]))["message"]) if events else ""
