"""The training, from the control plane's side: tune.py as a process in the engine's environment, its words in the run's log, its folder's digest.

The control plane has no torch. The environment is the image that the product built for the engine: the same lock, found the same way.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from infra.errors import PipelineError, Transient
from infra.local.image import LocalImage
from infra.settings import ROOT, base_environment, load, private
from infra.specs import ModelSpec
from infra.waiting import Progress
from infra.weights import Access, look, parse

HERE = Path(__file__).parent
START = ROOT / "assets/models/demo/weights/v1"


@dataclass(frozen=True)
class Tuned:
    """What one training wrote. `digest`: as the product computes it; `lead`: by how many logits every known answer is the best one, at least."""

    path: str
    digest: str
    lessons: int
    lead: float
    seconds: float


def train(run: str, say: Callable[[str], object]) -> Tuned:
    """Trains into a folder of this run, which is there only when it is whole. Raises PipelineError with the last words of a training that failed."""
    settings = load()
    folder = private(settings.home / "fine_tune") / run
    command = [str(python()), str(HERE / "tune.py"), "--start", str(START), "--lessons", str(HERE / "lessons.yaml"), "--out", str(folder)]
    last = ""
    with subprocess.Popen(command, env=base_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        try:
            for line in child.stdout or ():
                last = line.strip() or last
                say(line.rstrip())
        except BaseException:  # Dagster ends a run with one of its own: no training stays behind
            child.kill()
            raise
    if child.returncode or not folder.is_dir():
        raise PipelineError(f"the training of run {run[:8]} wrote nothing", why=last or f"it ended with {child.returncode}", next="its words are in this run's log")
    facts = json.loads(last)
    return Tuned(str(folder), digest(folder), facts["lessons"], facts["lead"], facts["seconds"])


def python() -> Path:
    """The Python of the engine's image on this machine. Raises Transient when it was not built yet: the first `up` of any model does."""
    settings = load()
    image = LocalImage(settings.cache_dir, settings.torch_index)
    wanted = image.resolve(ModelSpec(name="tuned", cluster="local", weights="asset://fine_tune/weights"), Progress())  # type: ignore[arg-type]
    found = next((state for state in image.kept() if state.digest == wanted), None)
    if found is None:
        raise Transient(f"the image {wanted} is not on this machine", why="the training runs in the engine's environment", next="llm-pipeline up demo builds it; then materialise this again")
    return Path(found.where) / "bin" / "python"


def digest(folder: Path) -> str:
    """The manifest's hash of what an engine needs of this folder (docs/declaring.md says how it is made without this library)."""
    return look(parse(f"file://{folder}", ROOT), Access(settle_seconds=0), Progress(600)).manifest.digest
