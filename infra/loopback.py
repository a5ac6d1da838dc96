"""HTTP to what runs here: no proxy of the environment, no TLS."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx

NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts no certificate at all. To read the machine's own for each client would take 30 ms, and no answer of ours comes over TLS."""


def client(timeout: float, base: str = "", headers: Mapping[str, str] | None = None) -> httpx.Client:
    """A client for plain HTTP; `timeout` in seconds for each single wait, `base` what its paths are appended to, `headers` what it always sends."""
    return httpx.Client(trust_env=False, timeout=timeout, verify=NOBODY, base_url=base, headers=headers)


def here(url: str) -> bool:
    """Whether this address is on this machine: a proxy of the environment stands between us and the world, never between us and ourselves."""
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")
