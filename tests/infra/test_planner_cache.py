"""The blocks of the key/value cache, as vLLM 0.32.0 lays them out: heads, latent vectors, windows, groups of layers."""

from __future__ import annotations

import math

import pytest

from infra.planner import plan
from infra.planner.cache import cache
from tests.infra.planner_doubles import gpu, model, told


def test_the_cache_of_latent_attention_is_small_and_not_divided() -> None:
    """DeepSeek R1: 68.6 KiB per token on every GPU, 39.1 in its own 8-bit format."""
    shape = model("deepseek_r1")
    made = [plan(shape, gpu("H200"), told(tensor_parallel_size=count, kv_cache_dtype=kind)).token for count, kind in ((1, "auto"), (8, "auto"), (8, "fp8_ds_mla"))]  # fmt: skip

    assert made == [61 * 576 * 2, 61 * 576 * 2, 61 * 656]
    assert made[0] / 1024 == pytest.approx(68.6, abs=0.05)


def test_key_and_value_heads_are_divided_and_then_copied() -> None:
    """Eight heads: half the bytes on two GPUs, no less on sixteen than on eight."""
    tokens = {count: cache(model("llama_3_1_70b"), told(tensor_parallel_size=count), "bfloat16", 8192, 2048).token for count in (1, 2, 8, 16)}

    assert tokens[1] == 2 * tokens[2] == 8 * tokens[8]
    assert tokens[16] == tokens[8] == 80 * 2 * 128 * 2


def test_a_window_holds_the_cache_small() -> None:
    """window − 1 + tokens in flight (two batches), one block more. All layers of Mistral 7B v0.1; half of GPT-OSS."""
    whole = cache(model("mistral_7b_v0_1"), told(), "bfloat16", 32_768, 2048)
    half = cache(model("gpt_oss_20b"), told(), "bfloat16", 131_072, 2048)

    assert whole.blocks == math.ceil((4096 - 1 + 2 * 2048) / 16) + 1
    assert half.blocks == 131_072 // 16 + math.ceil((128 - 1 + 4096) / 16) + 1
    assert half.block == 12 * 16 * 2 * 8 * 64 * 2


def test_kinds_of_layers_that_are_nearly_as_many_share_groups_of_the_larger_number() -> None:
    """12 with a window and 13 without: one group of 13 each, the shorter one padded. 10 and 20, or half more: groups of 10."""
    near = model("gpt_oss_20b", num_hidden_layers=25, layer_types=["sliding_attention"] * 12 + ["full_attention"] * 13)
    far = model("gpt_oss_20b", num_hidden_layers=30, layer_types=["sliding_attention"] * 20 + ["full_attention"] * 10)
    half = model("gpt_oss_20b", num_hidden_layers=25, layer_types=["sliding_attention"] * 15 + ["full_attention"] * 10)
    page, window = 16 * 2 * 8 * 64 * 2, math.ceil((128 - 1 + 4096) / 16) + 1

    one, other, more = (cache(shape, told(), "bfloat16", 8192, 2048) for shape in (near, far, half))

    assert (one.block, one.blocks) == (13 * page, 512 + window)
    assert (other.block, other.blocks) == (more.block, more.blocks) == (10 * page, 512 + 2 * window)


def test_without_the_hybrid_manager_windows_save_nothing() -> None:
    """Layers of two kinds are then all full; those of one kind keep their window."""
    plain = told(disable_hybrid_kv_cache_manager=True)

    assert cache(model("gpt_oss_20b"), plain, "bfloat16", 131_072, 2048).blocks == 131_072 // 16
    assert cache(model("mistral_7b_v0_1"), plain, "bfloat16", 32_768, 2048).blocks == math.ceil((4096 - 1 + 2 * 2048) / 16) + 1


def test_latent_attention_has_blocks_of_64_tokens() -> None:
    """On GPUs: 65 tokens take two of them, and the pool is counted in such."""
    made = plan(model("deepseek_v2_lite"), gpu("L40S"), told(max_model_len=65))

    assert made.tokens == (made.cache or 0) // (64 * 27 * 576 * 2) * 65 // 2


def test_scales_per_token_and_head_count() -> None:
    """Four bytes for each key and each value head."""
    plain = cache(model("llama_3_1_8b"), told(kv_cache_dtype="fp8"), "bfloat16", 8192, 2048).token
    scaled = cache(model("llama_3_1_8b"), told(kv_cache_dtype="fp8_per_token_head"), "bfloat16", 8192, 2048).token

    assert plain == 64 * 1024
    assert scaled - plain == 32 * 2 * 8 * 4
