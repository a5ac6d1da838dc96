"""`make soak`: half an hour of people's and nature's doings, then an audit. Exit code 1: something is not well.

    python -m tests.soak [--minutes 30] [--seed N]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.soak.run import soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description="Random acts on a clone under load, then an audit.")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    print(f"seed {asked.seed}", flush=True)
    found = soak(folder, asked.minutes, asked.seed, say=lambda text: print(text, flush=True))
    print(found.text())
    if not found.wrong:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"what it left to look at: {folder}")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
