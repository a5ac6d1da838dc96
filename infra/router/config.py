"""haproxy.cfg, made from a few settings. A laptop and a pod differ only in the addresses that are bound.

What is said here and what is said in router.lua: this file has the order in which a request is looked at, the timeouts and the
counters; the Lua file has the table, the choice of a model, the holding and the refusals.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """What may differ between two routers.

    directory     where the router keeps `table.txt`; writable
    llm           address:port for clients
    admin         address:port for the controller
    lua           where router.lua lies
    token_sha256  file with the sha256 of the admin token; None: `admin.sha256` in the directory
    seed          file with the table to begin with where the directory has none, or an older one; None: it begins without
    bufsize       bytes of a body in which the model is looked for. Pages of a buffer cost nothing until they are written,
                  so 16 MiB (several images) costs an idle router 12 MiB in all
    maxconn       connections of clients at once
    threads       one is as fast as two up to about 2,000 requests/s; two keep the admin port quick
    large_bodies  requests over 1 MiB whose model is in the body, at once: each takes its size in memory, so 32 fit 1 GiB
    """

    directory: Path
    llm: str
    admin: str
    lua: Path
    token_sha256: Path | None = None
    seed: Path | None = None
    bufsize: int = 16 * MIB
    maxconn: int = 1000
    threads: int = 2
    large_bodies: int = 32

    @property
    def table(self) -> Path:
        """The file in which the router keeps the table, so that a restart changes nothing."""
        return self.directory / "table.txt"

    @property
    def token_file(self) -> Path:
        """The file from which the router knows its admin token."""
        return self.token_sha256 or self.directory / "admin.sha256"


def token_digest(token: str) -> str:
    """What belongs into `Settings.token_file`. The token itself is in no file and on no command line of the router."""
    return hashlib.sha256(token.encode()).hexdigest() + "\n"


def render(settings: Settings) -> str:
    """The whole configuration. The router is started with `haproxy -db -f FILE`."""
    return "\n\n".join((_process(settings), _defaults(), _counters(), _llm(settings), _admin(settings))) + "\n"


def _process(settings: Settings) -> str:
    return f"""\
global
  maxconn {settings.maxconn + 50}
  nbthread {settings.threads}
  tune.bufsize {settings.bufsize}
  hard-stop-after 20m
  lua-load {_path(settings.lua)} {_path(settings.table)} inflight{" " + _path(settings.seed) if settings.seed else ""}"""


def _defaults() -> str:
    # abortonclose: an engine hears of a client that left before the first token.
    # http-server-close: an engine that closes idle connections just when the next request comes loses it (154 of 3,255 measured).
    # 20 minutes: the longest gap between two tokens, and what a first answer may take.
    return f"""\
defaults
  mode http
  timeout http-request 30s
  timeout connect 3s
  timeout client 20m
  timeout server 20m
  timeout tunnel 20m
  timeout http-keep-alive 75s
  retries 3
  retry-on conn-failure
  option abortonclose
  option http-server-close
  option http-no-delay
  option clitcpka
  option srvtcpka
{_error(408, "request_timeout", "The request was not received in time.")}
{_error(502, "engine_failed", "The engine broke off or gave no answer.")}
{_error(503, "engine_unreachable", "The engine of this model cannot be reached.")}
{_error(504, "engine_timeout", "The engine did not answer in time.")}"""


def _error(status: int, code: str, message: str) -> str:
    body = json.dumps({"error": {"message": message, "type": "service_unavailable", "code": code, "param": None}})
    return f"  http-error status {status} content-type application/json string '{body}'"


def _counters() -> str:
    # Stick tables, because no Lua hook runs when a client aborts: these are the only counts that never drift.
    # gpc0 counts 5xx; HAProxy's own http_fail_cnt also counts every client that leaves in the middle of a stream.
    return """\
backend inflight
  stick-table type string len 128 size 4k store conn_cur,http_req_cnt,gpc0,bytes_out_cnt

backend large
  stick-table type string len 8 size 1k store conn_cur"""


def _llm(settings: Settings) -> str:
    return f"""\
listen llm
  bind {settings.llm}
  maxconn {settings.maxconn}
  http-after-response set-header x-llm-release %[var(txn.release)] if {{ var(txn.release) -m found }}
  http-after-response sc-inc-gpc0(0) if {{ var(txn.release) -m found }} {{ status 500:599 }}
  http-request use-service lua.health if {{ path /health }}
  acl key_ok lua.key_ok -m int 1
  http-request lua.deny_key if !key_ok
  http-request use-service lua.refuse if {{ var(txn.deny) -m found }}
  http-request use-service lua.models if METH_GET {{ path /v1/models }} or METH_GET {{ path_beg /v1/models/ }} or METH_GET {{ path_reg ^/models/.+/v1/models$ }}
{_wait_for_body(settings)}
  http-request lua.choose
  http-request use-service lua.refuse if {{ var(txn.deny) -m found }}
  http-request lua.release
  http-request use-service lua.refuse if {{ var(txn.deny) -m found }} or !{{ var(txn.release) -m found }}
  http-request track-sc0 var(txn.release) table inflight
  http-request del-header authorization
  http-request del-header x-api-key
  http-request set-dst var(txn.ip)
  http-request set-dst-port var(txn.port)
  server release 0.0.0.0:0"""


def _wait_for_body(settings: Settings) -> str:
    # A body larger than the buffer is not waited for when header or path name the model: it passes on as it comes.
    return f"""\
  acl has_body req.body_size gt 0
  acl has_body req.hdr(transfer-encoding) -m found
  acl packed req.hdr(content-encoding) -m found
  acl named lua.named -m len gt 0
  acl larger req.body_size gt {settings.bufsize - 32768}
  acl costly req.body_size gt {MIB}
  acl costly req.hdr(transfer-encoding) -m found
  http-request set-var(txn.waited) bool(true) if has_body !packed !named or has_body !packed !larger
  http-request track-sc1 str(x) table large if {{ var(txn.waited) -m found }} costly
  http-request lua.deny_large if {{ sc1_conn_cur gt {settings.large_bodies} }}
  http-request use-service lua.refuse if {{ var(txn.deny) -m found }}
  http-request wait-for-body time 60s if {{ var(txn.waited) -m found }}"""


def _admin(settings: Settings) -> str:
    # X-Router-Token, because an API server in between keeps Authorization for itself.
    return f"""\
frontend admin
  bind {settings.admin}
  maxconn 50
  acl token_ok req.hdr(x-router-token),sha2(256),hex,lower -m str -f {_path(settings.token_file)}
  http-request return status 401 content-type application/json string '{{"error":"token"}}' if !token_ok
  http-request use-service prometheus-exporter if {{ path /metrics }}
  http-request use-service lua.admin"""


def _path(path: Path) -> str:
    return shlex.quote(str(path))
