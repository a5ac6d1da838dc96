"""From an image's reference to its digest, asked of a real registry."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from infra import loopback
from infra.errors import ConfigError, Denied, Transient
from infra.kubernetes import registry
from infra.kubernetes.registry import Login, Reference
from infra.waiting import Progress
from tests.doubles.router import free_ports

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
REGISTRY = shutil.which("docker-registry")
needs_registry = pytest.mark.skipif(REGISTRY is None, reason="no registry for tests: apt-get install docker-registry")
PASSWORDS = "deployer:$2b$05$abcdefghijklmnopqrstuu8xaCxxL82bnl.UY74PMksDxIJShppPC\n"
"""As htpasswd writes it: the password is `right`."""


@contextmanager
def serving(folder: Path, auth: str = "") -> Iterator[str]:
    """Debian's registry on loopback; its address without a scheme."""
    folder.mkdir(exist_ok=True)
    (port,) = free_ports(1)
    (folder / "config.yml").write_text(f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n{auth}")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(REGISTRY), "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        with loopback.client(30, f"http://127.0.0.1:{port}") as client:
            Progress(60).until(lambda: _answers(client), every=0.1)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def push(host: str, repository: str, tag: str, login: Login | None = None) -> str:
    """The smallest image that there is; its digest as the registry gave it."""
    headers = {"Authorization": login.header} if login else {}
    with loopback.client(30, f"http://{host}", headers) as client:
        config = b"{}"
        named = f"sha256:{hashlib.sha256(config).hexdigest()}"
        where = client.post(f"/v2/{repository}/blobs/uploads/").headers["Location"]
        assert client.put(f"{where}&digest={named}", content=config).status_code == 201
        body = {"schemaVersion": 2, "mediaType": MANIFEST, "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": named, "size": len(config)}, "layers": []}
        reply = client.put(f"/v2/{repository}/manifests/{tag}", content=json.dumps(body | {"annotations": {"tag": tag}}), headers={"Content-Type": MANIFEST})
    assert reply.status_code == 201, reply.text
    return str(reply.headers["Docker-Content-Digest"])


def _answers(client: httpx.Client) -> bool | None:
    try:
        return client.get("/v2/").status_code in (200, 401) or None
    except httpx.TransportError:
        return None


@pytest.mark.parametrize(
    ("text", "host", "repository", "tag"),
    [
        ("ubuntu", "docker.io", "library/ubuntu", "latest"),
        ("rayproject/ray-llm:2.5-py312", "docker.io", "rayproject/ray-llm", "2.5-py312"),
        ("docker.io/library/haproxy:2.8", "docker.io", "library/haproxy", "2.8"),
        ("localhost:5000/a/b/c:v1", "localhost:5000", "a/b/c", "v1"),
        ("registry.example.com/team/engine", "registry.example.com", "team/engine", "latest"),
        ("registry.example.com:5000/engine@sha256:" + "a" * 64, "registry.example.com:5000", "engine", ""),
    ],
)
def test_a_reference_is_read_as_docker_reads_it(text: str, host: str, repository: str, tag: str) -> None:
    """Host, repository and tag; what is deployed keeps the name that was written."""
    found = Reference.of(text)

    assert (found.host, found.repository, found.tag) == (host, repository, tag)
    assert found.at("sha256:" + "b" * 64) == text.partition("@")[0].removesuffix(f":{tag}" if text.endswith(f":{tag}") else "") + "@sha256:" + "b" * 64


def test_a_login_is_found_by_its_registry() -> None:
    """As docker writes its configuration: Docker Hub under its old address; a name and a password, or both in one."""
    both = base64.b64encode(b"me:pass:word").decode()
    config = {"auths": {"https://index.docker.io/v1/": {"auth": both}, "registry.example.com": {"username": "you", "password": "secret"}}}

    assert registry.login(config, "docker.io") == Login("me", "pass:word")
    assert registry.login(config, "registry.example.com") == Login("you", "secret")
    assert registry.login(config, "other.example.com") is None


@needs_registry
def test_a_tag_is_resolved_to_what_was_pushed(tmp_path: Path) -> None:
    """The digest that the registry itself gave; a tag that is not there is an error that says so, as is a registry that is down."""
    with serving(tmp_path / "r") as host:
        pushed = push(host, "team/engine", "v1")
        other = push(host, "team/engine", "v2")

        assert registry.digest(Reference.of(f"{host}/team/engine:v1"), None) == pushed != other
        with pytest.raises(ConfigError, match="there is no image"):
            registry.digest(Reference.of(f"{host}/team/engine:v3"), None)
    with pytest.raises(Transient, match="does not answer"):
        registry.digest(Reference.of(f"{host}/team/engine:v1"), None)


@needs_registry
def test_a_registry_that_wants_a_password_gets_the_one_of_the_pull_secret(tmp_path: Path) -> None:
    """Without one, and with a wrong one: what to set. The password is in no text."""
    (tmp_path / "htpasswd").write_text(PASSWORDS)
    with serving(tmp_path / "r", f"auth: {{htpasswd: {{realm: tests, path: {tmp_path}/htpasswd}}}}\n") as host:
        pushed = push(host, "engine", "v1", Login("deployer", "right"))

        assert registry.digest(Reference.of(f"{host}/engine:v1"), Login("deployer", "right")) == pushed
        for login in (None, Login("deployer", "wr0ng-one")):
            with pytest.raises(Denied) as told:
                registry.digest(Reference.of(f"{host}/engine:v1"), login)
            assert "image_pull_secret" in (told.value.problem.next or "")
            assert "wr0ng-one" not in told.value.problem.text()


class Guarded:
    """A registry with a guard of its own, as Docker Hub has: strict, and keeps what it was asked."""

    BODY = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST}).encode()

    def __init__(self) -> None:
        self.tokens: list[tuple[str, str]] = []
        self.lie = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.realm = f"http://{self.host}/token"

    def __enter__(self) -> Guarded:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        url, permit = urlsplit(request.path), request.headers.get("Authorization", "")
        if url.path == "/token":
            query = parse_qs(url.query)
            self.tokens.append((query["scope"][0], permit))
            wanted = Login("deployer", "right").header
            self.reply(request, 200, json.dumps({"token": "whole" if permit == wanted else "guest"}).encode())
        elif permit != "Bearer whole" and not (permit == "Bearer guest" and "/public/" in url.path):
            scope = f"repository:{url.path.split('/manifests')[0].removeprefix('/v2/')}:pull"
            asked = f'Bearer realm="{self.realm}",service="tests",scope="{scope}"'
            self.reply(request, 401, b'{"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}', {"WWW-Authenticate": asked})
        else:
            digest = "sha256:" + (hashlib.sha256(self.BODY).hexdigest() if not self.lie else "0" * 64)
            self.reply(request, 200, self.BODY, {"Docker-Content-Digest": digest, "Content-Type": MANIFEST})

    @staticmethod
    def reply(request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        request.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            request.send_header(key, value)
        request.end_headers()
        request.wfile.write(body)


def test_a_token_is_fetched_where_the_registry_says() -> None:
    """As a guest for what is public; with the login for what is not; refused where that is not enough."""
    right = "sha256:" + hashlib.sha256(Guarded.BODY).hexdigest()
    with Guarded() as guarded:
        public, private = Reference.of(f"{guarded.host}/public/engine:v1"), Reference.of(f"{guarded.host}/team/engine:v1")

        assert registry.digest(public, None) == right
        assert registry.digest(private, Login("deployer", "right")) == right
        with pytest.raises(Denied, match="may not be read"):
            registry.digest(private, None)

    assert guarded.tokens == [("repository:public/engine:pull", ""), ("repository:team/engine:pull", Login("deployer", "right").header), ("repository:team/engine:pull", "")]


def test_no_login_is_sent_over_an_open_line_to_where_a_registry_points() -> None:
    """Only to this machine itself, or by TLS: else whoever answers for the registry is given the password."""
    with Guarded() as guarded:
        guarded.realm = "http://tokens.invalid/token"

        with pytest.raises(Denied, match="may not be read"):
            registry.digest(Reference.of(f"{guarded.host}/team/engine:v1"), Login("deployer", "right"))

    assert guarded.tokens == []


def test_a_digest_that_is_not_of_what_was_sent_is_not_believed() -> None:
    """A proxy that answers with another manifest must not decide what runs."""
    with Guarded() as guarded:
        guarded.lie = True

        with pytest.raises(Transient, match="another image than it sends"):
            registry.digest(Reference.of(f"{guarded.host}/public/engine:v1"), None)
