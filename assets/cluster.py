"""cluster: the place where models run, proved to be the same place as before.

Upstream     nothing
Downstream   deployment of every model on it (the records that say "wanted" live there)
Unchanged    same identity: nothing is made
"""

import time
from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.step import TAG_ACTION, Cluster, compare_identity, failure, reporter
from infra.errors import PipelineError
from infra.states import ClusterState
from infra.waiting import Progress

KINDS = {"local": {"python"}, "kubernetes": {"kubernetes"}, "aws": {"aws", "kubernetes"}}


def build(cluster: Cluster) -> dg.Definitions:
    """The cluster's own stage, and what is only shown: its teardown reports.

    A click on this stage alone records a new identity; `up`, which brings it along, only ever compares.
    """
    platform = cluster.platform

    @dg.asset(
        key=cluster.key("cluster"), group_name=cluster.name, kinds=KINDS[cluster.spec.platform], owners=list(cluster.spec.owners) or None,
        description=(f"{cluster.spec.description} " if cluster.spec.description else "") + f"{cluster.name}: where models run ({cluster.spec.platform}).",
        check_specs=[dg.AssetCheckSpec(name, asset=cluster.key("cluster"), description=text) for name, text in platform.cluster.conditions.items()],
    )  # fmt: skip
    def place(context: dg.AssetExecutionContext) -> Iterator[Any]:
        progress = Progress(600, report=reporter(context, cluster.key("cluster")))
        began = time.time()
        try:
            yield from checked(cluster)
            with platform.records.lock(f"{cluster.name}.cluster", f"run {context.run.run_id[:8]}", progress):
                before = platform.records.get(cluster.name, "identity")
                if before and TAG_ACTION in context.run.tags:
                    compare_identity(cluster.name, before.value.get("identity", {}), platform.cluster.observe(cluster.spec))
                state = platform.cluster.apply(cluster.spec, progress)
                record(cluster, state)
        except PipelineError as error:
            raise failure(error) from error
        metadata = {"seconds": round(time.time() - began, 2), "changed": state.changed, **facts(state)}
        yield dg.MaterializeResult(data_version=dg.DataVersion(state.data_version), metadata=metadata)

    report = dg.AssetSpec(
        cluster.key("teardown_report"), group_name=cluster.name,
        description="What the last teardown removed, kept and left. Written by the job teardown; never materialised by hand.",
    )  # fmt: skip
    return dg.Definitions([place, report])


def checked(cluster: Cluster) -> Iterator[dg.AssetCheckResult]:
    """Every condition of the place, up to the first that forbids to go on: its error is raised once it is told."""
    for found in cluster.platform.cluster.examine(cluster.spec):
        problem, severity = found.problem, dg.AssetCheckSeverity.ERROR if found.error else dg.AssetCheckSeverity.WARN
        yield dg.AssetCheckResult(
            check_name=found.name, asset_key=cluster.key("cluster"), passed=problem is None, severity=severity, description=problem.text() if problem else found.told,
            metadata={"found": found.told} | ({"fix": problem.next} if problem and problem.next else {}),
        )  # fmt: skip
        if found.error:
            raise found.error


def record(cluster: Cluster, state: ClusterState) -> None:
    """The identity that every later step compares with."""
    found = cluster.platform.records.get(cluster.name, "identity")
    value = {"identity": dict(state.identity), "at": time.time(), "platform": cluster.spec.platform}
    if found is None or found.value.get("identity") != value["identity"]:
        cluster.platform.records.put(cluster.name, "identity", value, found.version if found else None)


def facts(state: ClusterState) -> dict[str, Any]:
    """Numbers as numbers (they are plotted), the rest as text."""
    identity = {f"identity {k}": str(v) for k, v in state.identity.items()}
    shown = {k: v if isinstance(v, (int, float)) else ", ".join(v) or "none" if isinstance(v, tuple | list) else str(v) for k, v in state.facts.items()}
    return shown | identity
