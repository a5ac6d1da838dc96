"""What is read of a model: its parameters to the last number, its bytes, and what is not computed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigError
from infra.planner import Stored, count_parameters, plan, read_architecture, stored, weigh
from infra.weights import header, header_bytes
from tests.doubles.model import tensors
from tests.infra.planner_doubles import GIB, NAMES, facts, gpu, model, told

LLAMA = facts("llama_3_1_8b")["config"]


@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_are_the_published_ones(name: str) -> None:
    """To the last number, from config.json alone; the two held-out models too."""
    found = count_parameters(model(name))

    assert found is not None
    assert found.total == facts(name)["_parameters"]


@pytest.mark.parametrize(("step", "dense", "layers"), [(1, [], 8), (2, [], 4), (2, [3], 3), (3, [], 2)])
def test_layers_with_experts_are_counted_as_the_family_counts(step: int, dense: list[int], layers: int) -> None:
    """Qwen's every second layer is the second, not the first; and some are dense because config.json says so. With 2 and [3] the engine's modules have 34,101,760."""
    shape = read_architecture({
        "model_type": "qwen3_moe", "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 1024,
        "vocab_size": 4096, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "decoder_sparse_step": step, "mlp_only_layers": dense,
    })  # fmt: skip
    found = count_parameters(shape)

    assert shape.experts is not None and shape.experts.layers == layers
    assert found is not None and (found.total == 34_101_760) == (layers == 3)


@pytest.mark.parametrize(("name", "token", "whole"), [("held_out_mistral_nemo", 40 * 2 * 8 * 128 * 2, 22.81), ("held_out_qwen2_5_14b", 48 * 2 * 8 * 128 * 2, 27.51)])
def test_the_two_that_were_held_out_are_planned_right(name: str, token: int, whole: float) -> None:
    """No formula was made with them: GiB in 16 bits by their published counts, bytes per token by layers, heads and head size of their cards."""
    made = plan(model(name), gpu("H100"), told())

    assert sorted(one for one in NAMES if one.startswith("held_out")) == ["held_out_mistral_nemo", "held_out_qwen2_5_14b"]
    assert made.weights == 2 * facts(name)["_parameters"]
    assert (made.weights or 0) / GIB == pytest.approx(whole, abs=0.01)
    assert made.token == token
    assert made.fits


@pytest.mark.parametrize("name", [name for name in NAMES if facts(name)["_bytes"]])
def test_the_bytes_are_those_of_the_index(name: str) -> None:
    """Also of GPT-OSS, whose experts have 4.25 bits and whose attention has 16."""
    loaded = weigh(model(name), "bfloat16")

    assert loaded is not None
    assert loaded.total == facts(name)["_bytes"]
    assert loaded.origin == "config"


@pytest.mark.parametrize(
    ("quantised", "bits"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 4.15625),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, 4.15625),
        ({"quant_method": "fp8"}, 8),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 4.5),
        ({"quant_method": "mxfp4"}, 4.25),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}}}, 8),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 128}}}}, 4.15625),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "float", "group_size": 16}}}}, 4.5),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "float", "group_size": 32}}}}, 4.25),
    ],
)
def test_quantised_matrices_take_so_many_bits_and_embeddings_stay(quantised: dict[str, Any], bits: float) -> None:
    """Embeddings and norms keep 16 bits."""
    shape = model("qwen2_5_32b", quantization_config=quantised)
    numbers, loaded = count_parameters(shape), weigh(shape, "bfloat16")

    assert numbers is not None and loaded is not None
    assert loaded.total == pytest.approx(numbers.quantisable * bits / 8 + (numbers.embeddings + numbers.small) * 2, abs=1)


def test_an_awq_model_of_32_billion_takes_18_gib() -> None:
    """The figure that is known of such a checkpoint."""
    loaded = weigh(model("qwen2_5_32b", quantization_config={"quant_method": "awq", "bits": 4, "group_size": 128}), "float16")

    assert loaded is not None
    assert loaded.total / GIB == pytest.approx(18.0, abs=0.1)


def test_a_quantisation_that_is_not_known_needs_the_headers() -> None:
    """No number is made up."""
    shape = model("llama_3_1_8b", quantization_config={"quant_method": "somebodys"})

    assert weigh(shape, "bfloat16") is None
    assert weigh(shape, "bfloat16", Stored(plain=10, fixed=100)).total == 120  # type: ignore[union-attr]


def test_every_gpu_holds_norms_whole_and_a_share_of_the_matrices() -> None:
    """Heads of keys and values are copied once there are more GPUs than heads; all experts stay resident."""
    shape = model("qwen3_30b_a3b")
    numbers, loaded = count_parameters(shape), weigh(shape, "bfloat16")
    assert numbers is not None and loaded is not None

    two, eight = loaded.per_gpu(shape, 2), loaded.per_gpu(shape, 8)

    # A log of two devices says 28.4767 GiB for this model, other buffers included.
    assert two / GIB == pytest.approx(28.4767, rel=0.002)
    divided = numbers.total - numbers.small - numbers.cache
    assert eight == pytest.approx(2 * (numbers.small + numbers.cache / 4 + divided / 8), abs=3)


def test_headers_say_what_is_loaded() -> None:
    """32-bit numbers are converted; layers for speculation, and an output matrix that is the embedding, are left out."""
    shape = read_architecture({**LLAMA, "num_hidden_layers": 2, "tie_word_embeddings": True})
    raw = tensors(("model.embed_tokens.weight", "F32", (10, 4)), ("lm_head.weight", "F32", (10, 4)), ("model.layers.1.a.weight", "BF16", (3, 3)),
                  ("model.layers.2.a.weight", "BF16", (100, 100)))  # fmt: skip

    found = stored([header(raw[8 : 8 + header_bytes(raw[:8])])], shape)

    assert found == Stored(plain=49, fixed=0)
    assert found.bytes("bfloat16") == 98
    assert found.bytes("float32") == 196


def test_packed_numbers_and_their_scales_stay_as_they_are() -> None:
    """The engine converts neither."""
    shape = read_architecture(LLAMA)
    named = {
        "model.layers.0.q.weight": {"dtype": "F8_E4M3", "shape": [8, 8]},
        "model.layers.0.q.weight_scale": {"dtype": "F32", "shape": [2]},
        "model.layers.0.k.qweight": {"dtype": "I32", "shape": [4]},
        "model.layers.0.k.scales": {"dtype": "F16", "shape": [3]},
        "model.norm.weight": {"dtype": "F32", "shape": [5]},
    }

    assert stored([named], shape) == Stored(plain=5, fixed=64 + 8 + 16 + 6)


def test_headers_win_over_counting() -> None:
    """They are the truth; the share that every GPU holds whole still comes from the shape."""
    shape = model("llama_3_1_8b")
    loaded = weigh(shape, "bfloat16", Stored(plain=4_000_000_000, fixed=0))

    assert loaded is not None
    assert (loaded.total, loaded.origin) == (8_000_000_000, "headers")
    assert loaded.per_gpu(shape, 2) < 4_100_000_000


@pytest.mark.parametrize("raw", [b"", b"\x00" * 8, b"\xff" * 8])
def test_a_header_that_is_none_is_refused(raw: bytes) -> None:
    """Before a range is asked for."""
    with pytest.raises(ConfigError, match="header"):
        header_bytes(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"{", b"[]", b'{"a": 1}', b'{"a": {"dtype": "BF16"}}', b"[" * 100_000,
        *(json.dumps({"a": {"dtype": "BF16", "shape": shape}}).encode() for shape in (["x"], [-5, 3], [1.5], [True], ["7"], "12", {"1": 2}, [1 << 62, 2], [10**400])),
        b'{"a": {"dtype": "BF17", "shape": [1]}}', b'{"a": {"dtype": null, "shape": [1]}}', b'{"a": {"dtype": [], "shape": [1]}}',
    ],
)  # fmt: skip
def test_a_damaged_header_is_refused(raw: bytes) -> None:
    """As a message, not as a traceback."""
    with pytest.raises(ConfigError, match="header"):
        header(raw)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"layer_types": ["linear_attention", "full_attention"]}, "hybrid"),
        ({"mamba_d_state": 128}, "hybrid"),
        ({"hybrid_override_pattern": "M-M*-"}, "hybrid"),
        ({"is_encoder_decoder": True}, "encoder"),
        ({"vision_config": {"depth": 2}}, "images"),
        ({"index_topk": 2048}, "sparse"),
        ({"num_attention_heads": None}, "num_attention_heads"),
        ({"num_key_value_heads": [4, 8]}, "num_key_value_heads"),
        ({"num_key_value_heads": 5}, "multiple"),
        ({"kv_lora_rank": 256, "qk_rope_head_dim": 32}, "latent"),
        ({"hidden_size": 8, "head_dim": None}, "size"),
        ({"model_type": "brand_new", "sliding_window": 4096}, "which layers"),
        ({"model_type": "smollm3", "sliding_window": 4096, "use_sliding_window": True}, "which layers"),
        ({"model_type": "falcon", "multi_query": True}, "share keys and values"),
        ({"cross_attention_layers": [3, 8]}, "images"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "writes text"),
        ({"attn_type_list": [1, 0, 1]}, "hybrid"),
    ],
)
def test_what_is_not_computed_is_said(changed: dict[str, Any], said: str) -> None:
    """Mamba, hybrids, several cache kinds: unknown is not a number."""
    assert said in read_architecture({**LLAMA, **changed}).uncomputed


@pytest.mark.parametrize(
    ("config", "sliding"),
    [
        ({"sliding_window": 4096}, 32),
        ({"sliding_window": None}, 0),
        ({"sliding_window": 4096, "use_sliding_window": False}, 0),
        ({"sliding_window": 4096, "model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 20}, 12),
        ({"sliding_window": 4096, "layer_types": ["sliding_attention", "full_attention"] * 16}, 16),
        ({"sliding_window": 512, "model_type": "gemma3_text", "sliding_window_pattern": 6}, 27),
        ({"sliding_window": 512, "model_type": "gemma3_text"}, 27),
        ({"sliding_window": 4096, "model_type": "cohere2", "sliding_window_pattern": 4}, 24),
        ({"sliding_window": 4096, "model_type": "olmo3"}, 24),
        ({"sliding_window": 4096, "model_type": "gemma2"}, 16),
        ({"sliding_window": 4096, "model_type": "gemma2", "num_hidden_layers": 25}, 13),
    ],
)
def test_layers_with_a_window_are_counted(config: dict[str, Any], sliding: int) -> None:
    """As vLLM takes them: all, none, every other, or what layer_types says."""
    assert read_architecture({**LLAMA, **config}).sliding == sliding


def test_a_list_of_one_kind_of_layers_is_no_hybrid() -> None:
    """MiniMax M2 says of each layer that it is attention; a window that is switched off needs no list."""
    assert read_architecture({**LLAMA, "attn_type_list": [1] * 32}).uncomputed == ""
    assert read_architecture({**LLAMA, "model_type": "brand_new", "sliding_window": 4096, "use_sliding_window": False}).uncomputed == ""


@pytest.mark.parametrize(
    ("rope", "longest"),
    [(None, 131072), ({"rope_type": "llama3", "factor": 8.0}, 131072), ({"rope_type": "linear", "factor": 2.0}, 262144), ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 131072),
     ({"rope_type": "deepseek_yarn", "factor": 4.0}, 131072), ({"type": "longrope", "factor": 4.0}, 131072)],
)  # fmt: skip
def test_the_longest_context_is_the_one_that_the_engine_derives(rope: dict[str, Any] | None, longest: int) -> None:
    """Linear scaling multiplies; llama3 and YaRN are in the figure already."""
    assert read_architecture({**LLAMA, "rope_scaling": rope}).positions == longest


@pytest.mark.parametrize(
    ("changed", "numbers"),
    [
        ({}, 131_072 * 128), ({"partial_rotary_factor": 0.5}, 131_072 * 64),
        ({"rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096}}, 163_840 * 128),
        ({"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 4096}, (131_072 + 4096) * 128),
        ({"model_type": "gemma3_text"}, 2 * 131_072 * 128),
        ({"model_type": "gpt_oss", "rope_scaling": {"type": "yarn", "factor": 32, "original_max_position_embeddings": 4096}}, 2 * 131_072 * 128),
    ],
)  # fmt: skip
def test_the_tables_of_rotary_embeddings_are_those_of_the_engine(changed: dict[str, Any], numbers: int) -> None:
    """As the modules of vLLM 0.32.0 hold them: two with LongRoPE and Gemma 3, in 32 bits with GPT-OSS."""
    assert read_architecture({**LLAMA, "rope_scaling": None, **changed}).rope == numbers


def test_without_a_length_longrope_stays_short() -> None:
    """As vLLM does: Phi 3 of 128k serves 4k unless it is told otherwise; what it can is not refused."""
    long = model("llama_3_1_8b", rope_scaling={"type": "longrope"}, original_max_position_embeddings=4096)

    assert (long.positions, long.usual) == (131_072, 4096)
    assert plan(long, gpu("L40S"), told(max_model_len=None)).length == 4096
    assert plan(long, gpu("L40S"), told(max_model_len=100_000)).fits
    assert model("llama_3_1_8b").usual == 131_072


def test_the_text_part_of_a_model_is_read() -> None:
    """Its configuration may lie within another."""
    assert read_architecture({"model_type": "outer", "text_config": LLAMA}).layers == 32


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=8)  # fmt: skip
KEYS = st.sampled_from([*LLAMA, "num_experts", "moe_intermediate_size", "layer_types", "sliding_window", "kv_lora_rank", "quantization_config", "text_config", "v_head_dim"])  # fmt: skip


@given(st.dictionaries(KEYS, JSON, max_size=6))
def test_no_configuration_breaks_the_reading(changed: dict[str, Any]) -> None:
    """Whatever stands in config.json, there is an answer; and it can be written down."""
    shape = read_architecture({**LLAMA, **changed})

    assert isinstance(shape.uncomputed, str)
    weigh(shape, "bfloat16")
    json.dumps(shape.uncomputed)
