"""What a model costs at this moment: everything of it that is there, the live release, a candidate beside it, what is left of another."""

from __future__ import annotations

from infra.decisions import Decisions
from infra.errors import PipelineError
from infra.platform import Platform, Pricing, Release
from infra.situation import Situation


def per_hour(seen: Situation, platform: Platform) -> float | None:
    """USD; None: not known. A model that sleeps where its nodes stay costs what it would if it ran: they wait for it, and are paid for."""
    prices = platform.prices
    if prices is None or seen.service_unknown:
        return None
    there = [_release(state.release, seen, platform) for state in (*([seen.service] if seen.service else []), *seen.others)]
    each = [prices.now(release) if release else None for release in there]
    known = [usd for usd in each if usd is not None]
    if len(known) < len(each):
        return None
    return round(sum(known), 6) or (_asleep(seen, prices) if seen.asleep and seen.wanted else 0.0)


def unknown(seen: Situation, platform: Platform) -> str:
    """Why `per_hour` is None."""
    prices = platform.prices
    if prices is None or seen.service_unknown:
        return seen.service_unknown or f"nothing is known of prices on {platform.name}"
    for state in (*([seen.service] if seen.service else []), *seen.others):
        release = _release(state.release, seen, platform)
        if release is None:
            return f"no record tells what {state.release} is"
        if prices.now(release) is None:
            return prices.why(release)
    asleep = prices.why(seen.live.release) if seen.live else ""
    return asleep or "whether its nodes went when it fell asleep was not written down"


def _asleep(seen: Situation, prices: Pricing) -> float | None:
    """Nothing of it runs. Whether its nodes went was written down when it fell asleep; not so by earlier versions."""
    freed = seen.asleep.freed_usd if seen.asleep else None
    if freed:
        return 0.0
    usd = prices.per_hour(seen.live.release) if seen.live else None
    return usd if freed is not None or usd == 0.0 else None


def _release(name: str, seen: Situation, platform: Platform) -> Release | None:
    """Of this name on the platform. None: no record knows it, or this version can not read it."""
    try:
        known = seen.live.release if seen.live else None
        found = next((one for one in (known, seen.desired) if one and one.name == name), None)
        record = None if found else Decisions(platform.records, seen.model).release(name.rsplit("-", 1)[-1])
        return found or (record.release if record else None)
    except PipelineError:
        return None
