"""Where a model's weights come from at this moment. For asset:// that is what the asset's last materialisation says, in whatever code location it is.

Everybody who looks at a source, or only glances at it, goes this way: a run, the sensor, `up`, `notify`, `generate`. The parts of a platform
never hear of assets: they get a spec whose weights are the address that was found.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from assets.step import Model
from infra.errors import ConfigError, PipelineError, Transient
from infra.platform import WeightsPart
from infra.specs import ModelSpec
from infra.waiting import Progress
from infra.weights import Glance, Made, Seen, Upstream, read

SCHEME = "asset://"

Known = Callable[[], dg.DagsterInstance]
"""The one Dagster instance; not asked for where no asset makes the weights."""


@dataclass(frozen=True)
class Given:
    """`spec` with weights that a platform understands; `upstream` None: as declared."""

    spec: ModelSpec
    base: Path
    upstream: Upstream | None = None

    def glance(self, part: WeightsPart, last: Glance | None, progress: Progress) -> Glance:
        """Whether anything moved: another materialisation, or the folder of the last one."""
        if self.upstream is None:
            return part.glance(self.spec, self.base, last, progress)
        return self.upstream.glanced(part.glance(self.spec, self.base, self.upstream.before(last), progress))

    def look(self, part: WeightsPart, progress: Progress, revision: str | None = None) -> Seen:
        """What is there now. A revision that a person named is not what the materialisation promised anything about."""
        seen = part.look(self.spec, self.base, progress, revision)
        return self.upstream.confirmed(seen) if self.upstream and not revision else seen


def given(model: Model, known: Known) -> Given:
    """Where the weights come from now. Raises what `givens` answers."""
    found = givens([model], known)[model.name]
    if isinstance(found, PipelineError):
        raise found
    return found


def givens(models: Iterable[Model], known: Known) -> dict[str, Given | PipelineError]:
    """Of several models with one question to Dagster's storage; or why that can not be told."""
    models = list(models)
    keys = {model.name: key for model in models if (key := key_of(model))}
    made = latest(set(keys.values()), known) if keys else {}
    return {model.name: _given(model, made[keys[model.name]]) if model.name in keys else Given(model.spec, model.base) for model in models}


def key_of(model: Model) -> dg.AssetKey | None:
    """The asset that makes its weights."""
    return dg.AssetKey(model.spec.weights.removeprefix(SCHEME).split("/")) if model.spec.weights.startswith(SCHEME) else None


def latest(keys: set[dg.AssetKey], known: Known) -> dict[dg.AssetKey, Made | PipelineError]:
    """The last materialisation of each."""
    try:
        records = {record.asset_entry.asset_key: record.asset_entry.last_materialization_record for record in known().get_asset_records(list(keys))}
        every = known().all_asset_keys() if any(records.get(key) is None for key in keys) else ()
    except Exception as error:  # its storage may be any database: whatever that raises must not keep other models from being looked at
        away = Transient("Dagster's storage does not answer", why=f"{type(error).__name__}: {error}".splitlines()[0], next="look at Dagster's log; what serves, serves on")
        return dict.fromkeys(keys, away)
    return {key: _made(key, found) if (found := records.get(key)) else _never(key, every) for key in keys}


def _given(model: Model, found: Made | PipelineError) -> Given | PipelineError:
    if isinstance(found, PipelineError):
        return found
    try:
        upstream = read(found)
    except PipelineError as error:
        return error
    return Given(model.spec.model_copy(update={"weights": upstream.address}), model.base, upstream)


def _made(key: dg.AssetKey, record: dg.EventLogRecord) -> Made:
    found = record.asset_materialization
    facts = {name: value.value for name, value in found.metadata.items()} if found else {}
    return Made(key.to_user_string(), record.storage_id, record.run_id, facts)


def _never(key: dg.AssetKey, every: Iterable[dg.AssetKey]) -> ConfigError:
    name = key.to_user_string()
    others = [other.to_user_string() for other in every if other != key]
    near = difflib.get_close_matches(name, others, 1, 0.7)
    return ConfigError(
        f"asset {name}, which is to make the weights, was never materialised", why="this Dagster instance has no materialisation of it, in any code location",
        next=f"materialise {name} in Dagster, then the same command again" + (f"; or did you mean {SCHEME}{near[0]} ?" if near else ""),
    )  # fmt: skip
