"""Locks of the operating system on files: they die with their holder."""

from __future__ import annotations

from filelock import FileLock, Timeout


def take(lock: FileLock) -> bool:
    """Whether it could be had at once; nobody is waited for."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True
