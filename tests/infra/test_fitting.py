"""The planner's word on real hardware: GPUs that a machine has, and main memory; what is refused, by which numbers, and what would fit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import CapacityError, ConfigError, Timeout, Withdrawn
from infra.fitting import Chips, in_main_memory, insisted, judge, on_gpus, told
from infra.footprint import OVERHEAD, loading, planned
from infra.planner import HOST, catalogue
from infra.platform import Release
from infra.states import Fit
from infra.waiting import Progress
from infra.weights import File, Manifest, Outline
from tests.doubles.releases import release
from tests.infra.planner_doubles import GIB, NAMES, facts

PLENTY = 2048 * GIB
LLAMA = Outline(facts("llama_3_1_8b")["config"])
SMALL: dict[str, Any] = {"max_model_len": 8192, "max_num_seqs": 16}


def wanted(gpu: int = 1, **more: Any) -> Release:
    return release(**{"resources": {"gpu": gpu}, "engine": SMALL, **more})


def chips(*names: str, count: int = 1, host: int | None = PLENTY) -> list[Chips]:
    return [Chips(name, catalogue().gpu(name), count, host, f"node {name.lower()}") for name in names]


def fit(asked: Release, *names: str, outline: Outline = LLAMA, **more: Any) -> Fit:
    return on_gpus(asked, outline, chips(*names, **more), "no GPU is here")


# ------------------------------------------------ GPUs


def test_what_fits_is_told_with_its_numbers() -> None:
    """8B on one A10G: what an engine there said, in words that the planner uses."""
    found = fit(wanted(), "NVIDIA-A10G")

    assert (found.verdict, found.hardware, found.next) == ("fits", "1 x A10G", "")
    assert 14.9 < (found.numbers["weights"] or 0) / GIB < 15.0
    assert (found.numbers["tokens"] or 0) > 8192
    assert {"requested", "cache", "token", "concurrency", "margin", "host"} <= found.numbers.keys()


def test_what_does_not_fit_is_refused_with_all_numbers_and_what_would() -> None:
    """8B in 16 bits on a T4, and its whole context on an L4: as an error with its four parts."""
    with pytest.raises(ConfigError) as weights:
        insisted(fit(wanted(), "Tesla-T4"), wanted())
    with pytest.raises(ConfigError) as cache:
        insisted(fit(wanted(engine={**SMALL, "max_model_len": 131_072}), "NVIDIA-L4"), wanted())

    assert "does not fit on 1 x T4" in weights.value.problem.what and "weights alone take 15.0 GiB" in (weights.value.problem.why or "")
    assert "use a GPU such as" in (weights.value.problem.next or "")
    assert all(word in (cache.value.problem.why or "") for word in ("weights 15.0 GiB", "token 128 KiB", "tokens ", "margin "))
    assert "set engine.max_model_len: 3" in (cache.value.problem.next or "") and "2 × L4" in (cache.value.problem.next or "")


def test_a_gpu_that_nobody_knows_is_never_refused() -> None:
    """Its name is said; a slice of a known one is unknown too, where the platform says so."""
    found = fit(wanted(), "NVIDIA-B1000")
    nameless = on_gpus(wanted(), LLAMA, [Chips("", None, 4, None, "Karpenter's pool x")], "")

    assert (found.verdict, found.hardware) == ("unknown", "1 x NVIDIA-B1000")
    assert "not computed: NVIDIA-B1000 (node nvidia-b1000) is not in the catalogue" in found.why
    assert (nameless.verdict, nameless.hardware) == ("unknown", "")
    assert insisted(found, wanted()) == found


def test_tensor_parallelism_needs_as_many_gpus() -> None:
    """Per replica; with too few it is refused before any arithmetic, and the plan is made for the group."""
    two = {**SMALL, "tensor_parallel_size": 2}
    short, right = fit(wanted(1, engine=two), "L40S", count=8), fit(wanted(2, engine=two), "L4", count=2)

    assert short.verdict == "refused" and "tensor_parallel_size 2 needs 2 GPUs" in short.why and "resources.gpu: 2" in short.next
    assert (right.verdict, right.hardware) == ("fits", "2 x L4")
    assert 7.4 < (right.numbers["weights"] or 0) / GIB < 7.6


def test_machines_with_too_few_gpus_do_not_count() -> None:
    """The largest is named with its number; none at all is what the platform says."""
    few, none = fit(wanted(4), "L4", "L40S", count=2), on_gpus(wanted(4), LLAMA, [], "no GPU is here")

    assert few.verdict == none.verdict == "refused"
    assert "needs 4 GPUs on one machine; node l4 has 2 GPUs" in few.why and "to 2" in few.next
    assert none.why == "needs 4 GPUs; no GPU is here"
    with pytest.raises(ConfigError, match="can never run here"):
        insisted(none, wanted(4))


def test_of_several_kinds_one_that_fits_is_enough_and_the_others_are_named() -> None:
    """Nobody says which it gets: the tightest one's numbers are told. What nobody knows does not spoil what fits, and is no refusal beside what does not."""
    mixed, unknown, refused = fit(wanted(), "L40S", "T4", "L4"), fit(wanted(), "T4", "NVIDIA-B1000"), fit(wanted(engine={**SMALL, "max_model_len": 131_072}), "T4", "L4")

    assert (mixed.verdict, mixed.hardware) == ("fits", "1 x L4") and "keep it off T4" in mixed.next
    assert unknown.verdict == "unknown"
    assert (refused.verdict, refused.hardware) == ("refused", "1 x L4")


def test_main_memory_for_loading_is_looked_at() -> None:
    """1.2 bytes for each of the weights; what somebody declared is believed (host is then not looked at); streamed weights need none."""
    tight, declared = fit(wanted(), "A10G", host=16 * GIB), fit(wanted(), "A10G", host=None)
    streamed = fit(wanted(engine={**SMALL, "extra": {"load_format": "runai_streamer"}}), "A10G", host=8 * GIB)

    assert tight.verdict == "refused" and "of main memory" in tight.why
    assert (declared.verdict, streamed.verdict) == ("fits", "fits")


def test_headers_count_before_the_configuration_does() -> None:
    """A family that nobody counts is planned by them."""
    strange = {**facts("llama_3_1_8b")["config"], "model_type": "brand_new"}
    headers = ({"model.layers.0.a.weight": {"dtype": "BF16", "shape": [8_030_261_248]}},)

    assert fit(wanted(), "L40S", outline=Outline(strange)).verdict == "unknown"
    assert fit(wanted(), "L40S", outline=Outline(strange, headers)).verdict == "fits"


def test_a_hybrid_is_said_to_be_not_computed() -> None:
    """It goes on, and says what nobody computed."""
    found = fit(wanted(), "L40S", outline=Outline({**facts("llama_3_1_8b")["config"], "mamba_d_state": 128}))

    assert found.verdict == "unknown" and found.why.startswith("not computed: it is a hybrid")
    assert insisted(found, wanted()).verdict == "unknown"


@given(st.sampled_from(NAMES), st.lists(st.sampled_from(["T4", "L4", "A10G", "L40S", "H100", "H200", "NVIDIA-B1000"]), max_size=4), st.integers(1, 8), st.integers(1, 8), st.sampled_from([1, 2, 4, 8]), st.integers(256, 200_000))
def test_what_is_accepted_fits_somewhere_and_what_is_refused_fits_nowhere(name: str, kinds: list[str], count: int, gpus: int, parallel: int, length: int) -> None:
    """Whatever a cluster is made of: the word for all of it follows from the words for each."""
    asked, outline = wanted(gpus, engine={"max_model_len": length, "max_num_seqs": 16, "tensor_parallel_size": parallel}), Outline(facts(name)["config"])
    each = [fit(asked, kind, outline=outline, count=count).verdict for kind in kinds]

    verdict = fit(asked, *kinds, outline=outline, count=count).verdict

    assert verdict == ("fits" if "fits" in each else "unknown" if "unknown" in each else "refused")


# ------------------------------------------------ main memory


def test_main_memory_is_planned_with_exact_weights() -> None:
    """Of the headers where they are there; they are not of the size that the files have."""
    headers = ({"model.embed_tokens.weight": {"dtype": "F32", "shape": [1_000_000]}},)
    exact, counted = planned(release(), Outline(LLAMA.config, headers)), planned(release(), LLAMA)

    assert exact.weights == 2_000_000
    assert counted.weights == 8_030_261_248 * 2


def test_what_does_not_fit_into_main_memory_says_what_would() -> None:
    """Fewer sequences, shorter context; both were planned again and fit."""
    asked = release(engine={"max_model_len": 131_072, "max_num_seqs": 8})
    found = in_main_memory(asked, LLAMA, 60 * GIB, "this machine")

    assert (found.verdict, found.hardware) == ("refused", "main memory")
    assert found.why.startswith("this machine: needs ") and "set engine.max_num_seqs: " in found.next and "set engine.max_model_len: " in found.next
    fewer = int(found.next.split("max_num_seqs: ")[1].split(";")[0])
    assert in_main_memory(release(engine={"max_model_len": 131_072, "max_num_seqs": fewer}), LLAMA, 60 * GIB, "").verdict == "fits"
    assert in_main_memory(release(engine={"max_model_len": 131_072, "max_num_seqs": fewer + 1}), LLAMA, 60 * GIB, "").verdict == "refused"


def test_a_cache_that_holds_no_sequence_is_refused_wherever() -> None:
    """However much memory there is; the planner's own figure is the advice."""
    asked = release(engine={"max_model_len": 8192, "max_num_seqs": 4, "extra": {"kv_cache_memory_bytes": 1 << 20}})
    found = in_main_memory(asked, LLAMA, PLENTY, "this machine")

    assert found.verdict == "refused" and "raise engine.extra.kv_cache_memory_bytes: the planner would give " in found.next


def test_nothing_helps_a_model_that_is_too_large() -> None:
    """It is said, not left empty."""
    found = in_main_memory(release(), Outline(facts("deepseek_r1")["config"]), 16 * GIB, "this machine")

    assert found.verdict == "refused" and "smaller model" in found.next


def test_declared_memory_is_believed_and_compared() -> None:
    """More than the machine has is refused; less than the planner's sum is not judged, with both numbers."""
    verdicts = {size: in_main_memory(release(resources={"memory": size}, engine={"max_model_len": 2048, "max_num_seqs": 4}), LLAMA, 64 * GIB, "this machine") for size in ("32Gi", "8Gi", "65Gi")}

    assert [one.verdict for one in verdicts.values()] == ["fits", "unknown", "refused"]
    assert "declares 8.00 GiB" in verdicts["8Gi"].why and "sum is " in verdicts["8Gi"].why


def test_without_a_config_only_what_is_known_refuses() -> None:
    """The files alone are larger than the machine; else unknown."""
    large = release(Manifest((File("model.safetensors", 40 * GIB, "sha256:" + "2" * 64),)))

    assert in_main_memory(large, Outline(), 16 * GIB, "").verdict == "refused"
    assert in_main_memory(release(), Outline(), 16 * GIB, "").verdict == "unknown"
    assert in_main_memory(release(), LLAMA, None, "somewhere").verdict == "unknown"


def test_what_passes_through_main_memory_follows_from_the_files() -> None:
    """The rule of the planner over weights alone, pickles too; streamed weights never lie there."""
    files = Manifest((File("config.json", 10**9, "sha256:" + "1" * 64), File("a.safetensors", 3000, "sha256:" + "2" * 64), File("b.bin", 7000, "sha256:" + "3" * 64)))

    assert loading(release(files)) == 10_000 * HOST
    assert loading(release(files, engine={"extra": {"load_format": "runai_streamer"}})) == 0
    assert set(OVERHEAD) == {"ray", "vllm"}


# ------------------------------------------------ a source that is silent


class Silent:
    """`WeightsPart` whose source does not answer, and `CapacityPart` with one L4."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def fits(self, release: Release, outline: Outline) -> Fit:
        return fit(release, "L4", outline=outline)

    def outline(self, release: Release, progress: Progress) -> Outline:
        raise self.error


def asked(source: Silent, progress: Progress) -> Fit:
    return judge(source, source, wanted(), progress)  # type: ignore[arg-type]


def test_a_silent_source_stops_nothing() -> None:
    """Nothing is computed, and why is said; a model that is taken down meanwhile ends it."""
    busy = CapacityError("the Hub is overloaded")

    went_on = insisted(asked(Silent(busy), Progress()), wanted())
    with pytest.raises(Withdrawn):
        asked(Silent(Withdrawn("gone")), Progress())
    with pytest.raises(Timeout):
        asked(Silent(Timeout("too slow")), Progress(0))

    assert (went_on.verdict, went_on.why) == ("unknown", "not computed: the Hub is overloaded")


def test_numbers_are_told_in_their_units() -> None:
    """Bytes as GiB, tokens and sequences as counts, a margin as a share; what nobody computed is left out."""
    text = told(Fit("refused", "too large", numbers={"weights": 16e9, "tokens": 34_160.0, "token": 131_072.0, "margin": 0.25, "concurrency": 4.17, "graphs": None}))

    assert text == "too large (weights 14.9 GiB, tokens 34,160, token 128 KiB, margin 25%, concurrency 4.17)"
