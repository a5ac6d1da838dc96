"""usage on a cluster: what all pods of the router counted, in sum. Without a router nothing is counted, and so nothing is idle."""

from __future__ import annotations

from infra.usage import RouterUsage


class KubernetesUsage(RouterUsage):
    """`UsagePart` over every pod of the router: when one can not be asked, nothing can be told."""
