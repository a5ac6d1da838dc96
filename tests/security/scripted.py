"""A whole life of a model with a scripted engine, as a program: `python -m tests.security.scripted FOLDER [inside]`.

Real command line, real Dagster, real router, a Hub on loopback that asks for a token, and a proxy that remembers who asked for it. What
was seen meanwhile is written to FOLDER/facts.json; the tests read that. `inside`: this process is alone in a network namespace.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
import yaml

from infra.local.image import LocalImage
from infra.waiting import Progress
from tests.doubles import ray_engine
from tests.doubles.hub import Hub
from tests.doubles.model import model_files
from tests.doubles.releases import spec
from tests.life import clone as clones
from tests.life.clone import Clone
from tests.security import namespace
from tests.security.recorder import Recorder

TOKEN = "hf_" + "thisisthetokenofatest"
KEY = "thekeyof" + "theendpoint"
"""In pieces: the clone of the test holds this file, too, and is searched for both."""


@dataclass
class Facts:
    """What was seen.

    ended      command -> (exit code, what it printed, what it told on the error stream)
    modes      path below the clone -> permission bits, of everything in home, cache and Dagster's storage
    sockets    [address, program] of every socket that our processes listen on
    proxied    what the proxy was asked for
    ways_out   interfaces beside loopback
    argued     command lines on which a secret stood at any moment
    inherited  engine and router processes that have a secret in their environment
    written    files below the folder that hold a secret
    fetched    whether the Hub was asked with the token
    """

    ended: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    sockets: list[tuple[str, str]] = field(default_factory=list)
    proxied: list[str] = field(default_factory=list)
    ways_out: list[str] = field(default_factory=list)
    argued: list[str] = field(default_factory=list)
    inherited: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    fetched: bool = False


def main(folder: Path, *, inside: bool) -> None:
    """The life: a look, a success, a failure, down."""
    if inside:
        namespace.loopback_up()
    facts = Facts(ways_out=namespace.ways_out())
    with Hub() as hub, Recorder() as proxy, Onlooker() as onlooker:
        clone = prepared(folder, hub, proxy)
        note(facts, clone, "doctor")
        note(facts, clone, "up demo")
        up(facts, clone)
        note(facts, clone, "up gated")
        note(facts, clone, "status")
        facts.modes = modes(clone.root, clone.home, clone.root / ".dagster")
        note(facts, clone, "down --all --yes")
        facts.proxied, facts.argued = proxy.asked, sorted(onlooker.seen)
        facts.fetched = any(request.authorised for request in hub.requests)
    facts.written = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and holds_secret(path))
    (folder / "facts.json").write_text(json.dumps(asdict(facts)))


def prepared(folder: Path, hub: Hub, proxy: Recorder) -> Clone:
    """A clone with two models on the Hub, one of them gated, and an image that is there already."""
    hub.tokens.add(TOKEN)
    hub.commit("org/tiny", model_files(rows=10))
    hub.commit("org/gated", model_files(rows=10, seed=1))
    hub.repos["org/tiny"].private, hub.repos["org/tiny"].accepted = True, {TOKEN}
    hub.repos["org/gated"].gated = True
    secrets = {"HF_TOKEN": TOKEN, "LLM_PIPELINE_API_KEY": KEY}
    places = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "hf"), "HOME": str(folder / "user"), "LLM_PIPELINE_CACHE": ""}
    clone = clones.make(folder / "clone", **secrets, **places, **proxy.variables)
    declare(clone, "demo", "org/tiny")
    declare(clone, "gated", "org/gated")
    cache, before = clone.home / "cache", os.umask(0o077)
    ray_engine.image(cache, LocalImage(cache, "").resolve(spec(), Progress()))
    os.umask(before)
    return clone


def declare(clone: Clone, name: str, repo: str) -> None:
    """A model with a scripted engine."""
    engine = {"kind": "vllm", "max_model_len": 64, "max_num_seqs": 2, "extra": {"answers": '{"ping": "pong"}'}}
    attributes = {"cluster": "local", "weights": f"hf://{repo}", "engine": engine, "acceptance": {"golden": [{"prompt": "ping", "answer": "pong"}]}}
    file = clone.root / "assets" / "models" / name / "defs.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump({"type": "llm_pipeline.components.Model", "attributes": attributes}))


def note(facts: Facts, clone: Clone, command: str) -> None:
    """Runs a command, and keeps how it ended."""
    done = clone.run(*command.split(), "--json")
    facts.ended[command] = (done.returncode, done.stdout, done.stderr)


def up(facts: Facts, clone: Clone) -> None:
    """What can be seen only while the model is up."""
    ours = set(clone.processes())
    ours |= {child.pid for pid in ours for child in psutil.Process(pid).children(recursive=True)}
    facts.sockets = listening(ours)
    facts.inherited = [str(psutil.Process(pid).cmdline()) for pid in ours if secret_in(Path(f"/proc/{pid}/environ").read_bytes())]


def listening(pids: set[int]) -> list[tuple[str, str]]:
    """Address and program of every TCP and UDP socket of these processes that waits for others."""
    if shutil.which("ss") is None:
        found = [c for c in psutil.net_connections("inet") if c.pid in pids and (c.status == psutil.CONN_LISTEN or (c.type == socket.SOCK_DGRAM and not c.raddr))]
        return sorted((f"{c.laddr.ip}:{c.laddr.port}", psutil.Process(c.pid).name()) for c in found)
    told = subprocess.run(["ss", "-H", "-l", "-t", "-u", "-n", "-p"], capture_output=True, text=True, check=True).stdout
    rows = [(line.split()[4], re.findall(r'"([^"]+)",pid=(\d+)', line)) for line in told.splitlines()]
    return sorted((address, name) for address, owners in rows for name, pid in owners if int(pid) in pids)


def modes(root: Path, *folders: Path) -> dict[str, int]:
    """Permission bits of everything in these folders, themselves included; a link has none of its own."""
    every = [path for folder in folders for path in (folder, *folder.rglob("*"))]
    return {str(path.relative_to(root)): stat.S_IMODE(path.stat().st_mode) for path in every if path.exists() and not path.is_symlink()}


def secret_in(content: bytes) -> bool:
    return TOKEN.encode() in content or KEY.encode() in content


def holds_secret(path: Path) -> bool:
    return secret_in(path.read_bytes())


class Onlooker:
    """Reads every command line of the machine, again and again: what `ps` would have shown to anybody."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Onlooker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.1):
            for entry in Path("/proc").iterdir():
                if not entry.name.isdigit():
                    continue
                try:
                    line = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if secret_in(line):
                    self.seen.add(line.replace(b"\0", b" ").decode(errors="replace"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), inside="inside" in sys.argv[2:])
