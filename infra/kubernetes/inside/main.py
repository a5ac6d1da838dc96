"""`python3 weights.pyz ORDER FOLDER`: does the order, says what came of it in one last line, and ends with a code that tells whether to try again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from infra.errors import PipelineError, Transient
from infra.kubernetes.inside.hub import Fetch
from infra.kubernetes.inside.order import AGAIN, DONE, HOPELESS, Order, say
from infra.kubernetes.inside.receive import Receiver
from infra.kubernetes.inside.shelf import Shelf
from infra.weights import disk


def main(arguments: list[str]) -> int:
    """Never raises: a pod's last words have to be found in its log."""
    order = Order.from_json(Path(arguments[0]).read_text())
    shelf = Shelf(Path(arguments[1]), order)
    try:
        say(result=shelf.verify() if order.mode == "verify" else fill(shelf))
        return DONE
    except PipelineError as error:
        return _failed(error)
    except OSError as error:
        found = disk.told(shelf.root, f"the files of {order.source}", error)
        return _failed(found or Transient(f"the files of {order.source} can not be stored", why=f"{type(error).__name__}: {error}"))


def fill(shelf: Shelf) -> dict[str, object]:
    """Everything is there, and right."""
    shelf.prepare()
    if shelf.missing():
        Fetch(shelf, os.environ.get("HF_TOKEN", "")).run() if shelf.order.how == "hub" else Receiver(shelf).run()
    shelf.tell("checking", shelf.order.manifest.size, force=True)
    return shelf.finish()


def _failed(error: PipelineError) -> int:
    say(problem={"kind": type(error).__name__, **error.problem.as_dict()})
    return AGAIN if isinstance(error, Transient) else HOPELESS


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
