"""What a cluster is asked: calls of a no-op `up`, of the loop while nothing happens, and of many models that come up at once.

Counted in the API server's own audit log. Engines and pods are scripted (tests/doubles/ray_engine.py): here only the calls count.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from infra.kubernetes.api import MANAGER
from llm_pipeline.automation import EVERY
from tests.bench.frame import Figure, Lab
from tests.kubernetes import lab as labs
from tests.kubernetes.lab import REAL
from tests.kubernetes.story import HAPROXY, IMAGE
from tests.life import clone as clones
from tests.life.clone import Clone

PATIENCE = 1500
TICKS = 4
WINDOW = 10.0
"""Seconds over which a rate is the mean: one second of calls says little about a server that queues them."""


def figures(lab: Lab) -> Iterator[Figure]:
    """One cluster, one clone with a daemon; models that share a source."""
    if why := labs.refused():
        lab.say(f"cluster: left out: {why}")
        return
    models = [f"m{number}" for number in range(3 if lab.quick else 10)]
    with labs.started(lab.folder / "control-plane", nodes=2) as control, control.namespace() as namespace:
        clone = declared(lab, control, namespace, models)
        try:
            yield from measured(lab, control, clone, models)
        finally:
            clone.stop()


def measured(lab: Lab, control: labs.Lab, clone: Clone, models: list[str]) -> Iterator[Figure]:
    """First all at once, then nothing, then `up` where nothing is to be done."""
    assert clone.run("dagster", "start").returncode == 0
    began = time.time()
    clone.json("up", timeout=PATIENCE)
    rollout, took = calls(control, began), time.time() - began
    assert rollout, "the audit log has nothing of ours: what is counted here would always be nothing"
    time.sleep(EVERY)
    quiet = time.time()
    time.sleep(TICKS * EVERY)
    loop = calls(control, quiet)
    clone.run("dagster", "stop")
    again, waited = [], []
    for _ in range(lab.rounds):
        began = time.time()
        assert clone.json("up", models[0])["result"] == "unchanged"
        asked = calls(control, began)
        again.append(float(len(asked)))
        waited.append(sum(seconds(event) for event in asked))
    lists = Counter(event["objectRef"]["resource"] for event in loop if event["verb"] == "list")
    yield Figure(f"rollout of {len(models)} models at once: calls of the API server", "1/s", (busiest(rollout),), how="value", goal=20, why=f"mean of the busiest {WINDOW:.0f} s, with engines that are ready at once; {len(rollout) / took:.1f} over all of its {took:.0f} s; {len(rollout)} calls: {most(rollout)}")
    yield Figure(
        f"loop, {len(models)} models in step: lists of the kind that is listed most", "per tick", (max(lists.values(), default=0) / TICKS,), how="value", goal=1,
        why=f"all calls per tick: {len(loop) / TICKS:.0f}, of which one per model asks its engine's health; listed: {', '.join(f'{kind} {n}' for kind, n in lists.most_common())}",
    )  # fmt: skip
    yield Figure("no-op up on a cluster: calls of the API server", "", tuple(again), how="value", goal=25, why=most(asked))
    yield Figure("no-op up on a cluster: time in those calls", "s", tuple(waited), how="value", goal=2, why="as the API server itself counts it")


def most(events: list[dict[str, Any]]) -> str:
    """What was asked, and how often; the twelve of which there was most."""
    counts = Counter(f"{event['verb']} {event.get('objectRef', {}).get('resource', event['requestURI'].partition('?')[0])}" for event in events)
    return ", ".join(f"{kind} {n}" for kind, n in counts.most_common(12))


def declared(lab: Lab, control: labs.Lab, namespace: str, models: list[str]) -> Clone:
    """JSON is YAML."""
    clone = clones.make(lab.folder / "cluster", LLM_PIPELINE_CACHE=str(lab.folder / "cluster-cache"))
    block = {"kubeconfig": str(control.kubeconfig), "context": control.context, "namespace": namespace, "pod_annotations": REAL}
    attributes: dict[str, Any] = {"platform": "kubernetes", "kubernetes": block, "endpoint": {"image": HAPROXY}}
    write(clone, "clusters/far", "Cluster", attributes)
    for name in ("demo", "qwen3_0_6b"):
        (clone.root / "assets/models" / name / "defs.yaml").unlink()
    for name in models:
        write(clone, f"models/{name}", "Model", {
            "cluster": "far", "autostart": True, "weights": "file://../demo/weights/v1", "image": IMAGE, "resources": {"memory": "64Mi", "cpu": "10m"},
            "engine": {"kind": "vllm", "max_model_len": 512, "max_num_seqs": 4, "dtype": "bfloat16"},
            "acceptance": {"golden": [{"prompt": "ping", "matches": "."}]}, "owners": ["team:ml-platform"],
        })  # fmt: skip
    return clone


def write(clone: Clone, where: str, what: str, attributes: dict[str, Any]) -> None:
    path = clone.root / "assets" / where / "defs.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": f"llm_pipeline.components.{what}", "attributes": attributes}))


def calls(control: labs.Lab, since: float) -> list[dict[str, Any]]:
    """Ours that were answered since then; not those that go through to a pod."""
    events = (event for event in control.audit() if event.get("userAgent", "").startswith(MANAGER) and event["stage"] == "ResponseComplete")
    return [event for event in events if at(event, "requestReceivedTimestamp") >= since and event.get("objectRef", {}).get("subresource") != "proxy"]


def at(event: dict[str, Any], key: str) -> float:
    return datetime.fromisoformat(event[key]).timestamp()


def seconds(event: dict[str, Any]) -> float:
    """Of a watch only its first answer would count, which the log does not have."""
    return 0.0 if event["verb"] == "watch" else at(event, "stageTimestamp") - at(event, "requestReceivedTimestamp")


def busiest(events: list[dict[str, Any]]) -> float:
    """Calls per second in the busiest stretch of WINDOW seconds."""
    times = sorted(at(event, "requestReceivedTimestamp") for event in events)
    return max((sum(1 for other in times[number:] if other < begin + WINDOW) for number, begin in enumerate(times)), default=0) / WINDOW
