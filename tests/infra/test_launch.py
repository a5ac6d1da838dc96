"""Starting a release: ports that nobody has, an environment that reaches nobody, a command line without secrets."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from infra import local, settings
from infra.errors import CapacityError, ConfigError
from infra.local import launch, ray_service
from infra.local.launch import BLOCK, FIRST, LAST, Folders, Service
from tests.doubles.releases import release


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path / "home", tmp_path / "t", release().name)


def described(folders: Folders, name: str = "", **keys: Any) -> Service:
    """What would be started."""
    made = release(**keys)
    return launch.describe(Folders(folders.home, folders.temp, name or made.name), made, python=Path("/image/bin/python"), weights="/w")


def test_a_description_is_on_disk_before_anything_starts(folders: Folders) -> None:
    """So that a killed start is found; a newer version's extra fields don't hinder an older one."""
    service = described(folders)
    stored = json.loads((folders.service / "service.json").read_text())

    assert Service.of(stored) == service
    assert Service.of({**stored, "new_in_9": 1}) == service
    assert Service.of({key: value for key, value in stored.items() if key != "chat_template"}).chat_template == ""
    assert service.config == {}


def test_the_models_configuration_is_stored_with_it(folders: Folders, tmp_path: Path) -> None:
    """A heal works with what the release was started with, also when the weights are being repaired."""
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "config.json").write_text('{"num_hidden_layers": 2}')

    service = launch.describe(folders, release(), python=Path("/p"), weights=str(tmp_path / "w"))

    assert service.config == {"num_hidden_layers": 2}


def test_releases_of_one_home_get_blocks_of_their_own(folders: Folders) -> None:
    """Even when they choose at the same moment and nothing listens yet."""
    services: list[Service] = []
    threads = [threading.Thread(target=lambda n=n: services.append(described(folders, f"demo-{n:010d}"))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    blocks = {service.base_port for service in services}
    assert len(blocks) == 8
    assert all(FIRST <= base <= LAST - BLOCK and (base - FIRST) % BLOCK == 0 for base in blocks)


def test_a_block_in_which_one_port_is_taken_is_passed_over() -> None:
    """By anybody, on any address."""
    first = launch.free_block(set(), 7)
    with socket.create_server(("0.0.0.0", first + BLOCK - 1)):
        second = launch.free_block(set(), 7)

    assert second > first
    assert launch.free_block({first}, 7) != first


def test_without_any_free_block_the_error_says_where_it_looked() -> None:
    """Nothing is started on a port that somebody has."""
    taken = set(range(FIRST, LAST, BLOCK))

    with pytest.raises(CapacityError, match=f"between {FIRST} and {LAST}"):
        launch.free_block(taken, 0)


def test_a_ray_head_names_every_port_within_its_block_and_listens_on_loopback(folders: Folders) -> None:
    """Two heads on one machine share nothing; no port is left to chance."""
    service = described(folders, replicas={"min": 1, "max": 2})
    words = launch.ray_head(service, release(replicas={"min": 1, "max": 2}))
    flags = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
    ports = [int(value) for name, value in flags.items() if name.endswith("port") and name != "max-worker-port"]

    assert len(set(ports)) == len(ports) == len(launch.NAMED)
    assert all(service.base_port <= port < service.base_port + BLOCK for port in ports)
    assert int(flags["min-worker-port"]) < int(flags["max-worker-port"]) == service.base_port + BLOCK - 1
    assert {flags["node-ip-address"], flags["dashboard-host"]} == {"127.0.0.1"}
    assert flags["temp-dir"] == str(folders.session)
    assert (flags["num-cpus"], flags["num-gpus"]) == ("16", "0")
    assert "--disable-usage-stats" in words
    assert "--block" in words


def test_an_engine_reaches_nobody_and_writes_only_into_our_home(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """No usage statistics, no Hub, no other Ray; caches and temporary files are ours; the user's secrets are not in it."""
    for name in ("HF_TOKEN", "RAY_ADDRESS", "AWS_PROFILE", "LLM_PIPELINE_API_KEY", "PYTHONPATH", "VLLM_API_KEY"):
        monkeypatch.setenv(name, "secret-of-the-user")

    env = launch.environment(folders, release(), "0123")

    assert "secret-of-the-user" not in env.values()
    assert (env["RAY_USAGE_STATS_ENABLED"], env["VLLM_NO_USAGE_STATS"], env["HF_HUB_OFFLINE"]) == ("0", "1", "1")
    assert (env["RAY_AUTH_MODE"], env["RAY_AUTH_TOKEN"]) == ("token", "0123")
    assert Path(env["PYTHONPATH"], "sitecustomize.py").is_file()
    for name in ("VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "XDG_CACHE_HOME", "HF_HOME"):
        assert Path(env[name]).is_relative_to(folders.home)
    assert Path(env["TMPDIR"]).is_relative_to(folders.temp)
    assert Path(env["TMPDIR"]).is_dir()


READER = """
import time
class SpinCondition:
    def __init__(self, busy_loop_s=1):
        self.busy_loop_s, self.last_read, self.slept = busy_loop_s, time.monotonic(), []
    def wait(self, timeout_ms=None):
        self.slept.append(timeout_ms)
"""
"""The shape of vLLM's own."""


@pytest.mark.parametrize(("on", "busy", "slept"), [("cpu", 0.001, [1, 1, 1, 5000, None]), ("gpu", 1, [5000, None, 1, 5000, None])])
def test_a_reader_without_a_gpu_sleeps_soon_but_never_long_while_its_engine_works(tmp_path: Path, on: str, busy: float, slept: list[int | None]) -> None:
    """A wake-up that is lost between two steps costs a millisecond, not the 5 s after which the engine looks by itself."""
    module = tmp_path / "vllm" / "distributed" / "device_communicators" / "shm_broadcast.py"
    module.parent.mkdir(parents=True)
    module.write_text(READER)
    code = (
        "import json; from vllm.distributed.device_communicators.shm_broadcast import SpinCondition; r = SpinCondition();"
        "[r.wait(ms) for ms in (5000, None, 1)]; r.last_read -= 2; [r.wait(ms) for ms in (5000, None)]; print(json.dumps([r.busy_loop_s, r.slept]))"
    )
    path = f"{launch.environment(Folders(tmp_path, tmp_path / 't', release().name), release(), '0')['PYTHONPATH']}:{tmp_path}"

    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path, "LLM_PIPELINE_ENGINE_ON": on}, capture_output=True, text=True, check=True)

    assert json.loads(done.stdout) == [busy, slept]


def test_sockets_of_ray_fit_into_a_name(tmp_path: Path) -> None:
    """107 bytes are what the kernel allows; a home with a long path must still work."""
    for temp in ("/tmp", str(tmp_path)):
        found = settings.load(home=tmp_path / ("x" * 100), TMPDIR=temp)
        session = Folders(found.home, local.temp_dir(found), release().name).session
        socket_name = session / "session_2026-11-21_04-03-49_125907_4194304" / "sockets" / "plasma_store"
        assert len(str(socket_name)) <= 107


def test_only_what_changes_in_place_changes_its_hash() -> None:
    """Replica numbers; everything else is another release or no matter of the service."""
    assert release().in_place == release(description="words").in_place
    assert release().in_place != release(replicas={"min": 2, "max": 2}).in_place


def test_a_temporary_folder_that_somebody_else_made_first_is_refused(tmp_path: Path) -> None:
    """Its name can be guessed, and sockets lie in it: a link or a stranger's folder would hand them over."""
    mine, link = tmp_path / "mine", tmp_path / "link"
    link.symlink_to(tmp_path)
    mine.mkdir(mode=0o777)
    mine.chmod(0o777)

    ray_service._ours(mine)
    with pytest.raises(ConfigError, match="is not ours"):
        ray_service._ours(link)
    if os.getuid() == 0:
        os.chown(mine, 12345, 12345)
        with pytest.raises(ConfigError, match="is not ours"):
            ray_service._ours(mine)
        os.chown(mine, 0, 0)

    assert mine.stat().st_mode & 0o777 == 0o700
