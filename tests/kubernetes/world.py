"""A clone whose model lives on a cluster: real Dagster storage and steps, each verb in a process of its own that may be killed at a request.

Everything that a verb changes it changes through the API server, and on the way there every request passes a server of ours
(tests/kubernetes/between.py): that is where a process is killed. Nothing is laid around the product itself.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import secrets
import shutil
import signal
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from infra import kubernetes, settings, specs
from infra.decisions import Decisions
from infra.errors import PipelineError
from infra.kubernetes import kinds, startup, weights_run
from infra.platform import Release
from llm_pipeline import actions, automation, components, jobs, planning, runs
from tests.doubles.model import lay_model
from tests.kubernetes.between import OBJECT, Middle, Strike
from tests.kubernetes.lab import REAL, Lab
from tests.kubernetes.story import HAPROXY, IMAGE, PATIENCE, Far, far
from tests.sweep.stand import ARGUMENTS, DEMO, ROOT, Inline, empty_storage, ignore

RUN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}")


@dataclass(frozen=True)
class Point:
    """A request that changes something: `PATCH deployments/llm-router`. `number` tells repetitions apart."""

    what: str
    number: int = 1

    def __str__(self) -> str:
        return self.what + (f" ({self.number})" if self.number > 1 else "")


def point_of(method: str, path: str, body: bytes) -> str | None:
    """What changes something, in words that are the same in each run. None: questions, reviews, dry runs, and renewals of locks, which come when they come."""
    found = OBJECT.match(path.partition("?")[0])
    if method == "GET" or not found or found["plural"].startswith("selfsubject") or "dryRun=All" in path:
        return None
    plural, name, rest = found["plural"], found["name"] or "", found["rest"] or ""
    if rest.startswith("proxy"):
        return f"{method} {plural}/*/{rest}" if plural == "pods" else None
    if (method, plural) == ("PUT", "leases"):
        return None
    name = name or str(json.loads(body)["metadata"]["name"])
    return f"{method} {plural}/{'*' if plural == 'pods' else RUN.sub('RUN', name)}"


@dataclass
class Points:
    """Counts what passes, and strikes at `at`. A record of a run has the run's name hashed into its own: the end of such a name is left out."""

    namespace: str
    at: Point | None = None
    after: bool = False
    kill: Callable[[], None] = lambda: None
    passed: list[Point] = field(default_factory=list)
    _count: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self, method: str, path: str, body: bytes) -> Strike | None:
        what = point_of(method, path, body)
        if what is None:
            return None
        what = re.sub(r"(record-\S*-RUN)-[0-9a-f]{10}$", r"\1", what.replace(self.namespace, "NAMESPACE"))
        with self._lock:
            self._count[what] += 1
            here = Point(what, self._count[what])
            self.passed.append(here)
            return Strike(self.after, self.kill) if here == self.at else None


@dataclass(frozen=True)
class Done:
    """What became of a verb. `code`: of its process, negative for a signal; `value`: what it returned, None when it was killed."""

    code: int
    value: Any
    points: list[Point]

    @property
    def told(self) -> str:
        """In a word or two."""
        value = self.value or {}
        if self.code:
            return "killed" if self.code == -signal.SIGKILL else f"ended with {self.code}"
        if "error" in value:
            return f"{value['error']}: {value['what']}"
        return str(value.get("result") or ("down" if value.get("left") == [] else value))


class World:
    """One clone in a folder, and the namespace that it makes. `more`: other keys of the cluster's block, from the namespace; `model`: other keys of the model."""

    def __init__(self, lab: Lab, middle: Middle, folder: Path, more: Callable[[str], dict[str, Any]] = lambda _: {}, **model: Any) -> None:
        self.root, self.lab, self._middle, self._verbs = folder, lab, middle, 0
        self.namespace = f"t-{secrets.token_hex(4)}"
        self.settings = settings.load(home=folder / "home", cache=folder / "cache", endpoint_port=0, dagster_port=1, dagster_home=folder)
        shutil.copy2(ROOT / "dagster.yaml", folder / "dagster.yaml")
        shutil.copytree(empty_storage(), folder / ".dagster")
        block = {"kubeconfig": str(middle.kubeconfig), "context": "between", "namespace": self.namespace, "kuberay": "existing", "pod_annotations": REAL, **more(self.namespace)}
        self._declare("clusters", "lab", {"platform": "kubernetes", "kubernetes": block, "endpoint": {"image": HAPROXY, "replicas": 1}})
        self.declare(**model)
        lay_model(folder / "assets" / "models" / "demo" / "weights")
        self.straight: Far = far(lab.place(folder / "straight", self.namespace, real=True), folder / "straight", **more(self.namespace))

    # ------------------------------------------------ what a person does

    def declare(self, **model: Any) -> None:
        """The model's YAML, with these keys in place of others."""
        self._declare("models", "demo", {**DEMO, "cluster": "lab", "image": IMAGE, **model})

    def plan(self) -> Done:
        """Its document."""
        return self.do(lambda dagster: next(planning.plans(["demo"], dagster)))

    def up(self, **strike: Any) -> Done:
        return self.do(lambda dagster: actions.up(dagster, ["demo"], ignore, timeout=PATIENCE)[0].as_dict(), **strike)

    def down(self, **strike: Any) -> Done:
        """The cluster with its model, and all data."""
        return self.do(lambda dagster: jobs.down(dagster, "lab", ignore, include_models=True, purge=True, timeout=PATIENCE), **strike)

    def sleep(self, rung: str) -> Done:
        return self.do(lambda dagster: jobs.lay_down(dagster, "demo", ignore, rung=rung, timeout=PATIENCE).as_dict())

    def tick(self) -> Done:
        """The loop's next look at the model, and the run that it asks for."""
        return self.do(lambda dagster: vars(automation.look_now(dagster, components.declared().models["demo"])[0]))

    # ------------------------------------------------ what it looks like

    @property
    def live(self) -> Release | None:
        """By record."""
        decisions = Decisions(self.straight.platform.records, "demo")
        found = decisions.live
        record = decisions.release(found.release) if found else None
        return record.release if record else None

    def there(self) -> bool:
        """Whether anything at all is left of it: the namespace goes with the rest."""
        return self.lab.api.get(kinds.NAMESPACE, self.namespace) is not None

    # ------------------------------------------------ processes of verbs

    def do(self, verb: Callable[[runs.Dagster], Any], at: Point | None = None, *, after: bool = False) -> Done:
        """A verb in a process of its own, which is killed at this request."""
        self._verbs += 1
        out, context = self.root / f"value-{self._verbs}.json", multiprocessing.get_context("fork")
        go = context.Event()
        child = context.Process(target=self._inside, args=(verb, go, out))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the threads of this process rest while it is forked
            child.start()
        points = Points(self.namespace, at, after, lambda: os.kill(child.pid or 0, signal.SIGKILL))
        self._middle.look = points.look
        go.set()
        child.join(2 * PATIENCE)
        self._middle.look = lambda *_: None
        if child.exitcode is None:
            child.kill()
            child.join()
            raise AssertionError(f"a verb did not end in {2 * PATIENCE} s; it reached {points.passed[-3:]}")
        return Done(child.exitcode, json.loads(out.read_text()) if out.exists() else None, points.passed)

    def _inside(self, verb: Callable[[runs.Dagster], Any], go: Any, out: Path) -> None:
        log = os.open(self.root / "verbs.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        warnings.simplefilter("ignore")
        os.chdir(self.root)
        go.wait()
        with self._patched():
            try:
                value = verb(Inline(self.settings))
            except PipelineError as error:
                value = {"error": type(error).__name__, **error.problem.as_dict()}
            out.write_text(json.dumps(value, default=str))
            os._exit(0)

    @contextmanager
    def _patched(self) -> Iterator[None]:
        """The product sees this clone as its own, for the whole life of a forked process; and looks more often, since a scripted engine is ready in a moment."""
        settings.ROOT, settings.load, specs.engine_arguments = self.root, lambda **_: self.settings, lambda: ARGUMENTS  # type: ignore[assignment]
        startup.EVERY, startup.SOONEST, weights_run.EVERY, kubernetes.SWEEP_PAUSE = 0.5, 0.2, 0.5, 0.5
        components.declared.cache_clear()
        components.platform_of.cache_clear()
        yield

    def _declare(self, kind: str, name: str, attributes: dict[str, Any]) -> None:
        folder = self.root / "assets" / kind / name
        folder.mkdir(parents=True, exist_ok=True)
        word = {"models": "Model", "clusters": "Cluster"}[kind]
        (folder / "defs.yaml").write_text(yaml.safe_dump({"type": f"llm_pipeline.components.{word}", "attributes": attributes}))
