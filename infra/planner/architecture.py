"""Architecture: what config.json says of a model, as far as memory depends on it. Pure; never raises.

The names are those of the configurations on the Hub, read as vLLM 0.32.0 reads them (transformers_utils/model_arch_config_convertor.py
for heads and layers, config/model.py for the longest context, config/vllm.py and the models themselves for sliding windows).
What the arithmetic does not cover is said in `uncomputed`, so that nobody takes a guess for a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.planner.quantisation import Quantisation
from infra.planner.quantisation import read as quantisation_of

Config = Mapping[str, Any]

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number, by vLLM's names of types."""

NO_FLOAT16 = ("gemma2", "gemma3", "gemma3_text", "glm4")
"""Families that vLLM refuses to compute in float16 (config/model.py, numerical instability)."""

LATENT = ("deepseek_v2", "deepseek_v3", "kimi_k2", "glm4_moe_lite", "pangu_ultra_moe")
"""Families whose latent attention vLLM keeps compressed. Others with the same keys (MiniCPM 3) keep whole heads."""

STATES = (
    "mamba", "ssm", "linear_attn", "linear_num", "linear_key", "linear_value", "conv_L_cache", "rwkv", "hybrid_override", "layers_block_type",
    "attn_layer_period", "attn_layer_indices", "attn_type_list", "full_attn_idxs", "lru_width",
)  # fmt: skip
"""Beginnings of keys that only models with a state per sequence have (Mamba, gated delta, RWKV, …)."""

ALL_WINDOWS = ("llama", "mistral", "mixtral", "phi3", "phimoe", "starcoder2")
"""Families all of whose layers see the window when there is one and nothing says which do."""

EVERY = {"gemma3_text": 6, "cohere2": 4, "exaone4": 4, "olmo3": 4}
"""Families of whose layers every so-manieth sees everything, unless config.json says otherwise."""

ORDINARY = ("cohere", "cohere2", "ernie4_5", "exaone4", "glm4", "glm4_moe", "gpt_neox", "minimax_m2", "olmo2", "olmo3", "opt", "seed_oss", "starcoder2")
"""Families whose cache was compared with the engine's own, beside those that are counted (parameters.py)."""

NO_WRITER = ("ForSequenceClassification", "ForTokenClassification", "ForMaskedLM", "RewardModel", "BertModel", "RobertaModel")
"""Ends of the names of architectures that rank, classify or embed."""

SCALED_ALREADY, LONG = ("yarn", "deepseek_yarn", "deepseek_llama_scaling"), ("su", "longrope")
"""Kinds of rotary embeddings."""

OTHER = {
    "is_encoder_decoder": "it is an encoder with a decoder, which has a second cache",
    "vision_config": "it also reads images, whose buffers are not computed",
    "audio_config": "it also reads audio, whose buffers are not computed",
    "index_topk": "its sparse attention keeps a second cache, an index",
    "compress_ratios": "its attention compresses the cache differently from layer to layer",
    "block_configs": "its layers differ from one another",
    "per_layer_config": "its layers differ from one another",
    "num_kv_shared_layers": "some of its layers share one cache",
    "global_head_dim": "its layers have heads of two sizes",
    "num_global_key_value_heads": "its layers have different numbers of heads",
    "cross_attention_layers": "some of its layers attend to images",
    "multi_query": "its heads share keys and values in a way that is not computed",
}
"""Keys whose presence (with a value) means that the arithmetic does not hold, and why."""


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention (DeepSeek): one compressed vector per token and layer in place of keys and values."""

    rank: int
    rope: int
    nope: int
    value: int
    query_rank: int

    @property
    def cached(self) -> int:
        """Numbers per token and layer in the cache."""
        return self.rank + self.rope


@dataclass(frozen=True)
class Experts:
    """A mixture of experts. `shared`: width of the experts that every token takes; `layers`: how many layers have experts."""

    count: int
    width: int
    per_token: int
    shared: int
    layers: int


@dataclass(frozen=True)
class Architecture:
    """One model. Sizes are counts of numbers; 0 where config.json does not say.

    family      model_type, which decides about biases, norms and experts
    heads, kv_heads, head_dim, value_dim    of attention; value_dim differs from head_dim in few models
    width       of the MLP between its two matrices (intermediate_size)
    positions   the longest context that vLLM derives from the configuration
    usual       the one that it takes when nobody says one
    rope        tokens × numbers of the tables of rotary embeddings; those of 32 bits count twice
    sliding     layers that see only the last `window` tokens
    dtype       of the stored weights
    uncomputed  why the memory of this model is not computed; empty when it is
    """

    name: str
    family: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    width: int
    vocab: int
    positions: int
    usual: int
    rope: int
    sliding: int
    window: int
    latent: Latent | None
    experts: Experts | None
    tied: bool
    dtype: str
    quantisation: Quantisation | None
    uncomputed: str
    config: Config

    def computes_in(self, asked: str = "auto", *, bfloat16: bool = True) -> str:
        """The type that the engine computes in. `bfloat16`: whether the device can (vLLM: _resolve_auto_dtype)."""
        if asked not in ("auto", ""):
            return {"half": "float16", "float": "float32"}.get(asked, asked)
        if self.dtype == "float16" and self.family not in NO_FLOAT16:
            return "float16"
        if bfloat16:
            return "bfloat16"
        return "float32" if self.family in NO_FLOAT16 else "float16"


def read(config: Config) -> Architecture:
    """config.json as an Architecture."""
    inner = config.get("text_config")
    text: Config = {**config, **inner} if isinstance(inner, Mapping) else config
    family = str(text.get("model_type") or "")
    heads, hidden = number(text, "num_attention_heads"), number(text, "hidden_size")
    head_dim = number(text, "head_dim") or (hidden // heads if heads else 0)
    layers, window = number(text, "num_hidden_layers"), number(text, "sliding_window")
    latent = _latent(text)
    positions, table = _positions(text)
    rotary = latent.rope if latent else int(head_dim * _share(text))
    named = config.get("architectures")
    sliding = max(0, _sliding(text, family, layers)) if window else 0
    return Architecture(
        name=str(named[0]) if isinstance(named, Sequence) and not isinstance(named, str) and named else family or "unknown",
        family=family, hidden=hidden, layers=layers, heads=heads,
        kv_heads=number(text, "num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num") or heads,
        head_dim=head_dim, value_dim=head_dim if latent else number(text, "v_head_dim") or head_dim,
        width=number(text, "intermediate_size"), vocab=number(text, "vocab_size"),
        positions=positions, usual=_usual(text, positions), rope=table * rotary, sliding=sliding, window=window if sliding else 0,
        latent=latent, experts=_experts(text, family, layers), tied=_tied(text, family), dtype=_dtype(text),
        quantisation=quantisation_of(config.get("quantization_config") or text.get("quantization_config")),
        uncomputed=_uncomputed(text), config=text,
    )  # fmt: skip


def number(config: Config, *names: str) -> int:
    """The first of these keys that holds a positive whole number below 2**40; 0 when none does."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 40:
            return value
    return 0


def _uncomputed(text: Config) -> str:
    """The first reason why the arithmetic does not hold for this model; empty when it does."""
    states = [key for key, value in text.items() if key.startswith(STATES) and value not in (None, [], 0, False) and not _plain(value)]
    kinds = {str(kind) for kind in _list(text, "layer_types")} - {"full_attention", "sliding_attention", "chunked_attention"}
    if states or kinds:
        return f"it is a hybrid that keeps a state per sequence ({', '.join(sorted(kinds) or states[:1])}), whose size only the engine knows"
    for key, reason in OTHER.items():
        if text.get(key) not in (None, [], {}, 0, False):
            return reason
    if any(str(name).endswith(NO_WRITER) for name in _list(text, "architectures")):
        return "it is not a model that writes text"
    needed = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    lacking = [name for name in needed if not number(text, name)]
    if lacking:
        return f"its config.json does not say {', '.join(lacking)}"
    heads, wrong = text.get("num_key_value_heads"), ("intermediate_size", "num_key_value_heads", "head_dim")
    if isinstance(heads, int) and heads and number(text, "num_attention_heads") % heads:
        return "its attention heads are no multiple of its key/value heads"
    lists = [name for name in wrong if text.get(name) is not None and not number(text, name)]
    if lists:
        return f"its config.json gives no single number for {lists[0]}"
    if not number(text, "head_dim") and number(text, "hidden_size") < number(text, "num_attention_heads"):
        return "its attention heads have no size"
    if number(text, "kv_lora_rank") and str(text.get("model_type")) not in LATENT:
        return "its latent attention is of a kind that is not computed"
    if number(text, "sliding_window") and _sliding(text, str(text.get("model_type")), 1) < 0:
        return "its config.json does not say which layers see only a window"
    return ""


def _plain(value: object) -> bool:
    """MiniMax M2 lists a kind per layer, and all of them are attention: 1."""
    return isinstance(value, list) and all(one == 1 for one in value)


def _list(text: Config, name: str) -> list[Any]:
    value = text.get(name)
    return list(value) if isinstance(value, (list, tuple)) else []


def _real(value: object, default: float) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1 << 20 else default


def _rope(text: Config) -> Config:
    for name in ("rope_parameters", "rope_scaling"):
        value = text.get(name)
        if isinstance(value, Mapping):
            return value
    return {}


def _share(text: Config) -> float:
    """How much of a head is rotated."""
    return min(1.0, _real(text.get("partial_rotary_factor", _rope(text).get("partial_rotary_factor")), 1.0))


def _positions(text: Config) -> tuple[int, int]:
    """The longest context (vLLM: _get_and_verify_max_len), and the length of the tables of rotary embeddings.

    With YaRN the configuration's figure is scaled already; the table is made from the unscaled one. LongRoPE keeps a second table for short
    contexts, Gemma 3 one for its layers with a window; GPT-OSS computes its own in 32 bits.
    """
    said = number(text, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length", "model_max_length")
    rope, family = _rope(text), str(text.get("model_type"))
    kind, factor = rope.get("rope_type", rope.get("type")), _real(rope.get("factor"), 1.0)
    if kind in SCALED_ALREADY:
        table = max(said, int(number(rope, "original_max_position_embeddings") * factor))
        return said, table * (2 if family == "gpt_oss" else 1)
    if kind in LONG:
        return said, said + _original(text)
    if kind in (None, "default", "llama3") or "gemma3" in family:
        return said, said * (2 if family == "gemma3_text" else 1)
    return int(said * factor), int(said * factor)


def _original(text: Config) -> int:
    return number(text, "original_max_position_embeddings") or number(_rope(text), "original_max_position_embeddings")


def _usual(text: Config, positions: int) -> int:
    """With LongRoPE vLLM stays within the tables for short contexts unless it is told otherwise."""
    return _original(text) or positions if _rope(text).get("rope_type", _rope(text).get("type")) in LONG else positions


def _sliding(text: Config, family: str, layers: int) -> int:
    """How many layers see a window only. Negative: nothing says which, and the family's own rule is not known."""
    kinds = _list(text, "layer_types")
    if kinds:
        return sum(kind == "sliding_attention" for kind in kinds[:layers])
    if family in ("gemma2", "gpt_oss"):
        return (layers + 1) // 2
    if family in EVERY:
        return layers - layers // (number(text, "sliding_window_pattern") or EVERY[family])
    if (family.startswith("qwen") or "use_sliding_window" in text) and text.get("use_sliding_window") is not True:
        return 0
    if family.startswith("qwen"):
        return max(0, layers - number(text, "max_window_layers"))
    return layers if family in ALL_WINDOWS else -1


def _latent(text: Config) -> Latent | None:
    rank = number(text, "kv_lora_rank")
    if not rank:
        return None
    return Latent(
        rank, number(text, "qk_rope_head_dim"), number(text, "qk_nope_head_dim"), number(text, "v_head_dim"), number(text, "q_lora_rank")
    )


def _experts(text: Config, family: str, layers: int) -> Experts | None:
    count = number(text, "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
    if not count:
        return None
    width = number(text, "moe_intermediate_size", "intermediate_size")
    shared = number(text, "shared_expert_intermediate_size") or number(text, "n_shared_experts") * width
    dense = number(text, "first_k_dense_replace")
    every = number(text, "decoder_sparse_step", "moe_layer_freq") or 1
    only = set(map(str, _list(text, "mlp_only_layers")))
    # Qwen counts from one, DeepSeek from zero; with the usual step of 1 both are the same.
    first = 1 if family.startswith("qwen") else 0
    having = sum(1 for at in range(dense, min(layers, 10_000)) if (at + first) % every == 0 and str(at) not in only)
    return Experts(count, width, number(text, "num_experts_per_tok", "experts_per_token", "moe_topk") or 1, shared, having)


def _tied(text: Config, family: str) -> bool:
    """Whether the output matrix is the embedding. Silence means what the family's own default is."""
    said = text.get("tie_word_embeddings")
    return said if isinstance(said, bool) else family.startswith("gemma")


def _dtype(text: Config) -> str:
    said = str(text.get("dtype") or text.get("torch_dtype") or "bfloat16").removeprefix("torch.")
    return said if said in BYTES else "bfloat16"
