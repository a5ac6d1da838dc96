"""Fitting: the memory planner's word for one release on the hardware that a platform has. Pure but for `judge`; shared by every platform.

    no GPU     the plan in main memory (footprint.py) against the largest machine that one replica could get
    GPUs       the plan on each kind of GPU that it could get. One that fits is enough; those that do not are named

A GPU that the catalogue does not know is never refused: nothing is known of its memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from infra import engine
from infra.errors import ConfigError, PipelineError, Withdrawn
from infra.footprint import planned
from infra.planner import CpuPlan, Gpu, Plan, Question, advise, advise_on_cpus, gib, read_architecture, read_arguments, sentence, stored
from infra.planner.memory import Verdict
from infra.platform import CapacityPart, Release, WeightsPart
from infra.states import Fit
from infra.waiting import Progress
from infra.weights import Outline

OUTLINE_SECONDS = 60.0
"""Seconds for the headers of all files, which are small. A source that does not answer by then is not waited for: nothing is computed."""

MAIN = "main memory"
"""The hardware of an engine without a GPU."""

NUMBERS = (
    "length", "total", "requested", "weights", "rope", "activation", "non_torch", "graphs", "overhead", "cache", "token", "tokens",
    "concurrency", "sequences", "margin", "needs", "free", "host",
)  # fmt: skip
"""What of a plan is told, in this order; the words are those of `Plan` and `CpuPlan`."""


@dataclass(frozen=True)
class Chips:
    """GPUs of one machine, or of one type of machine, that a replica could get.

    named    as the driver or a label says. gpu: what that is in the catalogue; None: unknown
    count    of them on one machine
    host     bytes of main memory that a replica can have there; None: not looked at
    where    in words: "this machine", "node gpu-1", "g6.xlarge"
    """

    named: str
    gpu: Gpu | None
    count: int
    host: int | None
    where: str


def judge(capacity: CapacityPart, weights: WeightsPart, release: Release, progress: Progress) -> Fit:
    """The planner's word from what the source tells. One that is silent now must not stop what needs no source any more, such as a heal: nothing is computed, and why is said."""
    unread = ""
    try:
        outline = weights.outline(release, Progress(min(OUTLINE_SECONDS, progress.left), progress.report, progress.stop, progress.ask_every))
    except Withdrawn:
        raise
    except PipelineError as error:
        progress.check()
        outline, unread = Outline(), error.problem.what
    fit = capacity.fits(release, outline)
    return replace(fit, why=f"not computed: {unread}") if unread and fit.verdict == "unknown" else fit


def insisted(fit: Fit, release: Release) -> Fit:
    """The word that lets it go on. Raises ConfigError with all numbers for what is refused."""
    if fit.verdict == "refused":
        where = "does not fit into main memory" if fit.hardware == MAIN else f"does not fit on {fit.hardware}" if fit.hardware else "can never run here"
        raise ConfigError(f"{release.name} {where}", why=told(fit), next=fit.next or sentence(()))
    return fit


def told(fit: Fit) -> str:
    """Why, and all numbers behind it, in words."""
    rows = [f"{name.replace('_', ' ')} {_number(name, value)}" for name, value in fit.numbers.items() if value is not None]
    return f"{fit.why} ({', '.join(rows)})" if rows else fit.why


# ------------------------------------------------ without a GPU


def in_main_memory(release: Release, outline: Outline, free: int | None, where: str) -> Fit:
    """One replica in `free` bytes of main memory; None: nobody knows how many there can be. What `resources.memory` declares counts in place of the planner's sum, which is an estimate."""
    declared = release.spec.resources.memory
    made = planned(release, outline, free if declared is None else None)
    if made.verdict == "refused":
        found = advise_on_cpus(lambda told: planned(release, outline, free, told), read_arguments(engine.arguments(release)))
        return _cpu(made, "refused", f"{where}: {made.why}", sentence(found))
    if declared is None:
        return _cpu(made, made.verdict, made.why if free is None and made.token is None else f"{where}: {made.why}")
    both = f"resources.memory declares {gib(declared)}, the planner's own sum is {gib(made.needs)}"
    if free is not None and declared > free:
        return _cpu(made, "refused", f"{where}: resources.memory declares {gib(declared)}, {gib(max(0, free))} are there", "lower resources.memory, or leave it to the planner")
    return _cpu(made, "fits" if declared >= made.needs and made.token else "unknown", both if made.token else f"{both}; {made.why}")


def _cpu(made: CpuPlan, verdict: Verdict, why: str, then: str = "") -> Fit:
    return Fit(verdict, why, then, MAIN, _numbers(made))


# ------------------------------------------------ on GPUs


def on_gpus(release: Release, outline: Outline, chips: Sequence[Chips], nowhere: str) -> Fit:
    """One replica on `resources.gpu` GPUs of one machine. `nowhere`: what is said when no machine has a GPU for it."""
    told, asked = read_arguments(engine.arguments(release)), release.spec.resources.gpu or 0
    if told.tensor_parallel_size > asked:
        parallel = told.tensor_parallel_size
        return Fit("refused", f"tensor_parallel_size {parallel} needs {parallel} GPUs per replica, resources.gpu says {asked}", f"set resources.gpu: {parallel}, or lower engine.tensor_parallel_size")
    enough = [one for one in chips if one.count >= asked]
    if not enough:
        most = max(chips, key=lambda one: one.count, default=None)
        why = f"needs {_gpus(asked)} on one machine; {most.where} has {_gpus(most.count)}" if most else f"needs {_gpus(asked)}; {nowhere}"
        return Fit("refused", why, f"lower resources.gpu and engine.tensor_parallel_size to {most.count}" if most and most.count else "add such a GPU, or declare resources.gpu: 0")
    model = read_architecture(outline.config)
    files = stored(outline.headers, model) if outline.headers else None
    judged = [(one, Question(model, one.gpu, told, files, host=one.host)) for one in _kinds(enough) if one.gpu]
    return _best([(one, question, question.plan()) for one, question in judged], [one for one in _kinds(enough) if not one.gpu], asked)


Judged = tuple[Chips, Question, Plan]


def _best(judged: Sequence[Judged], unknown: Sequence[Chips], asked: int) -> Fit:
    """The tightest of those that fit, since nobody says which one it gets; else what nobody knows; else the nearest of those that do not."""
    fitting = [row for row in judged if row[2].fits]
    refused = [row for row in judged if row[2].verdict == "refused"]
    if fitting:
        one, _, made = min(fitting, key=lambda row: row[2].margin or 0.0)
        off = sorted({row[2].gpu for row in refused})
        return _gpu(one, made, asked, "; ".join((made.why, *made.notes)), f"keep it off {', '.join(off)}, which it may get too and where it does not fit" if off else "")
    if open_ := [row for row in judged if row[2].verdict == "unknown"]:
        return _gpu(open_[0][0], open_[0][2], asked, open_[0][2].why)
    if unknown:
        names = ", ".join(sorted({one.named or "a GPU that nobody names" for one in unknown}))
        return Fit("unknown", f"not computed: {names} ({unknown[0].where}) is not in the catalogue of GPUs", hardware=f"{asked} x {unknown[0].named}" if unknown[0].named else "")
    one, question, made = max(refused, key=lambda row: (row[2].margin if row[2].margin is not None else -2.0, row[2].total))
    return _gpu(one, made, asked, f"{one.where}: {made.why}", sentence(advise(question)))


def _gpu(one: Chips, made: Plan, asked: int, why: str, then: str = "") -> Fit:
    return Fit(made.verdict, why, then, f"{asked} x {made.gpu}", _numbers(made))


def _kinds(chips: Sequence[Chips]) -> list[Chips]:
    """One of each that differs in what is planned with."""
    return list({(one.named if one.gpu is None else one.gpu.name, one.host): one for one in reversed(chips)}.values())[::-1]


def _gpus(count: int) -> str:
    return f"{count} GPU{'' if count == 1 else 's'}"


def _numbers(made: Plan | CpuPlan) -> dict[str, float | None]:
    known = made.to_dict()
    return {name: known[name] for name in NUMBERS if name in known}


def _number(name: str, value: float) -> str:
    if name == "margin":
        return f"{value:.0%}"
    return f"{value:,.3g}" if name == "concurrency" else f"{value:,.0f}" if name in ("length", "tokens", "sequences") else f"{value / 1024:,.0f} KiB" if name == "token" else gib(int(value))
