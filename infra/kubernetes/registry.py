"""Registries: from an image's reference to its digest, by the API that all of them speak (OCI distribution specification, 1.1).

    GET /v2/<repository>/manifests/<tag>     200 with Docker-Content-Digest
                                             401 with WWW-Authenticate: Basic, or Bearer with a realm that gives a token

A digest is never made up: what the registry says is compared with the hash of the manifest that it sends.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from infra.errors import ConfigError, Denied, PipelineError, Transient
from infra.loopback import here

HUB, HUB_API = "docker.io", "registry-1.docker.io"
"""Docker Hub answers elsewhere than it is called."""

MANIFESTS = (
    "application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json",
)  # fmt: skip
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
SECONDS = 15.0
LARGEST = 4 << 20
"""Bytes of a manifest: registries themselves refuse larger ones."""


@dataclass(frozen=True)
class Reference:
    """An image by name. `name`: as it was written, without tag and digest."""

    name: str
    host: str
    repository: str
    tag: str
    digest: str

    @classmethod
    def of(cls, text: str) -> Reference:
        """`ubuntu`, `team/image:tag`, `registry.example.com:5000/team/image@sha256:…`; without either the tag `latest`."""
        rest, _, digest = text.partition("@")
        name, colon, tag = rest.rpartition(":")
        if not colon or "/" in tag:
            name, tag = rest, ""
        first, slash, path = name.partition("/")
        named = bool(slash) and ("." in first or ":" in first or first == "localhost")
        host, repository = (first, path) if named else (HUB, name)
        if host in (HUB, "index.docker.io"):
            host, repository = HUB, repository if "/" in repository else f"library/{repository}"
        if digest and not DIGEST.fullmatch(digest):
            raise ConfigError(f"{text} is not an image's reference", why=f"{digest} is not a sha256 digest", next="write sha256: and 64 hex digits after the @")
        return cls(name, host, repository, tag or ("" if digest else "latest"), digest)

    def at(self, digest: str) -> str:
        """The same image by this digest, as it is deployed."""
        return f"{self.name}@{digest}"


@dataclass(frozen=True)
class Login:
    """Name and password for one registry."""

    name: str
    password: str

    @property
    def header(self) -> str:
        return "Basic " + base64.b64encode(f"{self.name}:{self.password}".encode()).decode()


def digest(reference: Reference, login: Login | None) -> str:
    """Asks the registry. Raises ConfigError for what is not there, Denied for what may not be read, Transient for the rest."""
    return _proved(reference, _fetch(reference, f"manifests/{reference.tag}", login))


def labels(reference: Reference, digest: str, login: Login | None) -> dict[str, str]:
    """Those of the image with this digest; of an index, of the first of its images. Raises as `digest`."""
    manifest = _document(_fetch(reference, f"manifests/{digest}", login).content)
    if listed := [row["digest"] for row in manifest.get("manifests") or () if (row.get("platform") or {}).get("os") != "unknown"]:
        manifest = _document(_fetch(reference, f"manifests/{listed[0]}", login).content)
    config = (manifest.get("config") or {}).get("digest")
    found = _document(_fetch(reference, f"blobs/{config}", login).content) if config else {}
    return {str(key): str(value) for key, value in ((found.get("config") or {}).get("Labels") or {}).items()}


def login(config: Mapping[str, Any], host: str) -> Login | None:
    """What a `.dockerconfigjson` says for a registry; None: nothing."""
    for key, row in (config.get("auths") or {}).items():
        name = urlsplit(key if "//" in key else f"//{key}").netloc
        if (HUB if name in ("index.docker.io", HUB_API) else name) != host:
            continue
        if auth := row.get("auth"):
            user, _, password = base64.b64decode(auth).decode().partition(":")
            return Login(user, password)
        return Login(str(row.get("username", "")), str(row.get("password", "")))
    return None


# ------------------------------------------------ private


def _fetch(reference: Reference, what: str, login: Login | None) -> httpx.Response:
    """One document of a repository, with whatever the registry wants to see first."""
    base = f"{'http' if here(f'//{reference.host}') else 'https'}://{HUB_API if reference.host == HUB else reference.host}"
    url = f"{base}/v2/{reference.repository}/{what}"
    try:
        with httpx.Client(timeout=SECONDS, follow_redirects=True, trust_env=not here(base)) as client:
            reply = _manifest(client, url, "")
            if reply.status_code == 401:
                reply = _manifest(client, url, _permit(client, reference, reply, login))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Transient(
            f"the registry {reference.host} does not answer", why=f"{type(error).__name__}: {error}",
            next=f"look whether this machine reaches it; or name {reference.name} by its digest, which needs no registry",
        ) from error  # fmt: skip
    if reply.status_code != 200:
        raise _refusal(reference, reply, login)
    return reply


def _manifest(client: httpx.Client, url: str, permit: str) -> httpx.Response:
    headers = {"Accept": ", ".join(MANIFESTS), **({"Authorization": permit} if permit else {})}
    with client.stream("GET", url, headers=headers) as reply:
        body = b""
        for block in reply.iter_bytes():
            body += block
            if len(body) > LARGEST:
                raise httpx.DecodingError("the manifest is larger than one can be")
    return httpx.Response(reply.status_code, headers=_plain(reply.headers), content=body)


def _plain(headers: httpx.Headers) -> list[tuple[str, str]]:
    """Without what speaks of the body's way here: it is decoded already."""
    return [(key, value) for key, value in headers.multi_items() if key.lower() not in ("content-encoding", "content-length", "transfer-encoding")]


def _permit(client: httpx.Client, reference: Reference, reply: httpx.Response, login: Login | None) -> str:
    """The Authorization that the registry asks for."""
    asked = reply.headers.get("WWW-Authenticate", "")
    if asked.lower().startswith("basic"):
        if login is None:
            raise _refusal(reference, reply, None)
        return login.header
    said = dict(re.findall(r'(\w+)="([^"]*)"', asked))
    realm = said.get("realm", "")
    if not (realm.startswith("https://") or here(realm)):
        raise _refusal(reference, reply, login)
    query = {key: said[key] for key in ("service", "scope") if key in said}
    told = client.get(realm, params=query, headers={"Authorization": login.header} if login else {})
    if told.status_code != 200:
        raise _refusal(reference, told, login)
    found = _document(told.content)
    token = found.get("token") or found.get("access_token")
    if not token:
        raise _refusal(reference, reply, login)
    return f"Bearer {token}"


def _proved(reference: Reference, reply: httpx.Response) -> str:
    found = f"sha256:{hashlib.sha256(reply.content).hexdigest()}"
    said = reply.headers.get("Docker-Content-Digest")
    if said not in (None, found) or not isinstance(_document(reply.content).get("schemaVersion"), int):
        raise Transient(
            f"the registry {reference.host} tells of another image than it sends", why=f"it says {said}, and what it sends is {found}",
            next="suspect a proxy between here and the registry; or name the image by its digest",
        )  # fmt: skip
    return found


def _refusal(reference: Reference, reply: httpx.Response, login: Login | None) -> PipelineError:
    rows = _document(reply.content).get("errors")
    told = "; ".join(str(row.get("message") or row.get("code")) for row in rows if isinstance(row, dict)) if isinstance(rows, list) else ""
    why = f"{reference.host}: status {reply.status_code}{': ' + told if told else ''}"
    shown = f"{reference.name}:{reference.tag}"
    if reply.status_code in (401, 403):
        seen = "the login of kubernetes.image_pull_secret is not enough" if login else "no login was shown, and strangers see private images as if they did not exist"
        return Denied(f"{shown} may not be read", why=f"{why}; {seen}", next="set kubernetes.image_pull_secret to a Secret whose login may pull it; or correct image")
    if reply.status_code == 404:
        return ConfigError(f"there is no image {shown}", why=why, next="correct image: it names a registry, a repository and a tag that exist")
    busy = Transient(f"the registry {reference.host} does not tell of {shown}", why=why, next="run the same command again; a digest in image needs no registry")
    after = reply.headers.get("Retry-After", "")
    busy.retry_after = float(after) if after.isdigit() else None
    return busy


def _document(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
