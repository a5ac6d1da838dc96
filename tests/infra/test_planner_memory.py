"""The memory of a GPU: what is known of real systems comes out, what the engine refuses is refused, and more never fits better."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from infra.planner import Overheads, Plan, Question, Reported, Stored, advise, compare, plan, read_architecture, read_arguments, sentence
from infra.planner.advice import _largest
from infra.planner.cache import cache
from infra.planner.memory import MARGIN, REFUSALS
from tests.infra.planner_doubles import GIB, gpu, model, told

LOGGED = {"max_num_seqs": 4, "gpu_memory_utilization": 0.90, "max_num_batched_tokens": 8192, "dtype": "bfloat16"}
"""DeepSeek-R1-Distill-Llama-8B on one A10G (the shape is Llama 3.1's), vLLM 0.7: graphs were not subtracted then."""


def gib(size: int | None) -> float:
    assert size is not None
    return size / GIB


# ---------------------------------------------------------------- systems that ran


def test_the_numbers_of_system_s1_come_out() -> None:
    """Its log: 22.30 × 0.90 = 20.07 GiB; weights 14.99, activation 0.85, 4.17 left, which are 34,160 tokens."""
    made = plan(model("llama_3_1_8b"), gpu("A10G"), told(**LOGGED), overheads=Overheads(alone=int(0.06 * GIB), graphs=0))

    assert round(gib(made.requested), 2) == 20.07
    assert round(gib(made.weights) + gib(made.rope), 2) == 14.99
    assert round(gib(made.activation), 2) == 0.85
    assert gib(made.cache) == pytest.approx(4.17, abs=0.01)
    assert made.token == 128 * 1024
    # Its log rounds each term to 0.01 GiB, which is 82 tokens: two blocks more are within that, and its own rounded terms give its own number.
    assert made.tokens == 34_160 + 2 * 16
    assert int(round(20.07 - 14.99 - 0.85 - 0.06, 2) * GIB) // (16 * 128 * 1024) * 16 == 34_160
    assert made.fits
    blocks = cache(model("llama_3_1_8b"), told(**LOGGED), "bfloat16", 8192, 8192)
    assert blocks.tokens(int(4.17 * GIB)) == 34_160
    assert blocks.concurrency(int(4.17 * GIB)) == pytest.approx(4.17, abs=0.005)


def test_the_numbers_of_system_s3_come_out() -> None:
    """Mistral 7B there: a rule of thumb of 16.8 GB (7 × 2 × 1.2), 17.4 with all parameters. Ours reaches the same with 16,000 tokens of context."""
    made = plan(model("mistral_7b_v0_3"), gpu("L4"), told(max_model_len=16_000, enforce_eager=True, max_num_seqs=256))
    blocks = cache(model("mistral_7b_v0_3"), told(), "bfloat16", 16_000, 2048)
    needed = sum(part or 0 for part in (made.weights, made.rope, made.activation, made.non_torch)) + blocks.bytes()

    assert 16.8 <= needed / 1e9 <= 17.4
    assert 7.248023552 * 2 * 1.2 == pytest.approx(17.4, abs=0.01)
    assert made.fits


@pytest.mark.parametrize(
    ("name", "changed", "on", "parallel", "weights", "left"),
    [
        ("llama_3_1_8b", {}, "A10G", 1, 15.0, 4.7), ("llama_3_1_8b", {}, "L4", 1, 15.0, 4.4), ("llama_3_1_8b", {}, "L40S", 1, 15.0, 25.0),
        ("llama_3_1_8b", {"quantization_config": {"quant_method": "fp8"}}, "L4", 1, 8.5, 10.9),
        ("qwen2_5_32b", {}, "A10G", 4, 15.3, 3.9), ("qwen2_5_32b", {}, "L40S", 2, 30.5, 9.0), ("qwen2_5_32b", {}, "RTX PRO 6000", 1, 61.0, 25.3),
        ("llama_3_1_70b", {}, "L40S", 4, 32.9, 6.7), ("llama_3_1_70b", {}, "H100", 2, 65.7, 5.6),
        ("llama_3_1_70b", {"quantization_config": {"quant_method": "fp8"}}, "L40S", 4, 16.9, 22.6),
        ("llama_3_1_70b", {"quantization_config": {"quant_method": "fp8"}}, "H200", 1, 67.7, 59.9),
    ],
)  # fmt: skip
def test_a_table_made_earlier_by_other_estimates_agrees(name: str, changed: dict[str, Any], on: str, parallel: int, weights: float, left: float) -> None:
    """Utilisation 0.92, 2,048 tokens per step, 0.5 GiB of graphs: GiB of weights per GPU and GiB left for the cache."""
    given_ = told(tensor_parallel_size=parallel, max_num_seqs=256, max_model_len=4096)
    made = plan(model(name, **changed), gpu(on), given_, overheads=Overheads(int(0.06 * GIB), int(0.5 * GIB), int(0.5 * GIB)))

    assert gib(made.weights) == pytest.approx(weights, abs=0.1)
    assert gib(made.cache) == pytest.approx(left, abs=0.3)


def test_what_is_said_of_the_gpu_is_kept_to_the_byte() -> None:
    """Its share rounded up as the engine does; nothing for graphs where none are captured; an own size of the cache only where it has room."""
    shape, chip = model("llama_3_1_8b"), gpu("L4")
    graphs, eager = (plan(shape, chip, told(enforce_eager=value)) for value in (False, True))
    beside = chip.memory - graphs.requested + (graphs.cache or 0)

    assert graphs.requested == math.ceil(chip.memory * 0.92) > chip.memory * 0.92
    assert (eager.graphs, (eager.cache or 0) - (graphs.cache or 0)) == (0, graphs.graphs)
    assert plan(shape, chip, told(kv_cache_memory_bytes=beside)).cache == beside
    assert plan(shape, chip, told(kv_cache_memory_bytes=beside + 1)).because == "cache"


def test_the_widest_of_a_mixtures_two_steps_counts() -> None:
    """Eight experts per token of 768, with their results of 2,048; or the dense layers, where those are wider."""
    wide, narrow = (plan(model("qwen3_30b_a3b", intermediate_size=width), gpu("H100"), told()) for width in (60_000, 6144))

    assert narrow.activation == 2048 * (8 * (2048 + 768) + 3 * 2048) * 2 + 16 * 151_936 * 4
    assert wide.activation == 2048 * (3 * 60_000 + 3 * 2048) * 2 + 16 * 151_936 * 4


@pytest.mark.parametrize(("on", "sequences", "batch"), [("L4", 256, 2048), ("A100-80", 256, 2048), ("H100", 1024, 8192), ("B200", 1024, 16384)])
def test_what_is_not_said_is_the_engines_default_for_the_chip(on: str, sequences: int, batch: int) -> None:
    """Requests at once and tokens per step; never more than all requests hold."""
    arguments = read_arguments({})

    assert (arguments.sequences(gpu(on)), arguments.batch(gpu(on), 8192)) == (sequences, batch)
    assert read_arguments({"max_num_seqs": 2}).batch(gpu(on), 512) == 1024
    assert read_arguments({"max_num_batched_tokens": 4096}).batch(gpu(on), 512) == 4096


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "on", "given_", "because", "said"),
    [
        ("llama_3_1_8b", "T4", {"dtype": "bfloat16"}, "dtype", "bfloat16"),
        ("llama_3_1_8b", "A10G", {"quantization": "fp8"}, "quantisation", "fp8"),
        ("llama_3_1_8b", "A100-80", {"kv_cache_dtype": "fp8"}, "quantisation", "fp8"),
        ("gpt_oss_20b", "T4", {}, "quantisation", "mxfp4"),
        ("qwen2_5_32b", "L40S", {"tensor_parallel_size": 3}, "heads", "40 attention heads"),
        ("llama_3_1_70b", "H100", {"tensor_parallel_size": 64}, "", ""),
        ("qwen3_8b", "L40S", {"max_model_len": 50_000}, "context", "40,960"),
        ("llama_3_1_8b", "T4", {}, "weights", "weights alone"),
        ("llama_3_1_8b", "A10G", {"max_model_len": 100_000}, "cache", "sequence"),
        ("mistral_7b_v0_3", "L4", {"kv_cache_memory_bytes": 30 * GIB}, "cache", "left"),
        ("mistral_7b_v0_3", "L4", {"gpu_memory_utilization": 1.0}, "free", "gpu_memory_utilization 1 leaves nothing"),
        ("mistral_7b_v0_3", "L4", {"gpu_memory_utilization": 0.99}, "", ""),
        ("mistral_7b_v0_3", "L4", {"max_num_batched_tokens": 8}, "batch", "max_num_seqs 16"),
        ("mistral_7b_v0_3", "L4", {"max_num_batched_tokens": None, "max_num_seqs": 4096}, "batch", "batched_tokens 2,048"),
        ("mistral_7b_v0_3", "L4", {"enable_chunked_prefill": False}, "batch", "max_model_len 8,192"),
    ],
)
def test_what_can_not_run_is_refused_with_its_reason(name: str, on: str, given_: dict[str, Any], because: str, said: str) -> None:
    """The chip, the heads, the context, the memory; and the sentence names the number."""
    made = plan(model(name), gpu(on), told(**given_))

    assert (made.verdict, made.because) == (("refused", because) if because else ("fits", ""))
    assert said in made.why
    assert because in ("", *REFUSALS)


def test_more_sequences_than_the_cache_holds_are_refused() -> None:
    """With 5 % of margin: four of 8,192 tokens do not fit 34,160 safely, three do."""
    verdicts = {count: plan(model("llama_3_1_8b"), gpu("A10G"), told(**LOGGED), concurrency=count, overheads=Overheads(int(0.06 * GIB), graphs=0)) for count in (3, 4)}  # fmt: skip

    assert verdicts[3].fits
    assert (verdicts[4].because, verdicts[4].wanted) == ("concurrency", 4)
    assert 0 < (verdicts[4].margin or 0) < MARGIN


def test_a_gpu_that_somebody_else_uses_is_refused() -> None:
    """The engine stops when less than its share is free at the start."""
    assert plan(model("mistral_7b_v0_3"), gpu("L4"), told(), free=20 * GIB).because == "free"
    assert plan(model("mistral_7b_v0_3"), gpu("L4"), told(), free=21 * GIB).fits


def test_weights_need_main_memory_while_they_are_loaded() -> None:
    """1.2 bytes each: 8B in 16 bits does not load on 16 GiB, on 32 it does; streamed it does."""
    asked = {"name": model("llama_3_1_8b"), "on": gpu("A10G")}

    assert plan(asked["name"], asked["on"], told(), host=16 * GIB).because == "host"
    assert plan(asked["name"], asked["on"], told(), host=32 * GIB).fits
    assert plan(asked["name"], asked["on"], told(load_format="runai_streamer"), host=8 * GIB).fits


def test_a_chip_without_bfloat16_computes_in_float16_when_the_choice_is_left_to_it() -> None:
    """As the engine falls back; Gemma, which must not, gets 32 bits."""
    assert plan(model("llama_3_1_8b", num_hidden_layers=8), gpu("T4"), told()).notes[0].endswith("float16")
    assert model("llama_3_1_8b", model_type="gemma2").computes_in(bfloat16=False) == "float32"


def test_a_family_that_is_not_known_needs_headers() -> None:
    """With them it is computed like any other."""
    shape = model("llama_3_1_8b", model_type="brand_new")

    assert plan(shape, gpu("L40S"), told()).verdict == "unknown"
    assert plan(shape, gpu("L40S"), told(), files=Stored(plain=8_030_261_248, fixed=0)).fits


# ---------------------------------------------------------------- properties

NAMES = st.sampled_from(["llama_3_1_8b", "qwen2_5_7b", "qwen3_30b_a3b", "gpt_oss_20b", "mistral_7b_v0_1", "phi_4", "held_out_mistral_nemo"])
GPUS = st.sampled_from(["A10G", "L4", "L40S", "A100-80", "H100", "H200"])
LENGTHS = st.integers(16, 40_000)


def need(made: Plan) -> float:
    """How far from fitting; a plan without numbers is as far as can be."""
    return made.margin if made.margin is not None else -math.inf


def oracle(made: Plan, name: str, given_: dict[str, Any]) -> bool:
    """vLLM's own condition, in its own way: layer by layer, the pages of one sequence, in what is left, one block of the pool held back."""
    shape, length, batch = model(name), made.length, given_["max_num_batched_tokens"]
    page = 16 * 2 * max(1, shape.kv_heads // given_["tensor_parallel_size"]) * shape.head_dim * 2
    window = math.ceil(min(shape.window - 1 + 2 * batch, length) / 16) + 1
    pages = (shape.layers - shape.sliding) * math.ceil(length / 16) + shape.sliding * window
    pool = shape.layers - shape.sliding if 0 < shape.sliding < shape.layers else shape.layers
    used = sum(part or 0 for part in (made.weights, made.rope, made.activation, made.non_torch, made.graphs))
    return pages * page <= math.ceil(made.total * given_["gpu_memory_utilization"]) - used - pool * page


@given(NAMES, GPUS, LENGTHS, st.integers(1, 512), st.sampled_from([1, 2, 4]), st.sampled_from([2048, 8192]), st.floats(0.3, 1.0))
def test_nothing_is_accepted_that_the_engine_rejects(name: str, on: str, length: int, sequences: int, parallel: int, batch: int, share: float) -> None:
    """By its formula, written a second time here. And what it would take with room to spare is not refused for the cache."""
    given_ = {"max_model_len": length, "max_num_seqs": sequences, "tensor_parallel_size": parallel, "max_num_batched_tokens": batch, "gpu_memory_utilization": share}
    made = plan(model(name), gpu(on), told(**given_))
    assume(made.cache is not None and made.because not in ("heads", "context"))

    if made.fits:
        assert oracle(made, name, given_)
    if (made.margin or 0) > MARGIN:
        assert made.because != "cache"
    json.dumps(made.to_dict())


@given(NAMES, GPUS, LENGTHS, st.integers(1, 5_000), st.integers(1, 8), st.integers(1, 300))
def test_more_context_and_more_sequences_never_fit_better(name: str, on: str, length: int, more: int, concurrency: int, extra: int) -> None:
    """Each alone: what did not fit still does not."""
    shape, chip = model(name), gpu(on)
    base = plan(shape, chip, told(max_model_len=length), concurrency=concurrency)
    harder = [
        plan(shape, chip, told(max_model_len=length + more), concurrency=concurrency),
        plan(shape, chip, told(max_model_len=length), concurrency=concurrency + extra),
        plan(shape, chip, told(max_model_len=length, max_num_seqs=16 + extra), concurrency=concurrency),
        plan(shape, chip, told(max_model_len=length, max_num_batched_tokens=2048 + extra), concurrency=concurrency),
    ]

    for one in harder:
        assert need(one) <= need(base)
        assert base.fits or not one.fits


@given(st.sampled_from(["llama_3_1_8b", "qwen2_5_32b", "qwen3_30b_a3b", "deepseek_r1", "gpt_oss_20b"]), st.sampled_from([1, 2, 4]))
def test_more_gpus_never_hold_more_each(name: str, parallel: int) -> None:
    """Weights, activation and bytes per token; and beyond two GPUs, where nothing new is added, what fitted still fits."""
    shape, chip = model(name), gpu("H200")
    few, many = (plan(shape, chip, told(tensor_parallel_size=count)) for count in (parallel, 2 * parallel))

    assert (many.weights or 0) <= (few.weights or 0)
    assert cache(shape, told(tensor_parallel_size=2 * parallel), "bfloat16", 8192, 2048).token <= cache(shape, told(tensor_parallel_size=parallel), "bfloat16", 8192, 2048).token  # fmt: skip
    if parallel > 1:
        assert need(many) >= need(few)


@given(NAMES, GPUS, st.integers(0, 40 * GIB), st.integers(0, 20 * GIB), st.sampled_from(["bfloat16", "fp8"]))
def test_more_bytes_never_leave_more_cache(name: str, on: str, fixed: int, more: int, kind: str) -> None:
    """Of weights; and 8 bits per number of the cache hold at least as much as 16."""
    shape, chip = model(name), gpu(on)
    few, many = (plan(shape, chip, told(max_model_len=2048), files=Stored(0, size)) for size in (fixed, fixed + more))
    wide = plan(shape, chip, told(max_model_len=2048, kv_cache_dtype=kind), files=Stored(0, fixed))

    assert need(many) <= need(few)
    assert need(wide) >= need(few)


@given(st.dictionaries(st.sampled_from(["max_model_len", "max_num_seqs", "dtype", "tensor_parallel_size", "block_size", "quantization", "gpu_memory_utilization"]),
                       st.none() | st.integers(-3, 1 << 60) | st.floats() | st.text(max_size=5) | st.booleans()))  # fmt: skip
def test_no_argument_breaks_the_planning(given_: dict[str, Any]) -> None:
    """Whatever stands in engine.extra, there is a verdict that can be written as JSON."""
    made = plan(model("llama_3_1_8b"), gpu("L4"), read_arguments(given_))

    assert made.verdict in ("fits", "refused", "unknown")
    assert json.loads(json.dumps(made.to_dict()))["verdict"] == made.verdict


# ---------------------------------------------------------------- advice


def kinds(asked: Question) -> list[str]:
    found = advise(asked)
    assert all(one.plan.fits for one in found)
    return [one.kind for one in found]


def test_advice_is_the_nearest_thing_that_fits() -> None:
    """8B with its whole context on an L4: shorter, more GPUs, a bigger GPU; each with what to write."""
    asked = Question(model("llama_3_1_8b"), gpu("L4"), told(max_model_len=131_072))
    found = advise(asked)

    assert kinds(asked) == ["shorter", "parallel", "bigger"]
    assert found[0].text.startswith("set engine.max_model_len: 3")
    assert "2 × L4" in found[1].text
    assert "; or " in sentence(found)


def test_advice_knows_fp8_fewer_sequences_and_types() -> None:
    """fp8 only where the chip can; fewer sequences where several were asked for; a type that the chip has."""
    shape = model("held_out_qwen2_5_14b")

    assert "fp8" in kinds(Question(shape, gpu("L4"), told(max_model_len=4096)))
    assert "fp8" not in kinds(Question(shape, gpu("A10G"), told(max_model_len=4096)))
    assert kinds(Question(model("llama_3_1_8b"), gpu("A10G"), told(**LOGGED), concurrency=9))[:2] == ["fewer", "shorter"]
    assert kinds(Question(model("llama_3_1_8b", num_hidden_layers=8), gpu("T4"), told(dtype="bfloat16")))[0] == "type"


def test_advice_knows_the_share_of_the_gpu() -> None:
    """More than there is, and less than is needed; as much as is free where others use it."""
    shape = model("mistral_7b_v0_3")
    greedy, modest = (advise(Question(shape, gpu("L4"), told(gpu_memory_utilization=share)))[0] for share in (1.0, 0.3))
    beside = advise(Question(shape, gpu("L4"), told(), free=19 * GIB))[0]

    assert [one.kind for one in (greedy, modest, beside)] == ["room"] * 3
    assert greedy.text == modest.text == "set engine.extra.gpu_memory_utilization: 0.92"
    assert beside.text == "set engine.extra.gpu_memory_utilization: 0.86"


def test_advice_is_exact_at_its_edge() -> None:
    """16 tokens more than advised would not fit."""
    asked = Question(model("llama_3_1_8b"), gpu("L4"), told(max_model_len=131_072))
    length = advise(asked)[0].plan.length

    assert not asked.but(max_model_len=length + 16).plan().fits


@given(st.integers(0, 60), st.integers(1, 20), st.integers(0, 60))
def test_the_search_finds_the_largest_that_fits(edge: int, least: int, most: int) -> None:
    """Whatever the range."""
    fitting = [value for value in range(least, most + 1) if value <= edge]

    assert _largest(lambda value: value <= edge, least, most) == (fitting[-1] if fitting else 0)


def test_nothing_is_advised_where_nothing_helps_or_is_needed() -> None:
    """A model that fits; and one that no single GPU and no group of eight T4s holds."""
    assert advise(Question(model("llama_3_1_8b"), gpu("L40S"), told())) == ()
    assert "bigger" not in kinds(Question(model("deepseek_r1"), gpu("T4"), told()))
    assert "smaller model" in sentence(())


# ---------------------------------------------------------------- beside what the engine says


def test_a_tenth_of_difference_is_warned_of_with_both_numbers() -> None:
    """The log of that very engine agrees; another engine's does not."""
    made = plan(model("llama_3_1_8b"), gpu("A10G"), told(**LOGGED), overheads=Overheads(alone=int(0.06 * GIB), graphs=0))

    agrees = compare(made.to_dict(), Reported(weights_gib=14.99, cache_gib=4.17, tokens=34_160))
    differs = compare(made.to_dict(), Reported(weights_gib=14.99, cache_gib=3.6))

    assert [one.warns for one in agrees] == [False, False, False]
    assert [one.warns for one in differs] == [False, True]
    assert "planned 4.18, engine 3.60 (16% more than the engine says)" in differs[1].sentence()
    assert compare(made.to_dict(), Reported()) == ()


def test_nearly_nothing_is_not_warned_of() -> None:
    """A tenth of a few megabytes is no drift; a cache of nothing where one was planned is."""
    small = plan(model("llama_3_1_8b", num_hidden_layers=1, vocab_size=100, intermediate_size=1024), gpu("L4"), told())
    near = compare(small.to_dict(), Reported(weights_gib=gib(small.weights) + gib(small.rope) + 0.04))[0]

    assert abs(near.share) > 0.1
    assert not near.warns
    assert [one.warns for one in compare(small.to_dict(), Reported(cache_gib=0.0))] == [True]


def test_the_shape_of_a_model_without_config_is_unknown() -> None:
    """Before the weights are there."""
    assert plan(read_architecture({}), gpu("L4"), told()).verdict == "unknown"
