"""Several threads at work while the calling one watches: deadline, reasons to stop, news, and what to try again.

The threads are daemons and nobody joins them: one that hangs in a read for the whole stall time must not keep a `down` waiting.
A worker asks `stop` at every block; what it left behind (a partial file, a lock) is released when it sees it or the process ends.
"""

from __future__ import annotations

import heapq
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from infra.waiting import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")
Again = Callable[[int, Exception], float | None]
"""Asked when an item failed: seconds until it is tried again, or None to give up with that error."""

LOOK_EVERY = 0.25
"""Seconds between two looks at deadline and reasons to stop: a `down` must end every wait within 2 s."""


class Stopped(Exception):
    """Raised inside a worker whose result nobody wants any more."""


def each(
    items: Sequence[Item],
    work: Callable[[Item, threading.Event], Result],
    progress: Progress,
    *,
    threads: int,
    tick: Callable[[], None] = lambda: None,
    again: Again = lambda index, error: None,
) -> list[Result]:
    """The results of `work` in the order of `items`. The first error that is not tried again ends all and is the caller's."""
    todo: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Result | None, Exception | None]] = queue.SimpleQueue()
    stop = threading.Event()
    for index in range(len(items)):
        todo.put(index)
    for _ in range(min(threads, len(items))):
        threading.Thread(target=_worker, args=(items, work, todo, done, stop), daemon=True).start()
    try:
        return _gather(len(items), todo, done, progress, tick, again)
    finally:
        stop.set()
        for _ in range(threads):
            todo.put(None)


def aside(call: Callable[[], Result], progress: Progress) -> Result:
    """One call in a thread, while this one watches."""
    return each([None], lambda _, stop: call(), progress, threads=1)[0]


def pause(seconds: float, progress: Progress) -> None:
    """A long wait in short steps, so that a reason to stop is seen in between."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        progress.sleep(min(left, LOOK_EVERY))


def _worker(
    items: Sequence[Item],
    work: Callable[[Item, threading.Event], Result],
    todo: queue.SimpleQueue[int | None],
    done: queue.SimpleQueue[tuple[int, Result | None, Exception | None]],
    stop: threading.Event,
) -> None:
    while (index := todo.get()) is not None and not stop.is_set():
        try:
            done.put((index, work(items[index], stop), None))
        except Exception as error:
            done.put((index, None, error))


def _gather(
    count: int,
    todo: queue.SimpleQueue[int | None],
    done: queue.SimpleQueue[tuple[int, Result | None, Exception | None]],
    progress: Progress,
    tick: Callable[[], None],
    again: Again,
) -> list[Result]:
    results: dict[int, Result] = {}
    later: list[tuple[float, int]] = []
    while len(results) < count:
        progress.check()
        tick()
        while later and later[0][0] <= time.monotonic():
            todo.put(heapq.heappop(later)[1])
        try:
            index, result, error = done.get(timeout=LOOK_EVERY)
        except queue.Empty:
            continue
        if error is None:
            results[index] = result  # type: ignore[assignment]  # a result stands where no error does
            continue
        wait = again(index, error)
        if wait is None:
            raise error
        heapq.heappush(later, (time.monotonic() + wait, index))
    tick()
    return [results[index] for index in range(count)]
