"""The usual stage as an asset of a model's chain: its place in the graph, and one act inside the frame of every step."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import dagster as dg

from assets.step import Done, Model, Work, step


def stage(model: Model, name: str, act: Callable[[Work], Done], *, after: Iterable[str], kinds: set[str], description: str, beside: Iterable[dg.AssetKey] = ()) -> dg.AssetsDefinition:
    """The asset `[<model>, <name>]` behind the stages `after` and the foreign assets `beside`; a run that finds the model unwanted ends without its output."""

    @dg.asset(
        key=model.key(name), deps=[*(model.key(one) for one in after), *beside], group_name=model.name, kinds=kinds, owners=list(model.spec.owners) or None,
        output_required=False, description=description,
    )  # fmt: skip
    def made(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield from step(context, model, name, act)

    return made


def source_kind(model: Model) -> str:
    """The icon of where its weights come from."""
    return {"hf": "huggingface", "s3": "s3"}.get(model.spec.weights.split(":", 1)[0], "file")
