"""Engines on CPUs: the space for the cache, and whether they fit into main memory."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from infra.planner import Arguments, Reported, Stored, cache_space, compare, plan_cpu, read_architecture, read_arguments
from infra.planner.cache import cache
from tests.infra.planner_doubles import GIB, model

SMALL = {"model_type": "llama", "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512,
         "intermediate_size": 256, "max_position_embeddings": 512, "tie_word_embeddings": True}  # fmt: skip
RAY = 3_600 << 20


def test_the_demo_fits_beside_itself_on_a_machine_of_24_gib() -> None:
    """Weights and cache of a tiny model are nothing: it needs what Ray and Python need."""
    made = plan_cpu(read_architecture(SMALL), read_arguments({"max_model_len": 512, "max_num_seqs": 4, "dtype": "bfloat16"}), overhead=RAY, free=8 * GIB)

    assert made.fits
    assert RAY < made.needs < RAY + (128 << 20)
    assert made.cache == 64 << 20
    assert "are free" in made.why


def test_8b_does_not_fit_16_gib_and_fits_64() -> None:
    """Weights of 15 GiB and a tenth, the cache of every sequence, and the rest."""
    shape, told = model("llama_3_1_8b"), Arguments(max_model_len=4096, max_num_seqs=4)

    assert plan_cpu(shape, told, overhead=RAY, free=16 * GIB).verdict == "refused"
    made = plan_cpu(shape, told, overhead=RAY, free=64 * GIB)
    assert made.fits
    assert made.cache == (4 * 32 + 1) * 128 * 128 * 1024
    assert made.concurrency is not None and made.concurrency > 4


@given(st.integers(16, 9000), st.integers(1, 32))
def test_the_space_always_holds_every_sequence(length: int, sequences: int) -> None:
    """Whole blocks, and the one that is held back: the engine would refuse to start otherwise."""
    shape, told = model("qwen2_5_7b"), Arguments(max_model_len=length, max_num_seqs=sequences)
    blocks = cache(shape, told, "bfloat16", length, 2048, block=128)

    assert blocks.margin(cache_space(shape, told), sequences) >= 0


def test_blocks_are_those_of_the_engine_on_cpus() -> None:
    """128 tokens; 16 for latent attention."""
    plain, latent = (cache_space(model(name), Arguments(max_model_len=8192, max_num_seqs=2)) for name in ("llama_3_1_8b", "deepseek_v2_lite"))

    assert plain == (2 * 64 + 1) * 128 * 131_072
    assert latent == (2 * 512 + 1) * 16 * 27 * 576 * 2


def test_an_explicit_space_wins_and_is_refused_when_it_holds_no_sequence() -> None:
    """Before the engine says it."""
    shape = model("llama_3_1_8b")
    made = plan_cpu(shape, Arguments(max_model_len=8192, max_num_seqs=1, kv_cache_memory_bytes=GIB), overhead=RAY, free=64 * GIB)

    assert (made.verdict, made.cache) == ("refused", GIB)
    assert "8,192 tokens" in made.why


def test_headers_say_what_lies_in_memory() -> None:
    """A model stored in 32 bits is loaded in 16."""
    shape = read_architecture({**SMALL, "torch_dtype": "float32"})
    made = plan_cpu(shape, read_arguments({"max_num_seqs": 1}), overhead=0, files=Stored(plain=1_000_000, fixed=0), free=GIB)

    assert made.weights == 2_000_000
    assert made.length == 512


def test_what_is_not_computed_is_planned_by_its_size() -> None:
    """1 GiB for the cache, a tenth on top of the files; unknown when there is room, refused when not even that fits."""
    hybrid = read_architecture({**SMALL, "model_type": "mamba_like", "mamba_d_state": 16})
    room = plan_cpu(hybrid, Arguments(max_num_seqs=4), overhead=RAY, size=2 * GIB, free=16 * GIB)

    assert (room.verdict, room.cache, room.tokens) == ("unknown", GIB, None)
    assert "hybrid" in room.why
    assert room.needs == int(2 * GIB * 1.1) + GIB + RAY
    assert plan_cpu(hybrid, Arguments(max_num_seqs=4), overhead=RAY, size=2 * GIB, free=4 * GIB).verdict == "refused"
    assert plan_cpu(hybrid, Arguments(max_num_seqs=4), overhead=RAY, size=2 * GIB).why.startswith("not computed")


@given(st.integers(16, 4000), st.integers(0, 4000), st.integers(1, 64), st.integers(0, 64))
def test_more_context_and_more_sequences_never_need_less(length: int, more: int, sequences: int, extra: int) -> None:
    """Monotone, so that advice to lower them is right."""
    shape = model("qwen3_8b")
    least = plan_cpu(shape, Arguments(max_model_len=length, max_num_seqs=sequences), overhead=RAY).needs

    assert plan_cpu(shape, Arguments(max_model_len=length + more, max_num_seqs=sequences), overhead=RAY).needs >= least
    assert plan_cpu(shape, Arguments(max_model_len=length, max_num_seqs=sequences + extra), overhead=RAY).needs >= least


@given(st.integers(0, 64 * GIB), st.integers(0, 64 * GIB), st.integers(1, 4), st.sampled_from(["bfloat16", "float32"]))
def test_more_bytes_and_more_processes_never_need_less(size: int, more: int, parallel: int, dtype: str) -> None:
    """Of weights; and each process of tensor parallelism brings its own overhead."""
    shape, told = model("qwen3_8b"), Arguments(max_model_len=2048, max_num_seqs=4, dtype=dtype)
    least = plan_cpu(shape, told, overhead=RAY, files=Stored(size // 2, 0)).needs

    assert plan_cpu(shape, told, overhead=RAY, files=Stored((size + more) // 2, 0)).needs >= least
    assert plan_cpu(shape, replace(told, tensor_parallel_size=parallel), overhead=RAY, files=Stored(size // 2, 0)).margin is None
    assert plan_cpu(shape, replace(told, tensor_parallel_size=parallel), overhead=RAY).overhead == parallel * RAY


def test_each_process_has_its_own_cache() -> None:
    """Two hold half of the heads each: the same space together; copies of one head take it twice. And each its own tables and buffers."""
    shape, one = model("llama_3_1_8b"), Arguments(max_model_len=4096, max_num_seqs=4)
    alone, two, sixteen = (plan_cpu(shape, replace(one, tensor_parallel_size=count), overhead=0) for count in (1, 2, 16))

    assert two.cache * 2 == alone.cache and sixteen.cache == alone.cache // 8
    assert two.rope == 2 * (alone.rope or 0)
    assert (two.weights or 0) - (alone.weights or 0) == 2 * (2 * 32 + 1) * 4096
    assert two.needs == int((two.weights or 0) * 1.1) + (two.rope or 0) + (two.activation or 0) + 2 * two.cache
    assert sixteen.needs - int((sixteen.weights or 0) * 1.1) > 16 * sixteen.cache


@given(st.sampled_from(["llama_3_1_8b", "qwen2_5_7b", "gpt_oss_20b", "held_out_mistral_nemo"]), st.integers(16, 20_000), st.integers(1, 32), st.integers(0, 128), st.integers(1, 8 * GIB) | st.none())
def test_nothing_is_accepted_in_main_memory_that_the_engine_rejects(name: str, length: int, sequences: int, free: int, space: int | None) -> None:
    """Its cache holds one sequence of full length beside the block that is held back, layer by layer; and all of it is there."""
    shape, told = model(name), Arguments(max_model_len=length, max_num_seqs=sequences, kv_cache_memory_bytes=space)
    made = plan_cpu(shape, told, overhead=RAY, free=free * GIB)
    page, window = 128 * 2 * shape.kv_heads * shape.head_dim * 2, math.ceil(min(shape.window - 1 + 2 * min(2048, sequences * length), length) / 128) + 1
    pages = (shape.layers - shape.sliding) * math.ceil(length / 128) + shape.sliding * window
    pool = shape.layers - shape.sliding if 0 < shape.sliding < shape.layers else shape.layers

    if made.fits:
        assert pages * page + pool * page <= made.cache
        assert made.needs <= free * GIB
    assert made.verdict in ("fits", "refused")


def test_the_demos_cache_is_what_its_engine_said() -> None:
    """vLLM 0.32.0 with 64 MiB: `Explicitly set (0.06/…) GiB`, `CPU KV cache size: 65,536 tokens, Maximum concurrency for 512 tokens per request: 128.00x`."""
    config = json.loads((Path(__file__).parents[2] / "assets/models/demo/weights/v1/config.json").read_text())
    made = plan_cpu(read_architecture(config), read_arguments({"max_model_len": 512, "max_num_seqs": 4, "dtype": "bfloat16"}), overhead=RAY)

    assert (made.tokens, made.concurrency) == (65_536, 128.0)
    assert not any(one.warns for one in compare(made.to_dict(), Reported(cache_gib=0.06, tokens=65_536)))
