"""What all tests share: no deadline for properties (the machine may be busy), and an environment without anybody's settings."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("ours", deadline=None, max_examples=200)
settings.load_profile("ours")
