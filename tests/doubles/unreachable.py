"""API servers that can not be asked: real sockets that refuse, hang, are somebody else, speak no TLS, or believe nobody.

    with stand(folder) as made:      kubeconfigs by what is wrong: each has the context `there`
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

WHY = {
    "refused": ("nobody listens there", "kubectl cluster-info"),
    "nameless": ("its name is not known on this machine", "kubeconfig"),
    "stranger": ("its certificate is not of the authority that the kubeconfig names", "kubeconfig"),
    "expired": ("its certificate is not valid at this time", "date -u"),
    "misnamed": ("its certificate is of another name", "kubeconfig"),
    "plain": ("speaks no TLS", "another port"),
    "hanging": ("nothing came back in time", "kubectl cluster-info"),
    "unbelieved": ("Unauthorized", "token or certificate"),
    "forbidden": ("forbidden", "doctor --rbac"),
}
"""Of each of them: the likely cause, and what to do."""

ASKED: list[str] = []
"""Every request that reached one of them."""


@contextlib.contextmanager
def stand(folder: Path) -> Iterator[dict[str, Path]]:
    """One of each kind."""
    ASKED.clear()
    with contextlib.ExitStack() as open_, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        mine, other = certificate(folder, "mine"), certificate(folder, "other")
        ended, misnamed = certificate(folder, "expired", days=(-2, -1)), certificate(folder, "misnamed", address="127.0.0.9")
        plain = open_.enter_context(server(200))
        where = {
            "refused": (f"https://127.0.0.1:{closed.getsockname()[1]}", other), "nameless": ("https://nobody.invalid:6443", other), "stranger": (open_.enter_context(server(200, own=mine)), other),
            "expired": (open_.enter_context(server(200, own=ended)), ended), "misnamed": (open_.enter_context(server(200, own=misnamed)), misnamed), "plain": (plain.replace("http:", "https:"), other),
            "hanging": (open_.enter_context(server(0)), other), "unbelieved": (open_.enter_context(server(401, "Unauthorized")), other), "forbidden": (open_.enter_context(server(403, "it is forbidden")), other),
        }  # fmt: skip
        yield {name: kubeconfig(folder / f"{name}.yaml", address, trusted) for name, (address, trusted) in where.items()}


def kubeconfig(file: Path, where: str, ca: Path) -> Path:
    """One context, `there`, and a token of nobody."""
    there = {"server": where} | ({"certificate-authority": str(ca)} if where.startswith("https") else {})
    file.write_text(yaml.safe_dump({
        "apiVersion": "v1", "kind": "Config", "current-context": "there", "clusters": [{"name": "c", "cluster": there}], "users": [{"name": "u", "user": {"token": "a-token-of-nobody"}}],
        "contexts": [{"name": "there", "context": {"cluster": "c", "user": "u"}}],
    }))  # fmt: skip
    return file


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
def server(status: int, message: str = "", own: Path | None = None) -> Iterator[str]:
    """Where it listens; with a certificate of its own, by TLS."""
    made = Quiet(("127.0.0.1", 0), type("Handler", (Refusing,), {"status": status, "message": message}))
    if own:
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trust.load_cert_chain(own)
        made.socket = trust.wrap_socket(made.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"{'https' if own else 'http'}://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


def certificate(folder: Path, name: str, *, days: tuple[int, int] = (-1, 1), address: str = "127.0.0.1") -> Path:
    """A certificate for this machine, signed by itself, with its key behind it. `days`: from now, between which it is valid."""
    key, who, now = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), datetime.now(UTC)
    made = x509.CertificateBuilder(who, who, key.public_key(), x509.random_serial_number(), *(now + timedelta(days=day) for day in days))
    made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
    signed, secret = made.sign(key, hashes.SHA256()), key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = folder / f"{name}.pem"
    file.write_bytes(signed.public_bytes(serialization.Encoding.PEM) + secret)
    return file
