"""`ray` as KubeRay's pods call it, scripted: real processes and ports, Serve's own API and health answers, an engine behind them, no Ray.

    ray start --head …               Serve's API on 8265 (PUT and GET /api/serve/applications/), the engine on 8000 once it was configured
    ray start --address=HEAD:6379 …  asks the head for the configuration, and serves the engine on 8000 from then on
    ray health-check --address …     whether the head is there

Everything that KubeRay's probes and its operator ask is answered; what the model answers is tests/doubles/engine.py. A RayService with
these pods becomes Ready by the real operator, in seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.doubles.engine import Request, Script, _send_json
from tests.doubles.ray_engine import CompletingEngine, load

DASHBOARD, AGENT, SERVE = 8265, 52365, 8000
APPLICATIONS = "/api/serve/applications/"


class Node(CompletingEngine):
    """One pod: the head takes the configuration, and every node serves what it says."""

    def __init__(self) -> None:
        super().__init__(Script(""))
        self.config: dict[str, Any] = {}

    def configure(self, config: dict[str, Any]) -> None:
        """As Serve takes it; the same again changes nothing."""
        if config == self.config:
            return
        self.config = config
        for application in config.get("applications") or ():
            (model,) = application["args"]["llm_configs"]
            loading, given = model["model_loading_config"], model["engine_kwargs"]
            self.script = Script(loading["model_id"], json.loads(given.get("answers", "{}")), root=loading["model_source"], max_model_len=given.get("max_model_len", 512))
            load(SimpleNamespace(
                model=loading["model_source"], served_model_name=loading["model_id"], dtype=given.get("dtype"), max_model_len=given.get("max_model_len", 512),
                tensor_parallel_size=given.get("tensor_parallel_size", 1), enforce_eager=given.get("enforce_eager", False),
            ))  # type: ignore[arg-type]  # fmt: skip

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        path = request.path.partition("?")[0]
        if path == APPLICATIONS:
            if request.method == "PUT":
                self.configure(json.loads(request.body))
            _send_json(writer, 200, self._told())
        elif path == "/-/healthz":
            _send_json(writer, 200 if self.config else 503, {"result": "success" if self.config else "no application"})
        elif "healthz" in path:
            _send_json(writer, 200, {"result": "success"})
        else:
            await super()._answer(request, writer)
            return
        await writer.drain()

    def _told(self) -> dict[str, Any]:
        """What Serve says of itself, with the configuration that a worker of ours asks for."""
        running = {"status": "RUNNING", "message": "", "deployments": {"LLMServer": {"name": "LLMServer", "status": "HEALTHY", "message": ""}}}
        return {"applications": {row["name"]: {"name": row["name"], **running} for row in self.config.get("applications") or ()}, "config": self.config}


async def follow(node: Node, head: str) -> None:
    """A worker: what its head was told, within a second."""
    while True:
        with contextlib.suppress(OSError, ValueError):
            node.configure(await asyncio.to_thread(asked, head))
        await asyncio.sleep(0.5)


def asked(head: str) -> dict[str, Any]:
    """The head's configuration. Raises OSError while it is not there."""
    with urllib.request.urlopen(f"http://{head}:{DASHBOARD}{APPLICATIONS}", timeout=5) as answer:
        return dict(json.load(answer)["config"])


async def start(address: str) -> None:
    """Serves until it is asked to end; at once, as there is nothing to drain. `address`: the head's, empty for the head itself."""
    node, ended = Node(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    for port in (AGENT, SERVE, *(() if address else (DASHBOARD,))):
        await asyncio.start_server(node.serve, "0.0.0.0", port, backlog=512)
    follower = asyncio.create_task(follow(node, address.partition(":")[0])) if address else None
    await ended.wait()
    if follower:
        follower.cancel()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb")
    parser.add_argument("--address", default="")
    given, _ = parser.parse_known_args()
    if given.verb == "start":
        asyncio.run(start(given.address))
    elif given.verb == "health-check":
        asked(given.address.partition(":")[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
