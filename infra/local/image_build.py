"""How an image is built: an empty virtual environment, torch, the rest of the lock, an import of what an engine imports.

Everything happens in one folder, downloads too; removing it undoes everything. Whose folder it is, and that it becomes an image only
when all of this went well, is image.py's work.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from infra.errors import CapacityError, ConfigError, PipelineError, Transient, tail
from infra.local.processes import MARK, end
from infra.settings import ROOT, base_environment
from infra.waiting import Progress

SERVING = ROOT / "infra" / "serving"
PYTHON = f"{sys.implementation.name}-{sys.version_info.major}.{sys.version_info.minor}"
"""Without the patch level: compiled packages don't depend on it, and a security update of Python must not restart every model."""

PLATFORM = sysconfig.get_platform()
LOG = "build.log"
GIB = 2**30


@dataclass(frozen=True)
class Recipe:
    """How the image of one flavour is made.

    torch      what is installed first, in a step of its own; None: torch comes with the rest
    check      modules that must import before it counts as an image; their versions are kept
    options    arguments for every `pip install`
    libraries  what the system must have, by the name that the loader knows
    room       bytes that must be free before it begins: the image, pip's downloads and some air
    """

    flavour: str
    lock: Path
    torch: str | None = None
    check: tuple[str, ...] = ("torch", "transformers", "vllm", "vllm.entrypoints.openai.api_server", "ray.serve.llm")
    options: tuple[str, ...] = ("--only-binary=:all:",)
    libraries: tuple[str, ...] = ()
    room: int = 0


def recipes(serving: Path = SERVING) -> dict[str, Recipe]:
    """The flavours. Room: cpu is 3.7 GiB, measured, and 1 GiB of downloads; gpu is an estimate."""
    cpu, gpu = serving / "cpu.lock", serving / "gpu.lock"
    torch = next((pin for pin in pins(cpu) if pin.startswith("torch==")), "torch")
    return {
        "cpu": Recipe("cpu", cpu, torch=f"{torch}+cpu", libraries=("libnuma.so.1",), room=6 * GIB),
        "gpu": Recipe("gpu", gpu, room=20 * GIB),
    }


def pins(lock: Path) -> tuple[str, ...]:
    """The requirements in a lock, without its comments."""
    try:
        lines = [line.partition("#")[0].strip() for line in lock.read_text().splitlines()]
    except OSError as error:
        raise ConfigError(f"the lock {lock} can not be read", why=str(error), next="restore it: git checkout infra/serving") from error
    return tuple(line for line in lines if line)


def digest(pins: Sequence[str], python: str = PYTHON, platform: str = PLATFORM) -> str:
    """`local:` and 16 hex digits: the name of the image that these pins make."""
    what = json.dumps([sorted(pins), python, platform])
    return "local:" + hashlib.sha256(what.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Build:
    """One build. `mark` is carried by its processes, so that they are found when nobody waits for them any more."""

    folder: Path
    recipe: Recipe
    torch_index: str
    progress: Progress
    mark: str

    def make(self) -> dict[str, str]:
        """Makes it, and returns versions. Raises Transient (network), CapacityError (disk), ConfigError with pip's last lines."""
        _demand_libraries(self.recipe)
        self.temp.mkdir(parents=True)
        self._must(self._run([sys.executable, "-I", "-m", "venv", "--prompt=image", str(self.folder)], "an empty environment"))
        self._torch()
        self._must(self._pip("-r", str(self.recipe.lock)))
        self._compile()
        return self._check()

    @property
    def temp(self) -> Path:
        """For temporary files of all steps."""
        return self.folder / "tmp"

    def relocate(self, place: Path) -> None:
        """Scripts name their Python by its full path: gives them the one that they will be moved to."""
        here, there = os.fsencode(self.folder), os.fsencode(place)
        for script in (self.folder / "pyvenv.cfg", *(self.folder / "bin").iterdir()):
            if not script.is_symlink() and script.is_file() and here in (text := script.read_bytes()):
                script.write_bytes(text.replace(here, there))

    # ------------------------------------------------------------ private

    def _torch(self) -> None:
        """The CPU build of torch: pip as it is configured is asked first, for a mirror or a folder may have it; then PyTorch's own index.

        It is asked for by its exact version: a plain `torch` would bring gigabytes of CUDA.
        """
        if not self.recipe.torch:
            return
        step = self._pip(self.recipe.torch)
        if step.code and step.cause is NOTHING_FOUND:
            step = self._pip("--index-url", self.torch_index, self.recipe.torch)
        self._must(step)

    def _compile(self) -> None:
        """Bytecode of every module, on all cores, where pip would use one. What does not compile (code for another Python) pip would ignore too."""
        argv = [str(self._python), "-I", "-m", "compileall", "-q", "-j", "0", str(self.folder / "lib")]
        step = self._run(argv, "compiling")
        if step.code < 0 or step.cause is NO_SPACE:
            self._must(step)

    def _check(self) -> dict[str, str]:
        """Imports what an engine imports. Nothing may phone home or write into this user's home for it."""
        answer = self.temp / "versions.json"
        argv = [str(self._python), "-I", "-c", PROBE, str(answer), *self.recipe.check]
        step = self._run(argv, "checking imports", QUIET | {"HOME": str(self.temp)})
        self._must(replace(step, cause=DOES_NOT_IMPORT))
        versions = {str(name): str(version) for name, version in json.loads(answer.read_text()).items()}
        if wrong := _wrong_torch(self.recipe, versions):
            raise _failed(self.recipe, replace(step, cause=WRONG_TORCH, found=wrong))
        return versions

    @property
    def _python(self) -> Path:
        return self.folder / "bin" / "python"

    def _pip(self, *wanted: str) -> _Step:
        # Everything is pinned, so nothing is resolved: `--no-deps` is quicker and brings nothing that the lock leaves out.
        plain = ("--no-deps", "--no-compile", "--no-input", "--progress-bar=off", "--disable-pip-version-check")
        argv = [str(self._python), "-I", "-m", "pip", "install", *plain, *self.recipe.options, *wanted]
        return self._run(argv, "asking pip for " + wanted[-1].rpartition("/")[2], {"PIP_USER": "0"})

    def _run(self, argv: list[str], doing: str, extra: Mapping[str, str] | None = None) -> _Step:
        """Runs a program in a session of its own, telling what it says; it does not outlive this call."""
        env = {**base_environment(), "TMPDIR": str(self.temp), "PYTHONUNBUFFERED": "1", **(extra or {}), MARK: self.mark}
        log = self.folder / LOG
        begin = log.stat().st_size if log.exists() else 0
        news = _News(log, begin, len(pins(self.recipe.lock)), doing)
        with log.open("ab") as out:
            child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env, cwd=self.temp, start_new_session=True
            )
        try:
            while child.poll() is None:
                self.progress.phase("image", news.line())
                self.progress.sleep(0.1)
        finally:
            if child.returncode is None:
                end(self.mark, self.progress, grace=0)
                child.wait()
        said = log.read_bytes()[begin:].decode(errors="replace")
        return _Step(child.returncode, tail(log), *_cause(said)) if child.returncode else _Step(0)

    def _must(self, step: _Step) -> None:
        if step.code:
            raise _failed(self.recipe, step)


def remove_aside(folder: Path, mark: str) -> subprocess.Popen[bytes]:
    """Removes a folder in a process of its own, which outlives this one."""
    argv = [sys.executable, "-I", "-c", "import shutil, sys; shutil.rmtree(sys.argv[1], ignore_errors=True)", str(folder)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet, env={**base_environment(), MARK: mark}, start_new_session=True)


QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1"}

PROBE = """
import importlib, json, sys
found = {"python": sys.version.split()[0]}
for name in sys.argv[2:]:
    importlib.import_module(name)
    top = name.partition(".")[0]
    found[top] = str(getattr(sys.modules[top], "__version__", "?"))
if "torch" in found:
    found["cuda"] = str(sys.modules["torch"].version.cuda or "none")
open(sys.argv[1], "w").write(json.dumps(found))
"""
"""Imports the modules given as arguments and writes versions as JSON into the file given first."""


@dataclass
class _News:
    """Makes one line for people of what pip wrote so far."""

    log: Path
    at: int
    total: int
    doing: str
    known: int = 0
    installing: bool = False

    def line(self) -> str:
        with self.log.open("rb") as file:
            file.seek(self.at)
            for line in file:
                if line.endswith(b"\n"):
                    self.at += len(line)
                    self._read(line.decode(errors="replace"))
        if not self.installing:
            return self.doing
        there = sum(1 for _ in self.log.parent.glob("lib/python*/site-packages/*.dist-info"))  # pip says nothing while it installs
        return f"{min(there, self.total)} of {self.total} packages are installed"

    def _read(self, line: str) -> None:
        if found := re.match(r"(?:Collecting|Processing|Requirement already satisfied:) (\S+)", line):
            self.known += 1
            self.doing = f"{min(self.known, self.total)} of {self.total} packages: {_short(found[1])}"
        elif found := re.match(r"\s*Downloading (\S+)(.*)", line):
            self.doing = f"{min(self.known, self.total)} of {self.total} packages: downloading {_short(found[1])}{found[2]}"
        elif line.startswith("Installing collected packages"):
            self.installing = True


def _short(wheel: str) -> str:
    """A wheel without its folder and tags: aiohttp-3.14.5."""
    return re.sub(r"-[^-]+-[^-]+-[^-]+\.whl$", "", wheel.rpartition("/")[2])


# ---------------------------------------------------------------- failures


@dataclass(frozen=True)
class _Cause:
    """One way in which a build fails. `what` and `next` may name {found} and {flavour}."""

    pattern: str
    kind: type[PipelineError]
    what: str
    next: str


@dataclass(frozen=True)
class _Step:
    """How a program ended: its exit status, its last lines, and what the cause is."""

    code: int
    said: str = ""
    cause: _Cause | None = None
    found: str = ""


NO_SPACE = _Cause(
    r"(No space left on device|Disk quota exceeded)",
    CapacityError,
    "the disk is full",
    "free some space, or set LLM_PIPELINE_CACHE to a folder on another disk; then repeat",
)
NO_NETWORK = _Cause(  # before NOTHING_FOUND: cut off from its index, pip says in the end that it found nothing
    r"(Retrying \(Retry|connection broken by|Could not fetch URL|Read timed out|IncompleteRead|ConnectionResetError|ProxyError"
    r"|Temporary failure in name resolution|HTTP error (?:429|5\d\d))",
    Transient,
    "pip does not reach its package index",
    "check network and proxy, then repeat; a mirror is set with PIP_INDEX_URL, for torch with LLM_PIPELINE_TORCH_INDEX",
)
NO_VENV = _Cause(
    r"(ensurepip is not available|No module named (?:venv|ensurepip|pip)\b)",
    ConfigError,
    "this Python can not make virtual environments with pip",
    f"install what it lacks (Debian and Ubuntu: apt install python{sys.version_info.major}.{sys.version_info.minor}-venv), then repeat",
)
NOTHING_FOUND = _Cause(
    r"No matching distribution found for (\S+)",
    ConfigError,
    "pip finds no {found} for " + f"{PYTHON} on {PLATFORM}",
    "use CPython 3.11 to 3.14 on Linux (x86_64 or aarch64), and an index that has the package (PIP_INDEX_URL, LLM_PIPELINE_TORCH_INDEX)",
)
DOES_NOT_IMPORT = _Cause(
    "", ConfigError, "what an engine imports does not import", "the last line says what is wrong; correct infra/serving/{flavour}.lock"
)
WRONG_TORCH = _Cause(
    "", ConfigError, "{found}", "let pip find the build for {flavour}: look at its indexes and find-links with: pip config list"
)
KILLED = _Cause("", Transient, "a step was killed", "repeat; if it happens again, free some memory first")
UNKNOWN = _Cause("", ConfigError, "a step failed", "the last lines say why; correct it and repeat")


def _cause(said: str) -> tuple[_Cause, str]:
    """Why a program failed, by what it said; and the words that tell."""
    for cause in (NO_SPACE, NO_NETWORK, NO_VENV, NOTHING_FOUND):
        if found := re.search(cause.pattern, said):
            return cause, found[1]
    return UNKNOWN, ""


def _failed(recipe: Recipe, step: _Step) -> PipelineError:
    cause = KILLED if step.code < 0 else step.cause or UNKNOWN
    words = {"found": step.found, "flavour": recipe.flavour}
    return cause.kind(
        f"the image for {recipe.flavour} could not be built: {cause.what.format(**words)}",
        why=f"signal {-step.code} ended it" if step.code < 0 else None,
        next=cause.next.format(**words),
        log=step.said or None,
    )


def _demand_libraries(recipe: Recipe) -> None:
    """Without libnuma vLLM only warns when it is imported, and crashes when an engine starts."""
    for name in recipe.libraries:
        try:
            ctypes.CDLL(name)
        except OSError as error:
            raise ConfigError(
                f"the image for {recipe.flavour} needs the system's library {name}",
                why=str(error),
                next="install it (libnuma.so.1: apt install libnuma1, or dnf install numactl-libs), then repeat",
            ) from error


def _wrong_torch(recipe: Recipe, versions: Mapping[str, str]) -> str | None:
    """An engine crashes late, and without naming the reason, on the other flavour's torch."""
    wanted = (recipe.torch or "").partition("==")[2]
    if wanted and versions.get("torch", wanted) != wanted:
        return f"torch is {versions['torch']}, not {wanted}"
    if recipe.flavour == "gpu" and versions.get("cuda") == "none":
        return f"torch {versions['torch']} was built without CUDA"
    return None
