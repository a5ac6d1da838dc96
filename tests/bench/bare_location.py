"""A code location with as many bare assets as ours has for so many models: the same keys, edges, groups, kinds, owners and checks, no bodies, no YAML."""

import os

import dagster as dg

CHAIN = ("deployment", "model_weights", "image", "gpu_nodepool", "ray_service", "smoke_test", "endpoint", "benchmark")
RUNGS = 8
Part = dg.AssetsDefinition | dg.SourceAsset | dg.AssetSpec | dg.AssetChecksDefinition


def chain(model: str) -> list[Part]:
    """One model."""
    out: list[Part] = [observed(model), dg.AssetSpec([model, "teardown_report"], group_name=model, description="bare")]
    for place, stage in enumerate(CHAIN):
        out.append(asset(model, stage, CHAIN[place - 1] if place else None))
    out.append(check(model))
    return out


def asset(model: str, stage: str, before: str | None) -> dg.AssetsDefinition:
    """One stage."""
    checks = [dg.AssetCheckSpec(f"rung_{n}", asset=[model, stage], blocking=True, description="bare") for n in range(RUNGS)] if stage == "smoke_test" else None

    @dg.asset(
        key=[model, stage], deps=[[model, before]] if before else [], group_name=model, kinds={"python"}, owners=["team:bare"], description="bare", check_specs=checks
    )
    def bare(context: dg.AssetExecutionContext):  # type: ignore[no-untyped-def]
        pass

    return bare


def observed(model: str) -> dg.SourceAsset:
    """What is only looked at."""

    @dg.observable_source_asset(key=[model, "model_revision"], group_name=model, description="bare")
    def bare(context: dg.OpExecutionContext) -> dg.ObserveResult:
        return dg.ObserveResult()

    return bare


def check(model: str) -> dg.AssetChecksDefinition:
    """The check that stands alone."""

    @dg.asset_check(asset=[model, "model_weights"], name="digests_match", blocking=True, description="bare")
    def bare(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True)

    return bare


@dg.definitions
def defs() -> dg.Definitions:
    """As many models as MODELS says."""
    parts = [part for n in range(int(os.environ["MODELS"])) for part in chain(f"m{n}")]
    return dg.Definitions(
        assets=[part for part in parts if not isinstance(part, dg.AssetChecksDefinition)],
        asset_checks=[part for part in parts if isinstance(part, dg.AssetChecksDefinition)],
    )
