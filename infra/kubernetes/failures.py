"""What the API server's refusals mean in our words; and an answer that is still being read.

    401              Denied            who we are was not believed (Unbelieved, for the caller)
    403              Denied            we may not: which verb, which kind, where
    404              Absent            for the caller
    409              Conflict          somebody else was first
    410              Gone              the version to watch from is too old: list again
    400, 413, 422    ConfigError       the manifest is not one; so is a 500 that says that a field has the wrong type
    429, 5xx         Busy              later; with Retry-After where it is told
    no answer        Busy
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Self, TypeVar

import httpx

from infra.errors import ConfigError, Conflict, Denied, PipelineError, Transient, redact
from infra.kubernetes.kinds import Kind

T = TypeVar("T")

NOBODY = ("no endpoints available", "error trying to reach service")
"""What the API server says when it did ask, and nobody answered."""


REACH = "look whether the cluster is up and this machine reaches it: kubectl cluster-info"

UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"
"""Of OpenSSL, whatever is wrong with a certificate."""

SERVER = "look at the server of this context in the kubeconfig"

SILENCE = (
    (("NameResolutionError", "Failed to resolve"), "its name is not known on this machine", f"{SERVER}, and whether a VPN is needed"),
    (
        ("certificate has expired", "certificate is not yet valid"), "its certificate is not valid at this time: it has ended, or a clock is wrong",
        "compare the clocks (date -u); else have it renewed by whoever runs the cluster",
    ),
    (("Hostname mismatch", "IP address mismatch"), "its certificate is of another name than the kubeconfig calls it by", f"{SERVER}: is that a name which the certificate has?"),
    (
        (UNTRUSTED,), "its certificate is not of the authority that the kubeconfig names: it was made anew, or somebody else answers",
        "have the kubeconfig written anew by whoever runs the cluster",
    ),
    (("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"), "what listens there speaks no TLS", f"{SERVER}: another port, or http"),
    (("Connection refused",), "nobody listens there", REACH),
    (("unreachable", "No route to host"), "there is no way to it from this machine: a network or a VPN that is off", REACH),
    (("Connection reset", "RemoteDisconnected", "EOF occurred"), "what listens there hangs up: a balancer before a server that is down, or one that expects TLS", REACH),
    (("timed out",), "nothing came back in time: a firewall, a VPN that is off, or a server that hangs", REACH),
)  # fmt: skip
"""Why there is no answer, as far as the words of the connection tell: the words, the likely cause, what to do."""


class Absent(Transient):
    """There is no such object, or no such kind."""


class Gone(Transient):
    """The version to go on from is too old."""


class Busy(Transient):
    """No answer, or a server that can not answer now."""


class Unbelieved(Denied):
    """Our credentials do not count, or not any more."""


class Answer:
    """A response whose body is read by the caller; foreign errors while reading are mapped too."""

    def __init__(self, response: Any, what: str, server: str) -> None:
        self._response, self._what, self._server = response, what, server

    @property
    def date(self) -> str | None:
        """The server's clock, as the header says it."""
        return self._response.headers.get("Date")  # type: ignore[no-any-return]

    def read(self) -> bytes:
        return _guarded(lambda: bytes(self._response.read()), self._what, self._server)

    def piece(self) -> bytes | None:
        """What came next; empty at the end, None when nothing came within the read timeout."""
        from urllib3.exceptions import ReadTimeoutError

        try:
            return _guarded(lambda: bytes(self._response.read1(1 << 16)), self._what, self._server)
        except Busy as error:
            if isinstance(error.__cause__, ReadTimeoutError | TimeoutError):
                return None
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()


def of_the_server(answer: httpx.Response) -> bool:
    """Whether an answer that came through the proxy is a refusal of the API server's own: it is busy, say, and tells nothing of what lies behind."""
    return _told(answer) and not of_nobody(answer)


def of_nobody(answer: httpx.Response) -> bool:
    """Whether the API server did pass the request on, and nobody was there to answer it."""
    return _told(answer) and any(words in str(_status(answer.content).get("message")) for words in NOBODY)


def _told(answer: httpx.Response) -> bool:
    return not answer.is_success and _status(answer.content).get("kind") == "Status"


def answered(call: Callable[[], Any], what: str, server: str) -> Answer:
    """Makes the call; its answer when it was not refused."""
    return Answer(_guarded(call, what, server), what, server)


def events(call: Callable[[], Answer], kind: Kind) -> Iterator[tuple[str, dict[str, Any]] | None]:
    """The lines of a watch. Bookmarks say nothing to anybody and are left out."""
    with call() as answer:
        rest = b""
        while True:
            piece = answer.piece()
            if piece == b"":
                return
            if piece is None:
                yield None
                continue
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.strip():
                    yield from _event(json.loads(line), kind)


def _event(row: dict[str, Any], kind: Kind) -> Iterator[tuple[str, dict[str, Any]]]:
    item = row["object"]
    if row["type"] == "ERROR":
        raise _mapped(int(item.get("code", 500)), item, f"watch {kind.plural}", "the API server", None)
    if row["type"] != "BOOKMARK":
        yield row["type"], {"apiVersion": kind.api_version, "kind": kind.name, **item}


def _guarded(call: Callable[[], T], what: str, server: str) -> T:
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        return call()
    except ApiException as error:
        if not error.status:
            raise _silent(error, what, server) from error
        raise _mapped(int(error.status), _status(error.body), what, server, (error.headers or {}).get("Retry-After")) from error
    except (HTTPError, OSError) as error:
        raise _silent(error, what, server) from error
    except AttributeError as error:  # of a broken TLS the client makes an error without a body, and trips over that
        broken = error.__context__
        if not isinstance(broken, ApiException) or broken.status:
            raise
        raise _silent(broken, what, server) from broken


def _silent(error: Exception, what: str, server: str) -> Busy:
    words = f"{type(error).__name__}: {error}"
    likely, following = next(((likely, following) for signs, likely, following in SILENCE if any(sign in words for sign in signs)), ("", REACH))
    stands = "is not trusted" if UNTRUSTED in words else "does not answer"
    return Busy(f"the API server {server} {stands}", why=f"{f'{likely} ' if likely else ''}({what}: {redact(words)[:300]})", next=following)


def _status(body: Any) -> dict[str, Any]:
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")
    try:
        found = json.loads(text)
    except ValueError:
        return {"message": text[:300]}
    return found if isinstance(found, dict) else {"message": text[:300]}


def _mapped(status: int, told: dict[str, Any], what: str, server: str, after: str | None) -> PipelineError:
    why = redact(str(told.get("message") or f"status {status}"))
    if status == 401:
        return Unbelieved(f"{server} does not believe who we are", why=why, next="look at the user of this context: has its token or certificate expired?")
    if status == 403:
        return Denied(f"we may not do this: {what}", why=why, next="give this user the rights that `llm-pipeline doctor --rbac` prints")
    if status == 404:
        return Absent(f"nothing is there: {what}", why=why)
    if status == 409:
        return Conflict(f"somebody else was first: {what}", why=why, next="run the same command again")
    if status == 410:
        return Gone(f"too old: {what}", why=why)
    if status in (400, 413, 415, 422) or "typed patch object" in why:  # a field of the wrong type is a 500 in a server-side apply
        return ConfigError(f"the API server refuses it: {what}", why=why, next="llm-pipeline generate MODEL prints what is sent")
    busy = Busy(f"the API server can not do it now ({status}): {what}", why=why, next="run the same command again")
    busy.retry_after = float(after) if after and after.isdigit() else None
    return busy
