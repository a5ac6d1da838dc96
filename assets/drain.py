"""Draining: a release that gets no new requests goes on until it has answered what it took, but no longer than it declares (`release.drain_seconds`)."""

from __future__ import annotations

import time

from infra.errors import Transient
from infra.platform import Platform, Release
from infra.waiting import Progress

UNTOLD = 5
"""Readings in a row that nobody could tell, after which there is no router that still passes answers on. One may be a moment's failure."""


def drain(platform: Platform, release: Release, progress: Progress) -> float:
    """Waits until a release answers nobody, in two readings a second apart, or its `drain_seconds` are over. Returns the seconds."""
    if not platform.endpoint.counts:
        return drain_blindly(platform, release, progress)
    began, quiet, untold = time.monotonic(), 0, 0
    while quiet < 2 and untold < UNTOLD and time.monotonic() - began < release.spec.release.drain_seconds:
        count = platform.endpoint.in_flight(release.name)
        quiet = quiet + 1 if count == 0 else 0
        untold = untold + 1 if count is None else 0
        progress.phase("drain", f"{release.name}: {'nobody can tell how many are' if count is None else count} in flight")
        if quiet < 2 and untold < UNTOLD:
            progress.sleep(1.0)
    return round(time.monotonic() - began, 1)


LOOK_EVERY = 5.0
"""Seconds between two looks whether a release that drains unseen is still there at all."""


def drain_blindly(platform: Platform, release: Release, progress: Progress) -> float:
    """Waits all of `drain_seconds`, since nobody counts what it answers; less only where it is gone, or half of this step's time is over."""
    began, seconds = time.monotonic(), min(float(release.spec.release.drain_seconds), progress.left / 2)
    while (left := seconds - (time.monotonic() - began)) > 0 and there(platform, release):
        progress.phase("drain", f"{release.name}: what it still answers can not be seen, so it has its {seconds:.0f} s; {left:.0f} s are left")
        progress.sleep(min(LOOK_EVERY, left))
    return round(time.monotonic() - began, 1)


def there(platform: Platform, release: Release) -> bool:
    """Whether anything of it is on the platform; so too where that can not be told."""
    try:
        return any(state.release == release.name for state in platform.ray_service.running(release.model))
    except Transient:
        return True
