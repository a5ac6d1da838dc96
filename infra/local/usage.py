"""usage on this machine: what the router counted."""

from __future__ import annotations

from infra.usage import RouterUsage


class LocalUsage(RouterUsage):
    """`UsagePart` over the one router of the home."""
