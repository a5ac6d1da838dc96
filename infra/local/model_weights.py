"""model_weights on this machine: the content-addressed store in the cache, shared by all models and homes that use that cache.

Upstream     model_revision, deployment            Downstream     ray_service
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from infra import weights
from infra.errors import ConfigError
from infra.platform import Release, WeightsState
from infra.settings import Settings
from infra.specs import ModelSpec
from infra.waiting import Progress
from infra.weights import Access, Bad, Seen, Store, Stored


class LocalWeights:
    """`WeightsPart` over one `Store`."""

    def __init__(self, settings: Settings) -> None:
        self.store = Store(settings.cache_dir / "weights")
        self._access = Access(
            hf_endpoint=settings.hf_endpoint, hf_token=settings.hf_token.get_secret_value() if settings.hf_token else None,
            hf_cache=settings.hub_cache, stall_seconds=settings.stall_seconds, aws=settings.aws,
            scans=settings.cache_dir / "scans.json",
        )  # fmt: skip

    def observe(self, release: Release) -> WeightsState | None:
        stored = self.store.find(release.manifest)
        return _state(stored) if stored else None

    def apply(self, release: Release, progress: Progress) -> WeightsState:
        """Fetches what is missing, checks each byte, and that an engine could start from it."""
        source = self._open(release.source, Path(release.base or "/"), allow_pickle=release.spec.allow_pickle)
        stored = self.store.fill(source, Seen(release.source, release.revision, release.manifest), progress)
        for problem in weights.problems(stored.path, release.manifest, release.spec.allow_pickle):
            raise problem
        return replace(_state(stored), facts=weights.facts(stored.path))

    def delete(self, release: Release, progress: Progress) -> None:
        self.store.remove(release.manifest)

    def look(self, spec: ModelSpec, base: Path, progress: Progress, revision: str | None = None) -> Seen:
        declared = weights.parse(spec.weights, base)
        if revision:
            declared = declared.at(revision)
        return self._open(declared.uri, base, allow_pickle=spec.allow_pickle).look(progress)

    def verify(self, release: Release, progress: Progress) -> tuple[Bad, ...]:
        return self.store.verify(release.manifest, progress)

    def _open(self, uri: str, base: Path, *, allow_pickle: bool) -> weights.Source:
        return weights.open_source(weights.parse(uri, base), self._access, allow_pickle)


def _state(stored: Stored) -> WeightsState:
    if not Path(stored.path).is_dir():
        raise ConfigError(f"{stored.path} vanished", next="run the same command again")
    return WeightsState(stored.manifest_digest, str(stored.path), stored.size, stored.fetched_bytes, stored.seconds, changed=stored.changed)
