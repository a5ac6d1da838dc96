"""What all tests share: no deadline for properties (the machine may be busy), and an environment without anybody's settings."""

from __future__ import annotations

from hypothesis import settings

pytest_plugins = ("tests.kubernetes.fixtures",)

settings.register_profile("ours", deadline=None)
settings.load_profile("ours")
