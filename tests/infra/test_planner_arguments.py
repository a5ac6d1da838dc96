"""Engine arguments: what they change in a plan, what the engine refuses by them, and what is not computed with them."""

from __future__ import annotations

from typing import Any

import pytest

from infra.planner import Stored, plan, read_arguments
from tests.infra.planner_doubles import GIB, gpu, model, told


@pytest.mark.parametrize(
    ("config", "given_"),
    [({"mamba_d_state": 128}, {}), ({}, {"speculative_config": {"model": "x"}}), ({}, {"spec_method": "ngram"}), ({}, {"max_num_seqs": "many"}), ({}, {"kv_cache_dtype": "nvfp4"}),
     ({}, {"max_model_len": -1}), ({}, {"max_model_len": "16k"}), ({}, {"decode_context_parallel_size": 2}), ({}, {"kv_cache_dtype_skip_layers": ["0"]}), ({}, {"enable_eplb": True}),
     ({}, {"performance_mode": "throughput"}), ({}, {"disable_sliding_window": True}), ({}, {"runner": "pooling"}), ({}, {"kv_offloading_size": 4.0})],
)  # fmt: skip
def test_what_is_not_computed_is_neither_accepted_nor_refused(config: dict[str, Any], given_: dict[str, Any]) -> None:
    """Unknown, with the reason and without numbers that nobody computed; what can not fit by its weights alone is refused all the same."""
    shape, arguments = model("llama_3_1_8b", **config), read_arguments({"max_model_len": 4096, **given_})
    made = plan(shape, gpu("L40S"), arguments)

    assert made.verdict == "unknown"
    assert made.why.startswith("not computed: ")
    assert (made.cache, made.tokens, made.margin) == (None, None, None)
    assert plan(shape, gpu("T4"), arguments).because == "weights"


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"pipeline_parallel_size": 2}, "pipeline"), ({"data_parallel_size": 2}, "data_parallel"), ({"nnodes": 2}, "nnodes"), ({"cpu_offload_gb": 10}, "main memory"), ({"offload_backend": "prefetch"}, "main memory"),
        ({"quantization": "mxfp8"}, "mxfp8"), ({"quantization_config": {"linear": "mxfp8"}}, "quantised"), ({"hf_overrides": {"num_hidden_layers": 2}}, "overridden"), ({"tensor_parallel_size": "2"}, "tensor_parallel_size"),
    ],
)  # fmt: skip
def test_weights_that_are_other_than_computed_refuse_nothing(given_: dict[str, Any], said: str) -> None:
    """Two T4 of a pipeline hold what one does not; no number of weights is told that a log would contradict."""
    made = plan(model("llama_3_1_8b"), gpu("T4"), read_arguments({"max_model_len": 4096, **given_}))

    assert (made.verdict, made.weights, made.host is None) == ("unknown", None, False)
    assert said in made.why


@pytest.mark.parametrize("given_", [{"pipeline_parallel_size": 1}, {"runner": "auto"}, {"convert": "none"}, {"performance_mode": "balanced"}, {"enable_lora": False}, {"hf_overrides": {}}, {"cpu_offload_gb": 0}, {"offload_backend": "auto"}, {"enable_expert_parallel": True}])
def test_arguments_that_say_what_silence_says_change_nothing(given_: dict[str, Any]) -> None:
    """Somebody wrote the default."""
    assert plan(model("llama_3_1_8b"), gpu("L4"), read_arguments({"max_model_len": 4096, **given_})).fits


@pytest.mark.parametrize("name", ["fp8", "fp8_per_tensor", "fp8_per_channel", "fp8_per_block"])
def test_eight_bits_that_the_engine_makes_are_computed(name: str) -> None:
    """By all their names; the files that pass through main memory still have sixteen."""
    made = plan(model("llama_3_1_8b"), gpu("L4"), told(quantization=name))

    assert made.fits and (made.weights or 0) / GIB == pytest.approx(8.46, abs=0.01)
    assert (made.host or 0) / GIB == pytest.approx(1.2 * 14.96, abs=0.01)


@pytest.mark.parametrize("method", ["bitsandbytes", "hqq"])
def test_a_quantisation_that_the_engine_has_not_is_refused(method: str) -> None:
    """Whatever the files weigh; one that nobody here knows is not."""
    files = Stored(plain=10**8, fixed=4 * 10**9)
    made, strange = (plan(model("llama_3_1_8b", quantization_config={"quant_method": name}), gpu("L40S"), told(), files=files) for name in (method, "quark"))

    assert (made.because, method in made.why) == ("quantisation", True)
    assert plan(model("llama_3_1_8b", quantization_config={"quant_method": method}), gpu("L40S"), told()).weights is None
    assert strange.fits


def test_groups_of_quantised_numbers_are_not_split() -> None:
    """Qwen 2.5 72B in AWQ on eight GPUs, and blocks of fp8: the engine refuses both. A row of experts is padded there, and one GPU splits nothing."""
    awq, fp8 = {"quant_method": "awq", "bits": 4, "group_size": 128}, {"quant_method": "fp8", "weight_block_size": [128, 128]}
    verdicts = [
        plan(model("llama_3_1_70b", intermediate_size=29_568, quantization_config=kind), gpu("H200"), told(tensor_parallel_size=count)).because
        for kind, count in ((awq, 1), (awq, 8), (awq | {"group_size": 32}, 2), (awq | {"group_size": -1}, 8), (awq | {"group_size": 256}, 1), (fp8, 1), (fp8, 8), ({"quant_method": "fp8"}, 8))
    ]

    assert verdicts == ["", "heads", "", "", "", "", "heads", ""]
    assert plan(model("qwen3_30b_a3b", quantization_config=awq, intermediate_size=6208), gpu("H200"), told(tensor_parallel_size=4)).fits
    assert plan(model("qwen3_30b_a3b", moe_intermediate_size=770), gpu("H200"), told(tensor_parallel_size=4)).because == "heads"
    assert plan(model("qwen3_30b_a3b", moe_intermediate_size=770), gpu("H200"), told(tensor_parallel_size=4, enable_expert_parallel=True)).fits


def test_batches_without_chunks_hold_a_whole_sequence() -> None:
    """Then the default grows to the longest; and the engine refuses less."""
    whole = {"enable_chunked_prefill": False, "max_num_batched_tokens": None}

    assert told(**whole).batch(gpu("L4"), 8192) == 8192
    assert told(**whole).batch(gpu("L4"), 512) == 2048
    assert plan(model("llama_3_1_8b"), gpu("L40S"), told(enable_chunked_prefill=False, max_num_batched_tokens=8192)).fits
    assert plan(model("llama_3_1_8b"), gpu("L40S"), told(max_num_batched_tokens=16, max_num_seqs=16)).fits


def test_a_family_that_was_never_compared_is_named() -> None:
    """It may have another cache than ordinary attention has; those of the catalogue were compared."""
    strange, known = (plan(model("llama_3_1_8b", model_type=name), gpu("L40S"), told(), files=Stored(plain=10**9, fixed=0)) for name in ("rwkv9", "cohere"))

    assert strange.fits and any("rwkv9 was never compared" in note for note in strange.notes)
    assert not any("compared" in note for note in known.notes)


def test_gemma_is_refused_in_float16() -> None:
    """As the engine refuses it; elsewhere it is nobody's business."""
    half = told(dtype="float16")

    assert plan(model("llama_3_1_8b", model_type="gemma2"), gpu("L40S"), half).because == "dtype"
    assert plan(model("llama_3_1_8b"), gpu("L40S"), half).fits


def test_a_context_that_nobody_says_is_not_computed() -> None:
    """Neither config.json nor the declaration: then the batch is the chip's own, and no reason to refuse."""
    silent = model("llama_3_1_8b", max_position_embeddings=None)

    made = plan(silent, gpu("L40S"), told(max_model_len=None, max_num_batched_tokens=None), files=Stored(plain=10**9, fixed=0))

    assert (silent.positions, made.verdict) == (0, "unknown") and "longest context" in made.why
