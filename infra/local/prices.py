"""prices of this machine: nothing is rented for a model, and nothing is given back when it sleeps."""

from __future__ import annotations

from infra.idle import Rung
from infra.platform import Release


class LocalPricing:
    """`Pricing`: what the machine itself costs, it costs whatever runs on it."""

    def per_hour(self, release: Release) -> float | None:
        return 0.0

    def why(self, release: Release) -> str:
        return ""

    def now(self, release: Release) -> float | None:
        return 0.0

    def freed(self, release: Release, rung: Rung) -> float | None:
        return 0.0
