"""`python -m tests`: the whole test command. Three parts, since what waits may run beside what works, and a real engine wants the machine for itself.

    fast        everything without a real engine or a cluster: several processes at once
    clusters    what needs a control plane for tests, in two processes beside `fast`: it waits most of its time. Its output comes when it is over
    real        the lives with a real engine, alone; but for that of the fine-tune, which `make test-example` plays

Parts that run at once are in each other's way on a small machine. So what failed is asked once more, alone, where it is not more than
`AGAIN` tests: both tries are printed, and the second one counts. The lives are not begun when anything before them failed for good; what was
begun is ended by its pid.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PYTEST = [sys.executable, "-m", "pytest"]
CLUSTERS = ["tests/kubernetes", "tests/platform"]
APART = [option for folder in CLUSTERS for option in ("--ignore", folder)]
REAL = [*APART, "-m", "real", "--ignore", "tests/life/test_fine_tune.py", "--ignore", "tests/life/test_batch.py"]
FAST = [*APART, "-m", "not real", "-n", "3", "--dist", "worksteal"]
FAILED = "LLM_PIPELINE_TEST_FAILED"
"""Names a file that gets the name of every test that failed, a line each (tests/conftest.py)."""

AGAIN = 3
"""Tests that may be asked once more. More than these do not fail for want of time."""


class Part:
    """One call of pytest, and where it writes the names of what failed."""

    def __init__(self, folder: Path, name: str) -> None:
        self._list = folder / name
        self._environment = {**os.environ, FAILED: str(self._list)}

    def run(self, *options: str) -> int:
        """Its exit code."""
        return subprocess.run([*PYTEST, *options], env=self._environment, check=False).returncode

    @contextmanager
    def beside(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        """Meanwhile it runs; at the end its output."""
        with tempfile.TemporaryFile("w+") as out:
            process = subprocess.Popen([*PYTEST, *options], env=self._environment, stdout=out, stderr=out, text=True)
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
                out.seek(0)
                print(out.read(), flush=True)

    @property
    def failed(self) -> list[str]:
        return sorted(set(self._list.read_text().splitlines())) if self._list.exists() else []

    def settled(self, code: int) -> int:
        """The exit code once what failed was asked again, alone."""
        if code != 1 or not 0 < len(self.failed) <= AGAIN:  # 1: tests failed, and nothing else is wrong
            return code
        print(f"\nfailed among others, so once more, alone: {', '.join(self.failed)}", flush=True)
        return subprocess.run([*PYTEST, *self.failed], check=False).returncode


def main() -> int:
    """The exit code of the first part that failed, else 0."""
    with tempfile.TemporaryDirectory() as folder:
        fast, kubernetes, platform, real = (Part(Path(folder), name) for name in ("fast", "kubernetes", "platform", "real"))
        with kubernetes.beside("tests/kubernetes", "--ignore", "tests/kubernetes/test_life.py") as one, platform.beside("tests/platform") as other:
            codes = fast.run(*FAST), one.wait(), other.wait()
        for part, code in zip((fast, kubernetes, platform), codes, strict=True):
            if failed := part.settled(code):
                return failed
        return real.settled(real.run(*REAL))


if __name__ == "__main__":
    sys.exit(main())
