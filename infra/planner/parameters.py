"""Parameters: how many numbers a model has, from its configuration alone, and how a group of GPUs shares them. Pure.

Exact for the families in `FAMILIES`: the counts equal the published ones to the last number (tests/infra/test_planner_models.py).
For others None: then only the headers of the weights tell.
"""

from __future__ import annotations

from dataclasses import dataclass

from infra.planner.architecture import Architecture, Experts

LATENT = ("deepseek_v2", "deepseek_v3", "kimi_k2")
FAMILIES = (
    "llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "phi3", "gemma", "gemma2", "gemma3_text", "granite", "gpt_oss",
    *LATENT,
)  # fmt: skip


@dataclass(frozen=True)
class Parameters:
    """Numbers of a model by what happens to them.

    embeddings   first and last matrix; never quantised here; divided by tensor parallelism
    attention    query and output matrices; divided
    cache        key and value matrices; divided until a GPU has one head, then copied
    latent       down-projections of latent attention; every GPU holds them whole
    mlp, experts divided
    small        norms, biases, routers: 16 bit or more, counted as whole on every GPU
    """

    embeddings: int
    attention: int
    cache: int
    latent: int
    mlp: int
    experts: int
    small: int

    @property
    def total(self) -> int:
        return self.embeddings + self.attention + self.cache + self.latent + self.mlp + self.experts + self.small

    @property
    def quantisable(self) -> int:
        """Those of the matrices within the layers."""
        return self.attention + self.cache + self.latent + self.mlp + self.experts


def count(model: Architecture) -> Parameters | None:
    """The parameters of a model; None for a family that is not known to the last number."""
    lacking = not (model.hidden and model.layers and model.heads and model.vocab and (model.width or model.experts))
    if model.family not in FAMILIES or lacking or (model.family in LATENT) != (model.latent is not None):
        return None
    hidden, layers, experts = model.hidden, model.layers, model.experts
    attention, cache, latent = _attention(model)
    dense = layers - (experts.layers if experts else 0)
    return Parameters(
        embeddings=model.vocab * hidden * (1 if model.tied else 2),
        attention=attention * layers,
        cache=cache * layers,
        latent=latent * layers,
        mlp=3 * hidden * model.width * dense + (3 * hidden * experts.shared * experts.layers if experts else 0),
        experts=experts.count * 3 * hidden * experts.width * experts.layers if experts else 0,
        small=_norms(model) + _biases(model) + (_routers(model, experts) if experts else 0),
    )


def _attention(model: Architecture) -> tuple[int, int, int]:
    """Per layer: query and output matrices; key and value matrices; what is latent."""
    hidden, heads = model.hidden, model.heads
    latent = model.latent
    if latent is None:
        return 2 * hidden * heads * model.head_dim, 2 * hidden * model.kv_heads * model.head_dim, 0
    query = heads * (latent.nope + latent.rope)
    up = (latent.query_rank or hidden) * query + latent.rank * heads * (latent.nope + latent.value) + heads * latent.value * hidden
    down = hidden * latent.query_rank + hidden * latent.cached
    return up, 0, down


def _norms(model: Architecture) -> int:
    per_layer = (4 if model.family in ("gemma2", "gemma3_text") else 2) * model.hidden
    if model.family in ("qwen3", "qwen3_moe", "gemma3_text"):
        per_layer += 2 * model.head_dim
    if model.latent:
        per_layer += model.latent.query_rank + model.latent.rank
    return model.layers * per_layer + model.hidden


def _biases(model: Architecture) -> int:
    """Qwen 2 has them at query, key and value; others where `attention_bias` or `mlp_bias` says so; GPT-OSS also at its experts."""
    inside = (model.heads + 2 * model.kv_heads) * model.head_dim
    per_layer = 0
    if model.family in ("qwen2", "qwen2_moe"):
        per_layer += inside
    elif model.config.get("attention_bias") is True and not model.latent:
        per_layer += inside + model.hidden
    if model.config.get("mlp_bias") is True:
        per_layer += 2 * model.width + model.hidden
    if model.family == "gpt_oss" and model.experts:
        # A bias per expert at both matrices, one at the router, and an attention sink per head.
        per_layer += model.experts.count * (2 * model.experts.width + model.hidden) + model.experts.count + model.heads
    return model.layers * per_layer


def _routers(model: Architecture, experts: Experts) -> int:
    per_layer = experts.count * model.hidden
    if model.config.get("topk_method") == "noaux_tc":
        per_layer += experts.count
    if model.family == "qwen2_moe":
        per_layer += model.hidden
    return experts.layers * per_layer
