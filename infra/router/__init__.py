"""The router: one stable OpenAI-compatible address in front of releases that come and go.

It is HAProxy with one Lua file. Nobody who uses this package sees either: a `Table` says where each model goes, `Router.push`
makes it so, `Router.state` tells what went through. `render(Settings(...))` is the configuration it is started with.
"""

from infra.router.binary import LUA, binary
from infra.router.client import Ack, ModelState, ReleaseState, Router, RouterState
from infra.router.config import Settings, render, token_digest
from infra.router.table import HOLD, Hold, Route, Table, Up, Waiting, WaitingState, parse

__all__ = [
    "HOLD",
    "LUA",
    "Ack",
    "Hold",
    "ModelState",
    "ReleaseState",
    "Route",
    "Router",
    "RouterState",
    "Settings",
    "Table",
    "Up",
    "Waiting",
    "WaitingState",
    "binary",
    "parse",
    "render",
    "token_digest",
]
