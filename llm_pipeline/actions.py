"""What the verbs do: look first, launch a run when something differs, follow it, say how it ended. No layout here."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from assets import planning
from assets.admission import judge
from assets.step import TAG_ACTION, TAG_BY, TAG_MODEL, TAG_RELEASE, TAG_TIMEOUT, TAG_WHY, Model
from assets.upstream import given
from infra import policy
from infra.decisions import Decisions
from infra.declarations import nearest
from infra.documents import Approval, ReleaseRecord
from infra.errors import Blocked, ConfigError, PipelineError, Problem, Timeout
from infra.hours import utc
from infra.plan import compare
from infra.platform import Platform, Release
from infra.situation import Situation, look, newest
from infra.states import digest_of
from infra.waiting import Progress
from llm_pipeline import components
from llm_pipeline.runs import Dagster, Event, Launch

CHAIN = ("deployment", "model_weights", "image", "gpu_nodepool", "ray_service", "smoke_test", "endpoint")
"""What `up` materialises of a model, after its cluster."""

DEFAULT_TIMEOUT = 3600.0

Listener = Callable[[str, Event], None]


@dataclass(frozen=True)
class Outcome:
    """How `up`, `rollback` or `retry` of one model ended."""

    model: str
    result: str
    release: str | None = None
    previous: str | None = None
    revision: str | None = None
    endpoint: str | None = None
    run_id: str | None = None
    changed: dict[str, bool] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    phases: dict[str, float] = field(default_factory=dict)
    problem: Problem | None = None
    exit_code: int = 0
    notes: tuple[str, ...] = ()
    outage: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The document of contracts."""
        return {
            "model": self.model, "result": self.result, "release": self.release, "previous_release": self.previous, "revision": self.revision,
            "endpoint": self.endpoint, "run_id": self.run_id, "changed": self.changed, "seconds": self.seconds, "phases": self.phases,
            "problem": self.problem.as_dict() if self.problem else None, "notes": list(self.notes), "outage_seconds": self.outage,
        }  # fmt: skip


def person() -> str:
    """Who gives the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


# ---------------------------------------------------------------- which models


def stage(name: str) -> Model:
    """A declared model; a ConfigError that says what is wrong with its file, or which name was probably meant."""
    everything = components.declared()
    if name in everything.models:
        return components.model_stage(everything.models[name], everything)
    for broken in everything.broken:
        if broken.name == name:
            raise ConfigError(broken.problem.what, why=broken.problem.why, next=broken.problem.next, log=broken.problem.log)
    known = sorted(everything.models)
    guess = nearest(name, known)
    raise ConfigError(f"no model is called {name}" + (f"; did you mean {guess}?" if guess else ""), why=f"declared are: {', '.join(known) or 'none'}", next="llm-pipeline status")


def asked_for(names: Iterable[str]) -> list[Model]:
    """The named models; without names every one with autostart, and every one that is wanted already."""
    chosen = list(names)
    if chosen:
        return [stage(name) for name in dict.fromkeys(chosen)]
    everything = components.declared()
    found = [components.model_stage(m, everything) for m in everything.models.values()]
    return [model for model in found if model.spec.autostart or Decisions(model.platform.records, model.name).wanted]


def platform_with(model: str) -> Platform:
    """The platform that knows this model by declaration, record or process; for what no YAML declares any more."""
    everything = components.declared()
    if model in everything.models:
        return components.platform_of(everything.models[model].spec.cluster)
    for cluster in everything.clusters:
        try:
            platform = components.platform_of(cluster)
            if model in platform.records.owners() or any(found.model == model for found in platform.inventory.find()):
                return platform
        except PipelineError:
            continue
    return stage(model).platform


# ---------------------------------------------------------------- up


@dataclass(frozen=True)
class Wish:
    """What `up` of one model would do. `unchanged`: nothing; `refusal`: a rule forbids it."""

    model: Model
    seen: Situation
    release: Release | None
    unchanged: bool
    refusal: Problem | None = None
    notes: tuple[str, ...] = ()


def consider(model: Model, dagster: Dagster, revision: str | None = None, *, retry: bool = False) -> Wish:
    """Looks at source, records and platform, and says what a run would change. Changes nothing."""
    here = model.platform.at_once()
    decisions = Decisions(here.records, model.name)
    source, note = newest(decisions, lambda named: given(model, lambda: dagster.instance).look(here.model_weights, Progress(120), named), revision)
    seen = look(here, model.name, model.spec, model.base)
    pin, verdict = decisions.pin, judge(decisions, model, source, asked=revision is not None, person=True)
    notes = [note] if note else []
    if not pin and not verdict.admitted:
        notes.append(f"{source.revision[:12]} is not taken: {verdict.why}; llm-pipeline up {model.name} --revision {source.revision}")
    if revision and pin and not verdict.admitted:
        return Wish(model, seen, None, unchanged=False, refusal=Problem(f"{model.name} is pinned: {pin.why}", next=f"llm-pipeline unpin {model.name}, then the same command again"))
    if pin and not verdict.ends_pin:
        notes.append(f"pinned to {pin.release or pin.revision} ({pin.why}); llm-pipeline unpin {model.name} follows the declaration again")
    release = seen.desired if pin and pin.release and not verdict.ends_pin else _would_be(model, source, verdict, seen)
    record = decisions.release(release.id) if release else None
    if refusal := _waits_for_a_person(model, decisions, release):
        return Wish(model, seen, release, unchanged=False, refusal=refusal, notes=tuple(notes))
    if record and record.mark and record.mark.kind != "cancelled" and not retry:
        last = record.last.problem.problem() if record.last and record.last.problem else None
        refusal = Problem(
            f"release {record.id} is marked {record.mark.kind}", why=(last.why if last else None) or record.mark.why,
            next=f"llm-pipeline retry {model.name} tries it again; or change spec, weights or image", log=last.log if last else None,
        )  # fmt: skip
        return Wish(model, seen, release, unchanged=False, refusal=refusal, notes=tuple(notes))
    return Wish(model, seen, release, _in_step(model, seen, release), notes=tuple(notes))


Agree = Callable[[Wish], Problem | None]
"""Asked before a run is launched: why it is not, or None."""


def up(
    dagster: Dagster, names: Iterable[str], listen: Listener, *, revision: str | None = None, follow: bool = True, timeout: float = 3600, agree: Agree = lambda _: None
) -> list[Outcome]:
    """Brings models up; those in step already are left alone, and without names those that sleep too. `agree` is asked before anything is launched."""
    models = asked_for(chosen := list(names))
    if not models:
        raise ConfigError("no model starts by itself", why="no YAML says autostart: true, and none is wanted", next="llm-pipeline up NAME")
    asleep = [] if chosen else [model for model in models if Decisions(model.platform.records, model.name).asleep]
    left = [_sleeps(model) for model in asleep]
    return left + _bring_up(
        dagster, [model for model in models if model not in asleep], listen, {TAG_ACTION: "deploy", TAG_WHY: "up"},
        revision=revision, follow=follow, timeout=timeout, agree=agree,
    )  # fmt: skip


def _sleeps(model: Model) -> Outcome:
    """What a bare `up` says of a model that sleeps."""
    found = Decisions(model.platform.records, model.name).asleep
    return Outcome(model.name, "asleep", found.release if found else None)


def retry(dagster: Dagster, name: str, listen: Listener, *, follow: bool = True, timeout: float = 3600) -> list[Outcome]:
    """Lifts the mark of the release that is declared, and tries it again."""
    return _bring_up(dagster, [stage(name)], listen, {TAG_ACTION: "retry", TAG_WHY: "retry"}, follow=follow, timeout=timeout)


def rollback(dagster: Dagster, name: str, release: str | None, listen: Listener, *, hold: bool, follow: bool = True, timeout: float = 3600) -> list[Outcome]:
    """Goes to an earlier accepted release and pins it."""
    model = stage(name)
    decisions = Decisions(model.platform.records, name)
    target = earlier(decisions, model.platform, release)
    seen = look(model.platform, name, model.spec, model.base)
    if seen.live and seen.live.id == target.id and seen.serves:
        return [Outcome(name, "unchanged", target.id, target.id, target.revision, model.platform.endpoint.url(name), notes=(f"release {target.id} serves already",))]
    tags = {TAG_ACTION: "rollback", TAG_WHY: f"rollback to {target.id}", "llm/to": target.id, "llm/hold": str(hold).lower()}
    return _launch_and_follow(dagster, [(model, ())], listen, tags, follow=follow, timeout=timeout)


def earlier(decisions: Decisions, platform: Platform, release: str | None) -> ReleaseRecord:
    """The named release, or the last accepted one that is not live. Blocked when its weights or its image are gone."""
    live = decisions.live
    releases = decisions.releases()
    if release:
        found = [record for name, record in releases.items() if name.startswith(release)]
        if len(found) != 1:
            raise ConfigError(f"{decisions.model} has {'no' if not found else 'more than one'} release {release}", next=f"llm-pipeline history {decisions.model}")
        if not found[0].accepted:
            raise Blocked(f"release {found[0].id} was never accepted", why="a rollback goes to what has served before", next=f"llm-pipeline history {decisions.model}")
        if lost := gone(found[0], platform):
            raise _retired(found[0], lost, decisions.model)
        return found[0]
    earlier_ones = [record for record in releases.values() if record.accepted and (live is None or record.id != live.release)]
    if not earlier_ones:
        raise Blocked(f"{decisions.model} has no earlier accepted release", next=f"llm-pipeline history {decisions.model}")
    accepted = [record for record in earlier_ones if not gone(record, platform)]
    if not accepted:
        raise _retired(earlier_ones[0], gone(earlier_ones[0], platform), decisions.model)
    return max(accepted, key=lambda record: max(a.ended or 0 for a in record.attempts if a.result == "accepted"))


def gone(record: ReleaseRecord, platform: Platform) -> str:
    """What a release lacks to be started again as it was; empty when nothing."""
    lost = [word for word, part in (("weights", platform.model_weights), ("image", platform.image)) if part.observe(record.release) is None]
    return " and ".join(lost)


def _retired(record: ReleaseRecord, lost: str, model: str) -> Blocked:
    return Blocked(
        f"release {record.id} is retired: its {lost} {'are' if 'weights' in lost else 'is'} gone",
        why=f"release.keep_previous {record.release.spec.release.keep_previous} keeps so many earlier ones",
        next=f"declare revision {record.revision[:12]} again, then: llm-pipeline up {model}; raise release.keep_previous to keep more",
    )  # fmt: skip


# ---------------------------------------------------------------- following


@dataclass(frozen=True)
class Heard:
    """What a run of one model said. `status`: how Dagster ended it; empty: the time was over first."""

    changed: dict[str, bool]
    seconds: dict[str, float]
    problem: Problem | None
    outage: float | None
    status: str


def followed(dagster: Dagster, model: Model, run: str, before: str | None, listen: Listener, timeout: float, notes: tuple[str, ...]) -> Outcome:
    """Listens to a run that brings one model up; how it ended. `before`: the release that was live when it was launched."""
    return outcome(model, run, before, heard(dagster, model.name, run, listen, timeout), notes)


def heard(dagster: Dagster, name: str, run: str, listen: Listener, timeout: float) -> Heard:
    """Listens to a run of one model until it ends or the time is over."""
    changed: dict[str, bool] = {}
    seconds: dict[str, float] = {}
    problem: Problem | None = None
    outage: float | None = None
    status = ""
    try:
        for event in dagster.follow(run, timeout):
            listen(name, event)
            if event.kind == "done":
                part = event.stage.split("/")[-1]
                changed[part], seconds[part] = bool(event.facts.get("changed")), float(event.facts.get("seconds", 0))
                outage = event.facts.get("outage_seconds", outage)
            elif event.kind == "failed" and problem is None:
                problem = event.facts["problem"]
            elif event.kind == "ended":
                status = event.text
    except Timeout as error:
        problem = error.problem
    return Heard(changed, seconds, problem, outage, status)


def outcome(model: Model, run: str, before: str | None, found: Heard, notes: tuple[str, ...]) -> Outcome:
    """Reads the end from records and platform; the run's own status only tells whether to look for a problem."""
    decisions, problem, status = Decisions(model.platform.records, model.name), found.problem, found.status
    plan = decisions.records.get(model.name, f"attempt/{run}")
    record = decisions.release(str(plan.value["release"])) if plan else None
    attempt = next((a for a in record.attempts if a.run == run), None) if record else None
    live = decisions.live
    good = status == "SUCCESS" and record is not None and live is not None and live.release == record.id
    if status == "CANCELED":
        problem = Problem("a person ended the run", why="Terminate in Dagster; what serves was not touched", next=f"llm-pipeline up {model.name} goes on from here")
    if not good and problem is None:
        stored = attempt.problem.problem() if attempt and attempt.problem else None
        problem = stored or _unlike(model.name, decisions, status)
    waits = decisions.approval
    if attempt and attempt.result == "waiting" and waits and record and waits.release == record.id:
        return Outcome(model.name, "waiting", record.id, before, record.revision, None, run, found.changed, found.seconds, dict(attempt.phases), _waiting(model.name, waits), 3, notes, found.outage)
    result = "serving" if good else "refused" if attempt and attempt.result == "refused" else "failed"
    return Outcome(
        model.name, result, record.id if record else None, before, record.revision if record else None, model.platform.endpoint.url(model.name) if good else None,
        run, found.changed, found.seconds, dict(attempt.phases) if attempt else {}, None if good else problem, 0 if good else 1, notes, found.outage,
    )  # fmt: skip


# ---------------------------------------------------------------- private


def _unlike(name: str, decisions: Decisions, status: str) -> Problem:
    """A run that told no problem, and whose release is not live."""
    if status != "SUCCESS":
        return Problem(f"the run of {name} ended as {status or 'unknown'}", next=f"llm-pipeline up {name} goes on from here")
    why = "another run came between" if decisions.wanted else "it was taken down meanwhile"
    return Problem(f"the run of {name} ended, and did not bring its release live", why=why, next=f"llm-pipeline status {name}")


def _bring_up(
    dagster: Dagster, models: list[Model], listen: Listener, tags: dict[str, str], *, follow: bool, timeout: float, revision: str | None = None, agree: Agree = lambda _: None
) -> list[Outcome]:
    done: list[Outcome] = []
    launch: list[tuple[Model, tuple[str, ...]]] = []
    for model in models:
        wish = consider(model, dagster, revision, retry=tags[TAG_ACTION] == "retry")
        if wish.refusal:
            healed = _heal_live(dagster, wish, listen, follow=follow, timeout=timeout)
            done.append(Outcome(model.name, "refused", problem=wish.refusal, exit_code=3, notes=wish.notes + healed))
        elif wish.unchanged and wish.release:
            release = wish.release
            done.append(Outcome(model.name, "unchanged", release.id, release.id, release.revision, model.platform.endpoint.url(model.name), notes=wish.notes))
        else:
            if told := _announced(wish):
                listen(model.name, Event("note", "", told))
            if no := agree(wish):
                done.append(Outcome(model.name, "refused", problem=no, exit_code=3, notes=wish.notes))
            else:
                launch.append((model, wish.notes))
    if revision:
        tags = {**tags, "llm/revision": revision}
    return done + _launch_and_follow(dagster, launch, listen, tags, follow=follow, timeout=timeout)


def _waits_for_a_person(model: Model, decisions: Decisions, release: Release | None) -> Problem | None:
    """What `up` says of a candidate that passed already."""
    found = decisions.approval
    if found is None or release is None or found.release != release.id or found.verdict != "waiting":
        return None
    return _waiting(model.name, found)


def _waiting(model: str, found: Approval) -> Problem:
    return Problem(
        f"release {found.release} passed and waits for approval until {utc(found.until)}", why="updates.policy is approve: a person has to say so before it gets traffic",
        next=f"llm-pipeline approve {model}, or: llm-pipeline reject {model}",
    )  # fmt: skip


def _heal_live(dagster: Dagster, wish: Wish, listen: Listener, *, follow: bool, timeout: float) -> tuple[str, ...]:
    """What is declared is marked, and what served is down: that one comes back, as the loop would see to. What to say of it."""
    seen, name = wish.seen, wish.model.name
    if seen.live is None or seen.serves or seen.service_unknown or seen.endpoint_unknown or (wish.release and wish.release.id == seen.live.id):
        return ()
    tags = {TAG_ACTION: "heal", TAG_RELEASE: seen.live.id, TAG_WHY: f"up: {seen.live.id} was down", TAG_MODEL: name, TAG_BY: person()}
    run = dagster.launch(Launch(tags, [(name, stage) for stage in CHAIN[1:]]))
    if not follow:
        return (f"release {seen.live.id}, which served before, is brought back by run {run}",)
    found = followed(dagster, wish.model, run, seen.live.id, listen, timeout, ())
    return (f"release {seen.live.id}, which served before, was down and {'serves again' if found.result == 'serving' else 'could not be brought back'}",)


def _launch_and_follow(
    dagster: Dagster, models: list[tuple[Model, tuple[str, ...]]], listen: Listener, tags: dict[str, str], *, follow: bool, timeout: float
) -> list[Outcome]:
    if models and dagster.webserver() and (told := dagster.reload(models[0][0].spec.cluster)):
        raise ConfigError("Dagster can not load the graph", why=told.splitlines()[0][:300], next=f"look at {dagster.url}/locations")
    runs = []
    for model, notes in models:
        given = {**tags, TAG_MODEL: model.name, TAG_BY: person(), **({TAG_TIMEOUT: str(timeout)} if timeout != DEFAULT_TIMEOUT else {})}
        assets = [(model.spec.cluster, "cluster"), *((model.name, stage) for stage in CHAIN)]
        runs.append((model, notes, Decisions(model.platform.records, model.name).live, dagster.launch(Launch(given, assets))))
    if not follow:
        return [Outcome(model.name, "launched", run_id=run, notes=notes) for model, notes, _, run in runs]
    return [followed(dagster, model, run, before.release if before else None, listen, timeout, notes) for model, notes, before, run in runs]


def _announced(wish: Wish) -> str:
    """What a person should know before the run begins: there is no room for two, and what will happen therefore."""
    release, live = wish.release, wish.seen.live
    if release is None or live is None or live.id == release.id or not wish.seen.serves:
        return ""
    return planning.announced(wish.model.name, compare(planning.facts(wish.model, wish.seen, release)))


def _would_be(model: Model, source: Any, verdict: policy.Admission, seen: Situation) -> Release | None:
    """The release that a run would bring up now."""
    if not verdict.admitted:
        return seen.desired
    image = model.platform.image.resolve(model.spec, Progress(60))
    return Release(model.spec, source.revision, source.manifest, image, source.source, str(model.base))


def _in_step(model: Model, seen: Situation, release: Release | None) -> bool:
    """Wanted, serving what should serve, with the rules, the replicas, what the router holds, and what of the cluster is of our own as declared now."""
    if not (seen.wanted and seen.serves and release and seen.live and seen.live.id == release.id) or seen.others:
        return False
    rules = digest_of(release.spec.acceptance.model_dump(mode="json"))
    same_place = seen.service is None or seen.service.in_place in ("", release.in_place)
    same_hold = seen.endpoint is None or seen.endpoint.hold in (None, model.spec.idle.hold)
    return seen.live.accepted_spec == rules and same_place and same_hold and not _lacks(model, release)


def _lacks(model: Model, release: Release) -> bool:
    """Whether its cluster is to get something, such as an operator or a pool; as far as it can be told. Raises ConfigError for a pool that can not be made there."""
    installs = planning.told(lambda: model.platform.cluster.pending(model.cluster))
    machines = planning.told(lambda: model.platform.gpu_nodepool.observe(release))
    return bool(installs or (machines and machines.changes))
