"""image: what the engine runs in, ready to start.

Upstream     deployment (is it wanted)
Downstream   ray_service
Unchanged    same digest: nothing is built
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.step import Done, Model, Work, step


def build(model: Model) -> dg.Definitions:
    """The stage."""

    @dg.asset(
        key=model.key("image"), deps=[model.key("deployment")], group_name=model.name, kinds={"docker", "python"}, output_required=False,
        owners=list(model.spec.owners) or None, description="What the engine runs in: vLLM and Ray from a lock, shared by all models of the same flavour.",
    )  # fmt: skip
    def image(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield from step(context, model, "image", make)

    return dg.Definitions([image])


def make(work: Work) -> Done:
    """Builds or finds the image of this run's release."""
    state = work.platform.image.apply(work.release, work.progress)
    versions = {f"version {name}": value for name, value in state.versions.items()}
    page = {"digest": state.digest, "bytes": state.size, "where": dg.MetadataValue.path(state.where), "build_seconds": state.seconds, **versions}
    return Done(state.data_version, changed=state.changed, page=page)
