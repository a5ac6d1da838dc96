"""Weights: verifying against plain sha256 of the same bytes, downloading against curl from the same server.

`python -m tests.bench.weights FOLDER` is that server, in a process of its own: it speaks as much of the Hub's API as a download needs,
and hands the bytes over with sendfile, so that it is quicker than whoever asks.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from infra.settings import ROOT
from infra.waiting import Progress
from infra.weights import Access, Seen, Source, Store, open_source, parse
from infra.weights.store import DOWNLOADS
from tests.bench.frame import Figure, Lab, in_turns

SHARDS = 4
MB = 1e6
GOAL = 0.9


def figures(lab: Lab) -> Iterator[Figure]:
    """Both rates, in MB/s."""
    size = (64 << 20) if lab.quick else (2 << 30)
    folder = shards(lab.folder / "weights", size // SHARDS)
    try:
        lab.say(f"weights: {SHARDS} shards, {size / MB:,.0f} MB")
        yield verifying(lab, folder)
        yield from downloading(lab, folder)
    finally:
        shutil.rmtree(folder)


def verifying(lab: Lab, folder: Path) -> Figure:
    """`verify` of what is stored already."""
    store = Store(lab.folder / "verify")
    source = open_source(parse(f"file://{folder}", Path("/")), Access(settle_seconds=0))
    seen = source.look(Progress())
    stored = store.fill(source, seen, Progress())
    files = [stored.path / file.path for file in seen.manifest.files]

    def ours() -> float:
        return rate(seen.manifest.size, lambda: store.verify(seen.manifest, Progress()) == () or _fail("what was stored is bad"))

    def plain() -> float:
        def all_of_them() -> None:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                assert len(list(pool.map(sha256, sorted(files, key=lambda file: -file.stat().st_size)))) == len(files)

        return rate(seen.manifest.size, all_of_them)

    plain()
    readings = in_turns(lab.rounds, ours, plain)
    shutil.rmtree(store.root)
    return Figure(
        "weights: verify", "MB/s", *readings, of="hashlib.file_digest, one thread per core", goal=GOAL, at_least=True,
        why=f"the same {SHARDS} files in the page cache for both, {os.cpu_count()} cores; hashlib lets the threads run side by side",
    )  # fmt: skip


def downloading(lab: Lab, folder: Path) -> Iterator[Figure]:
    """From nothing to a revision that is stored, every byte verified and on the disk; against curl, and against curl that does as much."""
    with serving(folder) as endpoint:
        source = open_source(parse("hf://org/bench", Path("/")), Access(hf_endpoint=endpoint))
        seen = source.look(Progress())
        ours = partial(fetch, lab.folder / "download", source, seen)
        bare = in_turns(lab.rounds, ours, partial(curl, lab.folder / "curl", endpoint, seen))
        whole = in_turns(lab.rounds, ours, partial(curl, lab.folder / "curl", endpoint, seen, whole=True))
    both = f"{DOWNLOADS} connections for both, over loopback, where client and server share {os.cpu_count()} cores"
    yield Figure(
        "weights: download", "MB/s", *bare, of=f"curl --parallel-max {DOWNLOADS}", goal=GOAL, at_least=True,
        why=f"{both}. Ours waits until every byte is on the disk (fsync) and reads it again for its digest; curl leaves it in the page cache, so this row "
        "shows the disk wherever it is slower than the line",
    )  # fmt: skip
    yield Figure(
        "weights: download, verified and on the disk", "MB/s", *whole, of="curl, then fsync and sha256 of its files, one thread per core", goal=GOAL, at_least=True,
        why=f"{both}, and the same work for both",
    )  # fmt: skip


# ---------------------------------------------------------------- readings


def rate(size: int, call: object) -> float:
    """MB/s of a call."""
    begun = time.perf_counter()
    call()  # type: ignore[operator]
    return size / MB / (time.perf_counter() - begun)


def fetch(root: Path, source: Source, seen: Seen) -> float:
    """Into an empty store."""
    shutil.rmtree(root, ignore_errors=True)
    stored = Store(root).fill(source, seen, Progress())
    assert stored.fetched_bytes == seen.manifest.size
    shutil.rmtree(root)
    return stored.size / MB / stored.seconds


def curl(folder: Path, endpoint: str, seen: Seen, *, whole: bool = False) -> float:
    """As a person would, with as many connections as ours. `whole`: until it is on the disk, and its digests were made."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    given = [word for file in seen.manifest.files for word in ("-o", str(folder / file.path), f"{endpoint}/org/bench/resolve/{seen.revision}/{file.path}")]
    argv = ["curl", "-sSf", "--noproxy", "*", "--parallel", "--parallel-immediate", "--parallel-max", str(DOWNLOADS), *given]

    def call() -> None:
        subprocess.run(argv, check=True, stderr=subprocess.DEVNULL)  # with --parallel it draws a table, silent or not
        if whole:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(settled, folder.iterdir()))

    found = rate(seen.manifest.size, call)
    assert sum(path.stat().st_size for path in folder.iterdir()) == seen.manifest.size
    shutil.rmtree(folder)
    return found


def sha256(path: Path) -> str:
    """As short as Python can say it."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def settled(path: Path) -> str:
    """Its sha256, once it is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return sha256(path)


def _fail(why: str) -> None:
    raise AssertionError(why)


# ---------------------------------------------------------------- the files


def shards(folder: Path, size: int) -> Path:
    """A model whose weights lie in shards of this size."""
    folder.mkdir(parents=True)
    noise, where = os.urandom(8 << 20), {}
    for number in range(SHARDS):
        name = f"model-{number + 1:05}-of-{SHARDS:05}.safetensors"
        where[f"t{number}"] = name
        head = json.dumps({f"t{number}": {"dtype": "I8", "shape": [size], "data_offsets": [0, size]}}).encode()
        with (folder / name).open("wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            for at in range(0, size, len(noise)):
                file.write(noise[: size - at])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (folder / "tokenizer.json").write_text("{}")
    return folder


# ---------------------------------------------------------------- the server


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The server's address."""
    argv = [sys.executable, "-m", "tests.bench.weights", str(folder)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}) as server:
        assert server.stdout
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.terminate()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder = Path()
    about = b""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if "/resolve/" not in self.path:
            return self._head(200, len(self.about), self.about)
        path, asked = self.folder / Path(self.path).name, re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start, size = int(asked[1]) if asked else 0, path.stat().st_size
        self._head(206 if asked else 200, size - start)
        with path.open("rb") as file:
            while start < size:
                start += os.sendfile(self.connection.fileno(), file.fileno(), start, size - start)

    def _head(self, status: int, length: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)


def serve(folder: Path) -> None:
    """Prints its port, and answers until it is ended."""
    files = sorted(folder.iterdir())
    rows = [{"rfilename": file.name, "size": file.stat().st_size, "blobId": "0" * 40, "lfs": {"size": file.stat().st_size, "sha256": sha256(file), "pointerSize": 1}} for file in files]
    _Handler.folder, _Handler.about = folder, json.dumps({"_id": "0", "id": "org/bench", "sha": "a" * 40, "siblings": rows}).encode()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
