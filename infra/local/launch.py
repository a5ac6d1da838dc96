"""Starting the processes of one release: ports, environment, command line."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from infra import engine
from infra.errors import CapacityError
from infra.local.processes import mark_of, read_json, spawn, write_json
from infra.platform import Release
from infra.settings import base_environment, private, secret

LOOPBACK = "127.0.0.1"
BLOCK = 64
"""Ports per release: named ones first, Ray's workers use the rest."""
FIRST, LAST = 20_000, 32_000
"""Below the range that Linux hands out to clients (32768 on), so that no connection takes one in passing."""

NAMED = ("gcs", "dashboard", "agent", "agent_grpc", "client", "metrics", "runtime_env", "node_manager", "object_manager", "http")


@dataclass(frozen=True)
class Folders:
    """Where things of one release lie."""

    home: Path
    temp: Path
    name: str

    @property
    def service(self) -> Path:
        return self.home / "services" / self.name

    @property
    def session(self) -> Path:
        return self.temp / self.name.rsplit("-", 1)[-1]

    @property
    def record(self) -> Path:
        return self.service / "process.json"

    @property
    def mark(self) -> str:
        return mark_of(self.home, "ray_service", self.name)


@dataclass(frozen=True)
class Service:
    """What a release is started with; stored before anything starts."""

    model: str
    release: str
    kind: str
    base_port: int
    started: float
    python: str
    weights: str
    session: str
    config: dict[str, Any]
    chat_template: str = ""

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Service:
        """What was stored, also by a newer version that stores more."""
        return cls(**{field.name: raw[field.name] for field in fields(cls) if field.name in raw})

    def port(self, name: str) -> int:
        return self.base_port + NAMED.index(name)


def describe(folders: Folders, release: Release, *, python: Path, weights: str) -> Service:
    """Chooses a block of ports that nobody uses and no other release has in mind, and writes down what will be started."""
    config_file = Path(weights, "config.json")
    config = json.loads(config_file.read_text()) if config_file.exists() else {}
    with _one_at_a_time(folders.home):
        base = free_block(_reserved(folders), zlib.crc32(str(folders.home).encode() + release.name.encode()))
        service = Service(
            release.model, release.name, release.spec.engine.kind, base, time.time(), str(python), weights, str(folders.session), config,
            _chat_template(folders, release),
        )  # fmt: skip
        write_json(folders.service / "service.json", asdict(service))
    return service


def start(folders: Folders, release: Release, service: Service) -> None:
    """Starts the group; returns at once."""
    argv = ray_head(service, release) if service.kind == "ray" else [
        service.python, "-m", "vllm.entrypoints.openai.api_server",
        *engine.server_arguments(release, service.weights, LOOPBACK, service.port("http"), service.config, service.chat_template), "--disable-uvicorn-access-log",
    ]  # fmt: skip
    env = environment(folders, release, secret(folders.service / "token"))
    spawn(argv, mark=folders.mark, record=folders.record, log=folders.service / "head.log", env=env, cwd=folders.service)


def ray_head(service: Service, release: Release) -> list[str]:
    """`ray start --head --block` on loopback, every port named: two heads on one machine share nothing."""
    replicas = release.spec.replicas.max
    flags = {
        "num-cpus": 8 * replicas, "num-gpus": (release.spec.resources.gpu or 0) * replicas, "object-store-memory": engine.OBJECT_STORE,
        "node-ip-address": LOOPBACK, "dashboard-host": LOOPBACK, "temp-dir": service.session,
        "port": service.port("gcs"), "dashboard-port": service.port("dashboard"),
        "dashboard-agent-listen-port": service.port("agent"), "dashboard-agent-grpc-port": service.port("agent_grpc"),
        "ray-client-server-port": service.port("client"), "metrics-export-port": service.port("metrics"),
        "runtime-env-agent-port": service.port("runtime_env"), "node-manager-port": service.port("node_manager"),
        "object-manager-port": service.port("object_manager"),
        "min-worker-port": service.base_port + len(NAMED), "max-worker-port": service.base_port + BLOCK - 1,
    }  # fmt: skip
    return [service.python, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats", *(f"--{k}={v}" for k, v in flags.items())]


def environment(folders: Folders, release: Release, token: str) -> dict[str, str]:
    """Nothing phones home, nothing listens beyond loopback, caches lie in our home.

    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 is what makes Ray keep 127.0.0.1 as the node's address and bind its servers there: on Linux
    it would otherwise replace it by the machine's own address and listen on all interfaces. The module that PYTHONPATH adds does
    the same for the one server of Serve that ignores it (a replica's internal port, which takes pickles).
    """
    caches = private(folders.home / "engine-cache")
    env = base_environment() | engine.ENVIRONMENT | {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "AUTOSCALER_METRIC_PORT": "0", "DASHBOARD_METRIC_PORT": "0",
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "VLLM_HOST_IP": LOOPBACK,
        "PYTHONPATH": str(Path(__file__).parent / "inside"), "LLM_PIPELINE_ENGINE_ON": "gpu" if release.needs_gpu else "cpu",
        "VLLM_CACHE_ROOT": str(caches / "vllm"), "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"), "TRITON_CACHE_DIR": str(caches / "triton"),
        "XDG_CACHE_HOME": str(caches), "HF_HOME": str(caches / "hf"), "TMPDIR": str(private(folders.session / "tmp")),
        "GLOO_SOCKET_IFNAME": "lo", "TP_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    env.pop("LLM_PIPELINE_API_KEY", None)
    return env


def free_block(taken: set[int], seed: int) -> int:
    """The first port of a block in which every port can be bound, starting at a place that depends on `seed`."""
    blocks = (LAST - FIRST) // BLOCK
    for step in range(blocks):
        base = FIRST + ((seed + step) % blocks) * BLOCK
        if base not in taken and all(_free(port) for port in range(base, base + BLOCK)):
            return base
    raise CapacityError(
        f"no {BLOCK} neighbouring free ports between {FIRST} and {LAST}", why="other programs listen there",
        next="see who does: ss -ltnp",
    )  # fmt: skip


def _chat_template(folders: Folders, release: Release) -> str:
    """The file from which the engine reads the declared template; empty when it shall use the one of the weights."""
    text = release.spec.engine.chat_template
    if text is None:
        return ""
    file = private(folders.service) / "chat_template.jinja"
    file.write_text(text)
    return str(file)


def _reserved(folders: Folders) -> set[int]:
    found = (read_json(path) for path in folders.service.parent.glob("*/service.json"))
    return {int(str(service["base_port"])) for service in found if service}


def _free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


class _one_at_a_time:  # noqa: N801 - used as a statement
    """Two starts must not choose the same block: choosing is serialised per home."""

    def __init__(self, home: Path) -> None:
        self.path = private(home / "locks") / "ports.lock"

    def __enter__(self) -> None:
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)
