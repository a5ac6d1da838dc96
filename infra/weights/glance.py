"""Glance: what a source says of itself for next to nothing, so that a look at everything is taken only when something moved.

    hf://     one request with If-None-Match; a fixed commit is never asked about
    s3://     one listing, compared by its ETags
    file://   one `stat` per file; no byte is read

A host that limits our rate is asked by nobody before the time that it named: one model's 429 is everybody's.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from infra.errors import Transient


@dataclass(frozen=True)
class Glance:
    """Equal `of` and `mark`: nothing moved.

    of     what was asked: the address, and what else decides which files count
    mark   the source's word: a commit, a hash over ETags, a hash over sizes and times of change
    hint   what the source wants to be shown the next time, so that it need not say the same again
    """

    of: str
    mark: str
    hint: str = ""

    def same(self, other: Glance | None) -> bool:
        """Whether nothing moved between the two."""
        return other is not None and (self.of, self.mark) == (other.of, other.mark)


class Rests:
    """Until when each host wants to be left alone, for all threads of this process."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._lock = threading.Lock()

    def ask_for(self, address: str, seconds: float) -> None:
        """The host named a time; the longest of several counts."""
        host, until = urlsplit(address).netloc, time.monotonic() + seconds
        with self._lock:
            self._until[host] = max(until, self._until.get(host, 0.0))

    def check(self, address: str, uri: str) -> None:
        """Raises Transient while the host rests."""
        host = urlsplit(address).netloc
        with self._lock:
            left = self._until.get(host, 0.0) - time.monotonic()
        if left > 0:
            error = Transient(
                f"{uri} is not asked for {left:.0f} s",
                why=f"{host} limits our rate, and named a time; no model asks it before",
                next="wait; a token (HF_TOKEN) has higher limits",
            )
            error.retry_after = left
            raise error


RESTS = Rests()
