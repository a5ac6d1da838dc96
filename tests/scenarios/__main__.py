"""`make scenarios`: the machine of updates for many lives, others each time; then ten pushes in a row with a real engine. Exit code 1: something is not well.

    python -m tests.scenarios [--lives 300] [--pushes 10]
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import warnings
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.scenarios.machine import Updates
from tests.scenarios.real import play


def main() -> int:
    parser = argparse.ArgumentParser(prog="make scenarios", description="Updates at random on doubles, then ten pushes under load with a real engine.")
    parser.add_argument("--lives", type=int, default=300)
    parser.add_argument("--pushes", type=int, default=10)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    if asked.lives:
        given = settings(max_examples=asked.lives, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        run_state_machine_as_test(Updates, settings=given)
        print(f"{asked.lives} lives: nothing unaccepted answered, nothing came twice, and in the end what should be live was", flush=True)
    if not asked.pushes:
        return 0
    found = play(Path(tempfile.mkdtemp(prefix="pushes-")), asked.pushes)
    print(found.text())
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
