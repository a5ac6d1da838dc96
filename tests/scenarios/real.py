"""Ten pushes in a row with a real engine: a clone with its daemon, vLLM, HAProxy, and clients that never stop asking."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.life import clone as clones
from tests.life.load import Load
from tests.life.test_life import until
from tests.life.test_updates import PATIENCE, Source, followed


@dataclass(frozen=True)
class Played:
    """What came out. `wrong` empty: all is well."""

    requests: int
    pushed: int
    rolled_out: int
    wrong: tuple[str, ...]

    def text(self) -> str:
        return "\n".join([f"{self.pushed} pushes, {self.rolled_out} rollouts, {self.requests} requests, {'0 failed' if not self.wrong else 'NOT WELL'}", *self.wrong])


def play(folder: Path, count: int) -> Played:
    """Two of three pushes come while a rollout is under way."""
    source = Source(clones.make(folder / "clone"))
    try:
        followed(source)
        assert source.clone.run("dagster", "start").returncode == 0
        assert source.clone.json("up", "demo")["result"] == "serving"
        pushed = []
        with Load(source.clone.url, "demo", long_when=lambda: False) as load:
            for number in range(1, count + 1):
                pushed.append(source.push(number))
                if number % 3:
                    until(lambda: source.decisions.claim(0) is not None or source.live.revision == pushed[-1], PATIENCE, "a rollout to begin")
                else:
                    source.goes_live(pushed[-1])
            source.goes_live(pushed[-1])
        return judged(source, load, pushed)
    finally:
        source.clone.stop()
        shutil.rmtree(folder, ignore_errors=True)


def judged(source: Source, load: Load, pushed: list[str]) -> Played:
    """Every answer whole and of an accepted release; each revision rolled out at most once."""
    accepted = {f"demo-{name}" for name, record in source.decisions.releases().items() if record.accepted}
    strange = set(load.releases()) - accepted
    wrong = [f"{len(load.failed)} requests failed: {load.failed[:3]}"] if load.failed else []
    wrong += [f"{strange} answered, and was never accepted"] if strange else []
    wrong += [f"{revision[:12]} was tried more than once" for revision in pushed if len(source.tries(revision)) > 1]
    return Played(len(load.answers), len(pushed), len(accepted) - 1, tuple(wrong))
