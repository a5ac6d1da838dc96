"""`status` where clusters can not be asked at all: real sockets that refuse, are unknown, are somebody else, or believe nobody."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from infra import settings

MODELS = 3
"""On each cluster: whatever their number, the cluster is tried once."""

WHY = {
    "refused": ("nobody listens there", "kubectl cluster-info"),
    "nameless": ("its name is not known on this machine", "kubeconfig"),
    "stranger": ("its certificate is not of the authority that the kubeconfig names", "kubeconfig"),
    "hanging": ("nothing came back in time", "kubectl cluster-info"),
    "unbelieved": ("Unauthorized", "token or certificate"),
    "forbidden": ("forbidden", "doctor --rbac"),
}
"""Of each cluster: the likely cause, and what to do."""

ASKED: list[str] = []
"""Every request that reached one of them."""


class Refusing(BaseHTTPRequestHandler):
    """An API server that answers everything with one status; 0: never."""

    status, message = 0, ""

    def do_GET(self) -> None:
        ASKED.append(f"{self.message or self.status} {self.path}")
        if not self.status:
            threading.Event().wait(60)
            return
        body = json.dumps({"kind": "Status", "code": self.status, "message": self.message}).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


class Quiet(ThreadingHTTPServer):
    """Clients that hang up on it are what it is for."""

    daemon_threads, block_on_close = True, False

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@contextlib.contextmanager
def server(status: int, message: str = "", trust: ssl.SSLContext | None = None) -> Iterator[str]:
    """Where it listens."""
    made = Quiet(("127.0.0.1", 0), type("Handler", (Refusing,), {"status": status, "message": message}))
    if trust:
        made.socket = trust.wrap_socket(made.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"{'https' if trust else 'http'}://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


def authority(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for this machine, signed by itself, and its key."""
    key, who, now = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), datetime.now(UTC)
    made = x509.CertificateBuilder(who, who, key.public_key(), x509.random_serial_number(), now - timedelta(days=1), now + timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    files = folder / f"{name}.crt", folder / f"{name}.key"
    files[0].write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return files


def declare(root: Path, cluster: str, where: str, ca: Path) -> None:
    """A cluster and its models, and a kubeconfig that leads there."""
    there = {"server": where} | ({"certificate-authority": str(ca)} if where.startswith("https") else {})
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "there", "clusters": [{"name": "c", "cluster": there}], "users": [{"name": "u", "user": {"token": "a-token-of-nobody"}}],
        "contexts": [{"name": "there", "context": {"cluster": "c", "user": "u"}}],
    }  # fmt: skip
    (root / f"{cluster}.yaml").write_text(yaml.safe_dump(config))
    block = {"kubeconfig": str(root / f"{cluster}.yaml"), "context": "there", "namespace": "models"}
    rows: list[tuple[str, str, dict[str, Any]]] = [("Cluster", f"clusters/{cluster}", {"platform": "kubernetes", "kubernetes": block})]
    rows += [("Model", f"models/{cluster}{number}", {"cluster": cluster, "weights": "hf://org/name"}) for number in range(MODELS)]
    for kind, name, attributes in rows:
        (root / "assets" / name).mkdir(parents=True)
        (root / "assets" / name / "defs.yaml").write_text(yaml.safe_dump({"type": f"llm_pipeline.components.{kind}", "attributes": attributes}))


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A clone with a cluster of each kind."""
    (mine, key), (other, _) = (authority(tmp_path, name) for name in ("mine", "other"))
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trust.load_cert_chain(mine, key)
    ASKED.clear()
    with contextlib.ExitStack() as open_, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        where = {
            "refused": f"https://127.0.0.1:{closed.getsockname()[1]}", "nameless": "https://nobody.invalid:6443", "stranger": open_.enter_context(server(200, "", trust)),
            "hanging": open_.enter_context(server(0)), "unbelieved": open_.enter_context(server(401, "Unauthorized")),
            "forbidden": open_.enter_context(server(403, "it is forbidden")),
        }  # fmt: skip
        for name, address in where.items():
            declare(tmp_path, name, address, other)
        (tmp_path / "workspace.yaml").touch()
        yield tmp_path


def status(root: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The command, as a process of its own in that clone."""
    code = """
        import pathlib, sys, warnings
        warnings.simplefilter("ignore")
        from infra import settings
        settings.ROOT = pathlib.Path(sys.argv.pop(1))
        from llm_pipeline import cli
        cli.main()
    """
    env = {"HOME": str(root), "LLM_PIPELINE_HOME": str(root / "home"), "LLM_PIPELINE_DAGSTER_PORT": "9", "DAGSTER_HOME": str(root / "dagster"), "COLUMNS": "120"}
    argv = [sys.executable, "-c", textwrap.dedent(code), str(root), "status", *more]
    return subprocess.run(argv, cwd=settings.ROOT, capture_output=True, text=True, check=False, env=env)


def test_status_names_the_cluster_that_can_not_be_asked_and_tries_each_once(root: Path) -> None:
    """The first link of every model there is broken, with likely cause and next step; 1 as for whatever does not serve. No request for each model."""
    done = status(root, "--json")

    assert done.returncode == 1, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert {row["cluster"]: row["state"] for row in found["clusters"]} == dict.fromkeys(WHY, "failed")
    assert len(found["models"]) == MODELS * len(WHY)
    for row in found["models"]:
        why, following = WHY[row["cluster"]]
        assert why in f"{row['problem']['what']} {row['problem']['why']}", row
        assert following in row["problem"]["next"], row
        assert row["state"] == "failed"
        assert [(link["link"], link["holds"]) for link in row["chain"]][:2] == [("cluster", False), ("node", None)]
    assert sorted(ASKED) == ["0 /api/v1/namespaces/kube-system", "Unauthorized /api/v1/namespaces/kube-system", "it is forbidden /api/v1/namespaces/kube-system"]
    assert "a-token-of-nobody" not in done.stdout + done.stderr


def test_a_person_is_shown_the_link_and_what_to_do(tmp_path: Path) -> None:
    """Of the named model; one that nobody declares is an error of four parts, and not a trace."""
    (tmp_path / "workspace.yaml").touch()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        declare(tmp_path, "refused", f"http://127.0.0.1:{closed.getsockname()[1]}", tmp_path)
        one, none = status(tmp_path, "refused0"), status(tmp_path, "nowhere")

    assert (one.returncode, none.returncode) == (1, 2)
    assert "refused0" in one.stdout and "cluster" in one.stdout
    assert "nobody listens there" in one.stdout + one.stderr
    assert "nowhere" in none.stderr
    assert "Traceback" not in one.stderr + none.stderr
