"""The API server, thinly: objects are plain dicts, every call has a timeout, every refusal is one of our errors.

Reading, applying and deleting are repeated when a connection breaks or the server is busy, since doing them twice is doing them once. Creating
and replacing are not: whether the first try counted is for the caller to find out. Whoever is not believed any more reads the kubeconfig once
again: tokens in files and those of plugins are changed by others.

    with Api.open(kubeconfig, context) as api:
        api.apply(manifest)
        api.until(kinds.POD, "llm", lambda pods: ready(pods), progress, labels="app.kubernetes.io/name=demo")
"""

from __future__ import annotations

import hashlib
import json
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

from infra import clocks
from infra.errors import ConfigError, Conflict, Timeout
from infra.kubernetes import failures, kinds, kubeconfig
from infra.kubernetes.failures import Gone
from infra.kubernetes.kinds import Kind
from infra.waiting import Progress, retry

T = TypeVar("T")
Object = dict[str, Any]

MANAGER = "llm-pipeline"
"""Our name as a field manager: what we apply is ours, what others set beside it stays."""

CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 20.0
WATCH_SECONDS = 20
"""One watch; then it is opened again. Also the longest that a stop waits for a quiet cluster is far below: events are asked for second by second."""

PAGE = 500

PLAIN, LIGHT = "application/json", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
"""Content types: whole objects, and only their metadata."""


@dataclass(frozen=True)
class Listing:
    """What a list showed, and the version from which a watch goes on."""

    items: tuple[Object, ...]
    version: str


class Api:
    """One context of one kubeconfig. Made by `open`; safe to share between threads."""

    def __init__(self, load: Callable[[], Any], context: str) -> None:
        self._load, self._client, self.context = load, load(), context
        self._renewing = threading.Lock()

    @classmethod
    def open(cls, kubeconfig: str, context: str) -> Self:
        """Reads the kubeconfig (several, apart by a colon, count as one); asks nobody yet. A context that is not in it is an error that names those that are."""
        return cls(lambda: _client(str(kubeconfig), context), context)

    # ------------------------------------------------ who it is

    @property
    def server(self) -> str:
        return str(self._client.configuration.host)

    @property
    def ca_hash(self) -> str:
        """16 hex digits of the hash of the certificate authority that we trust for it; `none` where the system's are trusted."""
        path = self._client.configuration.ssl_ca_cert
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16] if path else "none"

    def version(self) -> str:
        """Of the server, as `v1.35.4`."""
        return str(self._again(lambda: self.call("GET", "/version"))["gitVersion"])

    def ahead(self) -> float | None:
        """Seconds by which the server's clock is ahead of ours; None when it does not say. Asked once."""
        asked = time.time()
        with self._raw("GET", "/version", read=CONNECT_SECONDS) as answer:
            answer.read()
            return clocks.ahead(answer.date, asked, time.time())

    def serves(self, kind: Kind) -> bool:
        """Whether the server knows this kind."""
        try:
            found = self._again(lambda: self.call("GET", kind.root))
        except failures.Absent:
            return False
        return any(row["name"] == kind.plural for row in found["resources"])

    def allowed(self, verb: str, kind: Kind, namespace: str | None = None, sub: str = "", name: str = "") -> bool:
        """Whether we may do this (to the one of this name, to any), as the server says."""
        what = {"verb": verb, "group": kind.group, "resource": kind.plural, "subresource": sub, "namespace": namespace or "", "name": name}
        review = {"apiVersion": kinds.REVIEW.api_version, "kind": kinds.REVIEW.name, "spec": {"resourceAttributes": what}}
        return bool(self._again(lambda: self.call("POST", kinds.REVIEW.path(), body=review))["status"]["allowed"])

    def rules(self, namespace: str) -> tuple[Object, ...]:
        """What we may do in this namespace, as far as the server can list it."""
        review = {"apiVersion": kinds.RULES.api_version, "kind": kinds.RULES.name, "spec": {"namespace": namespace}}
        return tuple(self._again(lambda: self.call("POST", kinds.RULES.path(), body=review))["status"]["resourceRules"])

    # ------------------------------------------------ reading

    def get(self, kind: Kind, name: str, namespace: str | None = None) -> Object | None:
        """The object, or None."""
        try:
            return self._again(lambda: self.call("GET", kind.path(namespace, name)))
        except failures.Absent:
            return None

    def glance(self, kind: Kind, name: str, namespace: str | None = None, *, seconds: float | None = None) -> Object | None:
        """As `get`, asked once: a server that is away is told of within `seconds`; None: within CONNECT_SECONDS."""
        wait = CONNECT_SECONDS if seconds is None else seconds
        try:
            with self._raw("GET", kind.path(namespace, name), read=wait, connect=wait) as answer:
                found: Object = json.loads(answer.read())
                return found
        except failures.Absent:
            return None

    def list(self, kind: Kind, namespace: str | None = None, labels: str = "", fields: str = "", *, light: bool = False) -> Listing:
        """Every object, page by page; `light`: only its metadata. A kind that the server does not know has none."""
        items: list[Object] = []
        query: dict[str, Any] = {"limit": PAGE, "labelSelector": labels, "fieldSelector": fields}
        try:
            while True:
                page = self._again(lambda: self.call("GET", kind.path(namespace), query, accept=LIGHT if light else PLAIN))
                items += [{"apiVersion": kind.api_version, "kind": kind.name, **item} for item in page["items"] or ()]
                query["continue"] = page["metadata"].get("continue", "")
                if not query["continue"]:
                    return Listing(tuple(items), page["metadata"]["resourceVersion"])
        except failures.Absent:
            return Listing((), "")

    def watch(self, kind: Kind, namespace: str | None, since: str, labels: str = "", fields: str = "", seconds: int = WATCH_SECONDS) -> Iterator[tuple[str, Object] | None]:
        """Changes since that version: ADDED, MODIFIED or DELETED with the object. None about once a second while nothing changes. Raises `Gone`."""
        query = {"watch": "true", "resourceVersion": since, "labelSelector": labels, "fieldSelector": fields, "timeoutSeconds": seconds, "allowWatchBookmarks": "true"}
        yield from failures.events(lambda: self._raw("GET", kind.path(namespace), query, read=1.0), kind)

    def until(self, kind: Kind, namespace: str | None, probe: Callable[[Sequence[Object]], T | None], progress: Progress, labels: str = "", fields: str = "") -> T:
        """Lists, then watches, until `probe` answers something other than None. A version that is too old, a lost watch, or a server that is away for a while: lists again."""
        while True:
            try:
                listing = self.list(kind, namespace, labels, fields)
                now = {item["metadata"]["uid"]: item for item in listing.items}
                found = probe(tuple(now.values()))
                if found is not None:
                    return found
                progress.check()
                for event in self.watch(kind, namespace, listing.version, labels, fields):
                    progress.check()
                    if event is not None:
                        what, item = event
                        uid = item["metadata"]["uid"]
                        now = {k: v for k, v in now.items() if k != uid} | ({} if what == "DELETED" else {uid: item})
                    found = probe(tuple(now.values()))
                    if found is not None:
                        return found
            except Gone:
                progress.sleep(1)
            except failures.Busy as error:
                progress.phase(progress.phases[-1].name if progress.phases else "watch", str(error).splitlines()[0])
                progress.sleep(1)

    def log(self, namespace: str, pod: str, container: str = "", *, previous: bool = False, lines: int = 200) -> str:
        """The last lines of a container; empty when there are none to be had (not started, or gone)."""
        query = {"container": container, "previous": "true" if previous else "", "tailLines": lines}

        def read() -> str:
            with self._raw("GET", kinds.POD.path(namespace, pod, "log"), query) as answer:
                return answer.read().decode(errors="replace")

        try:
            return self._again(read)
        except (failures.Absent, ConfigError):
            return ""

    # ------------------------------------------------ changing

    def apply(self, manifest: Object, *, dry: bool = False) -> Object:
        """Server-side apply in our name: what the manifest says is so afterwards, what others set beside it stays. `dry`: what would come of it; nothing is changed."""
        kind, meta = kind_of(manifest), manifest["metadata"]
        query = {"fieldManager": MANAGER, "force": "true", "dryRun": "All" if dry else ""}
        path = kind.path(meta.get("namespace"), meta["name"])
        return self._again(lambda: self.call("PATCH", path, query, manifest, content="application/apply-patch+yaml"), Conflict)

    def create(self, manifest: Object) -> Object:
        """Makes it; `Conflict` when there is one of that name."""
        return self.call("POST", kind_of(manifest).path(manifest["metadata"].get("namespace")), {"fieldManager": MANAGER}, manifest)

    def replace(self, manifest: Object) -> Object:
        """Writes the whole object; `Conflict` when it is not the version that `manifest` names."""
        meta = manifest["metadata"]
        return self.call("PUT", kind_of(manifest).path(meta.get("namespace"), meta["name"]), {"fieldManager": MANAGER}, manifest)

    def merge(self, kind: Kind, name: str, namespace: str | None, patch: Object) -> Object:
        """A merge patch."""
        return self._again(lambda: self.call("PATCH", kind.path(namespace, name), {"fieldManager": MANAGER}, patch, content="application/merge-patch+json"), Conflict)

    def delete(
        self, kind: Kind, name: str, namespace: str | None = None, *, uid: str = "", version: str = "", grace: int | None = None, foreground: bool = False
    ) -> bool:
        """Asks for its end; False when it is gone already. `uid`: only this very object; `version`: only as it was then; else `Conflict`."""
        body: Object = {"propagationPolicy": "Foreground" if foreground else "Background"}
        only = {"uid": uid, "resourceVersion": version}
        if uid or version:
            body["preconditions"] = {key: value for key, value in only.items() if value}
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        try:
            self._again(lambda: self.call("DELETE", kind.path(namespace, name), body=body))
        except failures.Absent:
            return False
        return True

    # ------------------------------------------------ through it, to a pod or a service

    def proxy(self, kind: Kind, namespace: str, name: str, port: int | str, timeout: float, headers: Mapping[str, str] | None = None) -> httpx.Client:
        """HTTP to a pod or a service, through the API server. `Authorization` is the server's own: what lies behind it never sees one."""
        base = self.server + kind.path(namespace, f"{name}:{port}", "proxy")
        return httpx.Client(base_url=base, verify=self._trust(), auth=Signed(self), headers=headers, timeout=timeout, trust_env=False)

    # ------------------------------------------------ the call itself

    def call(
        self, method: str, path: str, query: Mapping[str, Any] | None = None, body: Object | None = None, content: str = PLAIN, accept: str = PLAIN
    ) -> Object:
        """One request and its JSON answer."""
        with self._raw(method, path, query, body, content, accept=accept) as answer:
            found: Object = json.loads(answer.read())
        return found

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------ private

    def _raw(
        self, method: str, path: str, query: Mapping[str, Any] | None = None, body: Object | None = None, content: str = PLAIN, read: float = ANSWER_SECONDS,
        accept: str = PLAIN, connect: float | None = None,
    ) -> failures.Answer:  # fmt: skip
        given = [(key, value) for key, value in (query or {}).items() if value not in (None, "")]
        headers = {"Accept": accept, "Content-Type": content}

        def ask(client: Any) -> failures.Answer:
            return failures.answered(
                lambda: client.call_api(
                    path, method, query_params=given, header_params=headers, body=body, auth_settings=["BearerToken"],
                    _preload_content=False, _request_timeout=(CONNECT_SECONDS if connect is None else connect, read),
                ),
                f"{method} {path}", self.server,
            )  # fmt: skip

        client = self._client
        try:
            return ask(client)
        except failures.Unbelieved:
            if not self.renew(client):
                raise
            return ask(self._client)

    @staticmethod
    def _again(call: Callable[[], T], *more: type[Exception]) -> T:
        try:
            return retry(call, attempts=4, pause=0.5, on=(failures.Busy, *more), progress=Progress(30))
        except Timeout as error:  # of these tries alone: whoever waits for something else goes on
            raise failures.Busy("the API server answers too slowly", why=error.problem.why, next="run the same command again when it is less busy") from error

    def renew(self, refused: Any) -> bool:
        """Reads the kubeconfig again after the server did not believe this client; whether we have other credentials now."""
        with self._renewing:
            if self._client is refused:
                try:
                    fresh = self._load()
                except ConfigError:  # written anew at this very moment, or gone: the refusal is the better word
                    return False
                if _credentials(fresh) in ("", _credentials(refused)):
                    return False
                self._client = fresh
        return True

    def _trust(self) -> ssl.SSLContext:
        ours = self._client.configuration
        if not self.server.startswith("https"):
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context = ssl.create_default_context(cafile=ours.ssl_ca_cert)
        if not ours.verify_ssl:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if ours.cert_file:
            context.load_cert_chain(ours.cert_file, ours.key_file)
        return context

    def _sign(self, request: httpx.Request) -> httpx.Request:
        """The kubeconfig's token, asked for each time: an exec plugin's expires."""
        if told := _credentials(self._client):
            request.headers["Authorization"] = told
        return request


class Signed(httpx.Auth):
    """Requests in the name of an `Api`: where it is not believed any more, once again with what its kubeconfig has by now."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        client = self._api._client
        answer = yield self._api._sign(request)
        if answer.status_code == 401 and self._api.renew(client):
            yield self._api._sign(request)


def kind_of(manifest: Object) -> Kind:
    """The kind that a manifest names."""
    return kinds.KINDS[manifest["apiVersion"], manifest["kind"]]


def _client(path: str, context: str) -> Any:
    """The client for one context of a kubeconfig. ConfigError for what can not be read, and for a context that is not there."""
    from kubernetes import config
    from kubernetes.config.config_exception import ConfigException
    from urllib3.exceptions import InsecureRequestWarning

    try:
        known = kubeconfig.names(path)
        if context not in known:
            raise ConfigError(
                f"there is no context {context} in {path}", why=f"it has {', '.join(known) or 'none'}",
                next="name one of them as kubernetes.context; the current one is never taken by itself",
            )  # fmt: skip
        client = config.new_client_from_config(config_file=path, context=context)
    except (ConfigException, OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} can not be used", why=f"{type(error).__name__}: {error}", next=f"kubectl --kubeconfig {path} config view") from error
    if not client.configuration.verify_ssl:
        warnings.simplefilter("ignore", InsecureRequestWarning)  # the kubeconfig says so: three lines at each request tell nobody anything
    client.user_agent = MANAGER  # as a header of a request the client's own would win
    client.configuration.retries = False
    client.rest_client.pool_manager.connection_pool_kw["retries"] = False
    return client


def _credentials(client: Any) -> str:
    """The token that it shows; empty where it has a certificate, or nothing."""
    return str((client.configuration.auth_settings().get("BearerToken") or {}).get("value") or "")
