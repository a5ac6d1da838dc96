"""What ours is compared with: a vLLM server started by hand, with the very arguments of a release, and nothing around it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.errors import tail
from tests.life.clone import Clone, free_port


@dataclass(frozen=True)
class Bare:
    """A server that answered. `seconds`: from its start to the first answer."""

    port: int
    seconds: float


def command(clone: Clone) -> list[str]:
    """The command line of the plain vLLM server that serves in this clone now."""
    described = next((clone.home / "services").glob("*/process.json"))
    pid = json.loads(described.read_text())["pid"]
    return [part for part in Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0") if part]


@contextmanager
def server(argv: Sequence[str], folder: Path) -> Iterator[Bare]:
    """Runs it on another port, with caches of its own that stay between starts, as a person's would."""
    folder.mkdir(parents=True, exist_ok=True)
    port, argv = free_port(), list(argv)
    argv[argv.index("--port") + 1] = str(port)
    env = {
        "PATH": os.defpath, "HOME": str(folder), "TMPDIR": str(folder), "VLLM_CACHE_ROOT": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
        "VLLM_HOST_IP": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "TP_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    began = time.monotonic()
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(argv, env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            try:
                answered(port, argv[argv.index("--served-model-name") + 1], until=began + 300, process=process)
            except RuntimeError as error:
                raise RuntimeError(f"{error}: {tail(folder / 'server.log', 3)}") from error
            yield Bare(port, time.monotonic() - began)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answered(port: int, model: str, until: float, process: subprocess.Popen[bytes] | None = None) -> None:
    """Waits for one token from this port."""
    body = json.dumps({"model": model, "prompt": "Hello", "max_tokens": 1}).encode()
    while time.monotonic() < until:
        if process and process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        try:
            asked = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", body, {"content-type": "application/json"})
            with urllib.request.urlopen(asked, timeout=60) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"nobody answered on {port}")
