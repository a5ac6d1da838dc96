"""A network namespace of our own: loopback only, no way out. What runs in it can not reach anybody, whatever it tries.

    argv = ["some", "program"]
    subprocess.run(namespace.within(argv))       from outside
    namespace.loopback_up()                      first thing inside: a new namespace has its loopback down
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Sequence
from functools import cache


def within(argv: Sequence[str]) -> list[str]:
    """The command line that starts this program inside a new namespace."""
    return ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--net", *argv]


@cache
def refused() -> str:
    """Why this machine allows no namespaces; empty when it does."""
    if shutil.which("unshare") is None:
        return "there is no `unshare` (util-linux) here"
    done = subprocess.run(within(["true"]), capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"network namespaces are not allowed here: {done.stderr.strip()}"


def loopback_up() -> None:
    """`ip link set lo up`, without the need for `ip`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        row = bytearray(struct.pack("16sh22x", b"lo", 0))
        fcntl.ioctl(any_socket, SIOCGIFFLAGS, row)
        (flags,) = struct.unpack_from("h", row, 16)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | IFF_UP))


SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def ways_out() -> list[str]:
    """Network interfaces other than loopback."""
    return [name for _, name in socket.if_nameindex() if name != "lo"]
