"""gpu_nodepool: room for the release, made sure of before anything is started.

Upstream     deployment (is it wanted)
Downstream   ray_service
Unchanged    it fits: nothing is made
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.step import Done, Model, Work, step


def build(model: Model) -> dg.Definitions:
    """The stage."""

    @dg.asset(
        key=model.key("gpu_nodepool"), deps=[model.key("deployment")], group_name=model.name, kinds={"python"}, output_required=False,
        owners=list(model.spec.owners) or None, description="CPUs, memory and GPUs for one more release of this model, next to what serves already.",
    )  # fmt: skip
    def gpu_nodepool(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield from step(context, model, "gpu_nodepool", make_room)

    return dg.Definitions([gpu_nodepool])


def make_room(work: Work) -> Done:
    """Fails in seconds, with the numbers, when the release can never fit."""
    state = work.platform.gpu_nodepool.apply(work.release, work.progress)
    numbers = {f"{name} {kind}": value for kind, rows in (("needed", state.needs), ("free", state.free)) for name, value in rows.items()}
    return Done(state.data_version, changed=state.changed, page={"verdict": state.why, **numbers})
