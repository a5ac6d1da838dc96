"""From a wish in YAML to a piece of the graph: the components `Cluster` and `Model`.

The schema that `dg` shows is that of infra/specs.py; the file itself is read by infra/declarations.py, so that Dagster's loader,
the command line and the tests all say the same about the same mistake. The code location reads all files once and builds from
that (`declared`, `build`); the components are the same for who loads a single file, as `dg` does. The word `platform:` becomes an
object here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self, cast

import dagster as dg
import pydantic

from assets import benchmark, cluster, collect, deployment, endpoint, gpu_nodepool, image, model_weights, ray_service, smoke_test, teardown
from assets.step import Cluster as ClusterStage
from assets.step import Model as ModelStage
from infra import declarations, settings
from infra.declarations import Declarations, Declared
from infra.errors import ConfigError
from infra.platform import Platform
from infra.specs import ClusterSpec, ModelSpec
from llm_pipeline.loaded import LOADED, LOADED_KEY

STAGES = (deployment, model_weights, image, gpu_nodepool, ray_service, smoke_test, endpoint, benchmark)
"""A model's stages in the order of life."""

PLATFORMS = ("local", "kubernetes")
"""What this version has."""


@cache
def _attributes(spec: type[pydantic.BaseModel]) -> type[pydantic.BaseModel]:
    """The schema of a file's `attributes`: the spec's, with the name left to the folder. Values are checked by our own reader."""
    fields: dict[str, Any] = {
        name: (Any, pydantic.Field(default=None if name == "name" or not info.is_required() else ..., description=info.description))
        for name, info in spec.model_fields.items()
    }
    made: Any = pydantic.create_model(f"{spec.__name__}Attributes", __config__=pydantic.ConfigDict(extra="allow"), **fields)
    schema = spec.model_json_schema()
    schema["required"] = [name for name in schema.get("required", []) if name != "name"]
    made.model_json_schema = classmethod(lambda cls, *args, **kwargs: schema)
    return cast(type[pydantic.BaseModel], made)


class _FromOurReader(dg.Component):
    """What both components share: the file is read by infra/declarations.py."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @classmethod
    def load(cls, attributes: pydantic.BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        return cls(Path(context.path) / "defs.yaml" if Path(context.path).is_dir() else Path(context.path))


class Cluster(_FromOurReader):
    """A place where models run."""

    @classmethod
    def get_model_cls(cls) -> type[pydantic.BaseModel]:
        return _attributes(ClusterSpec)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        return build_cluster(declarations.read(ClusterSpec, self.file, settings.ROOT))


class Model(_FromOurReader):
    """A deployment that somebody wants: a self-hosted LLM with everything that it needs."""

    @classmethod
    def get_model_cls(cls) -> type[pydantic.BaseModel]:
        return _attributes(ModelSpec)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        return build_model(declarations.read(ModelSpec, self.file, settings.ROOT), declared())


@cache
def declared() -> Declarations:
    """Everything declared in this clone, as this process loaded it: an edit counts when the location is reloaded."""
    return declarations.load_tree(settings.ROOT)


@cache
def platform_of(name: str) -> Platform:
    """The platform of a declared cluster."""
    spec = declared().clusters[name].spec
    if spec.platform == "local":
        from infra import local

        return local.platform(settings.load(), name)
    if spec.platform == "kubernetes":
        from infra import kubernetes

        return kubernetes.platform(settings.load(), spec)
    raise ConfigError(
        f"cluster {name}: platform {spec.platform} is not available in this version", why="this version runs models on `local` and `kubernetes`",
        next="set platform: local or kubernetes, or remove the cluster's folder",
    )  # fmt: skip


def usable_clusters(clusters: Mapping[str, Declared[ClusterSpec]], platforms: tuple[str, ...] = PLATFORMS) -> list[str]:
    """Those of these platforms; of all that this version has."""
    return [name for name, found in clusters.items() if found.spec.platform in platforms]


def cluster_stage(name: str) -> ClusterStage:
    """A declared cluster with its platform and the models declared on it."""
    found = declared().clusters[name]
    models = tuple(sorted(m.spec.name for m in declared().models.values() if m.spec.cluster == name))
    return ClusterStage(found.spec, platform_of(name), models, found.path)


def model_stage(found: Declared[ModelSpec], everything: Declarations) -> ModelStage:
    """A declared model with its platform."""
    return ModelStage(found.spec, found.base, platform_of(found.spec.cluster), everything.clusters[found.spec.cluster].spec, found.path)


def model_stages(clusters: Collection[str]) -> dict[str, ModelStage]:
    """Every declared model on one of these clusters."""
    everything = declared()
    return {name: model_stage(found, everything) for name, found in everything.models.items() if found.spec.cluster in clusters}


def build(found: Declared[ClusterSpec] | Declared[ModelSpec]) -> dg.Definitions:
    """The pieces of the graph of one declaration that was read already."""
    if isinstance(found.spec, ClusterSpec):
        return build_cluster(found)
    return build_model(found, declared())


def build_cluster(found: Declared[ClusterSpec]) -> dg.Definitions:
    """The pieces of the graph of one cluster."""
    stage = cluster_stage(found.spec.name)
    place = cluster.build(stage).map_asset_specs(func=lambda spec: spec.merge_attributes(metadata={LOADED_KEY: LOADED}))
    return dg.Definitions.merge(place, teardown.watch(stage), collect.shelf(stage))


def build_model(found: Declared[ModelSpec], everything: Declarations) -> dg.Definitions:
    """The chain of one model, and the place where its teardown reports lie."""
    stage = model_stage(found, everything)
    report = dg.AssetSpec(
        stage.key("teardown_report"), deps=[stage.key("endpoint")], group_name=stage.name,
        description="What the last teardown removed, kept and left. Written by the job teardown; never materialised by hand.",
    )  # fmt: skip
    chain = dg.Definitions.merge(*(module.build(stage) for module in STAGES), dg.Definitions([report]))
    return chain.map_asset_specs(func=lambda spec: spec.merge_attributes(tags=dict(stage.spec.tags))) if stage.spec.tags else chain
