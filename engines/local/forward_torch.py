"""Gemma 3's text forward on torch: explicit inputs, no cache object. Its twin is `forward_openvino`.

Formulas: Gemma 3 report (arXiv 2503.19786) and transformers' modeling_gemma3, to which a test holds it.
Attention is over one prefix that all rows share and each row's own suffix: two products, one softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from engines.checkpoint import Checkpoint, TextConfig

Linear = Callable[[str, Tensor], Tensor]


def load_weights(checkpoint: Checkpoint, *, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Text weights by their name below `language_model.model.`; norm weights as 1 + w, as they are applied."""
    prefix = "language_model.model."
    weights = {}
    for key in checkpoint.files:
        if key.startswith(prefix):
            name = key.removeprefix(prefix)
            value = torch.from_numpy(checkpoint.text(name))
            weights[name] = (value + 1.0 if name.endswith("norm.weight") else value).to(dtype)
    return weights


def forward(
    weights: Mapping[str, Tensor],
    config: TextConfig,
    *,
    ids: Tensor,
    positions: Tensor,
    visible: Tensor,
    prefix_keys: Tensor,
    prefix_values: Tensor,
    rows: Tensor,
    candidates: Tensor,
    slots: Tensor | None = None,
    features: Tensor | None = None,
    linear: Linear | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One pass over B suffixes behind one shared prefix of T tokens at positions 0..T-1.

    ids, positions: int64 [B, S]. visible: bool [B, S, T + S], True where a query may see a key (the
    sliding window is applied here on top). prefix_keys, prefix_values: [layers, kv heads, T, head dim].
    rows: int64 [B, N], suffix indices whose logits are read. candidates: int64 [C], token ids scored.
    slots: int64 [B, S] and features [F, hidden], together or not at all (no image): -1 marks a text token,
    k >= 0 an image token, whose vector is features[k] as it is and whose id is not looked at.
    linear: replaces `x @ W.T` for a projection's name (LoRA training); None means plain weights.
    Returns logits float32 [B, N, C] and the suffix's keys and values [layers, B, kv heads, S, head dim].
    """

    def plain(name: str, x: Tensor) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"])

    linear = linear or plain
    batch, length = ids.shape
    heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    prefix_length = prefix_keys.shape[2]
    masks = _masks(config, positions, visible, prefix_length)
    rotary = {full: _rotary(config, positions, full=full) for full in (True, False)}
    x = _embed(config, weights, ids, slots, features)
    keys, values = [], []
    for layer in range(config.num_hidden_layers):
        name = f"layers.{layer}"
        full = layer in config.full_attention_layers
        h = _norm(config, weights, f"{name}.input_layernorm", x)
        q = linear(f"{name}.self_attn.q_proj", h).view(batch, length, heads, dim)
        k = linear(f"{name}.self_attn.k_proj", h).view(batch, length, kv_heads, dim)
        v = linear(f"{name}.self_attn.v_proj", h).view(batch, length, kv_heads, dim).transpose(1, 2)
        q = _rotate(_norm(config, weights, f"{name}.self_attn.q_norm", q), rotary[full]).transpose(1, 2)
        k = _rotate(_norm(config, weights, f"{name}.self_attn.k_norm", k), rotary[full]).transpose(1, 2)
        keys.append(k)
        values.append(v)
        q = q * config.query_pre_attn_scalar**-0.5
        h = _attend(q, k, v, prefix_keys[layer], prefix_values[layer], masks[full])
        h = linear(f"{name}.self_attn.o_proj", h.transpose(1, 2).reshape(batch, length, heads * dim))
        x = x + _norm(config, weights, f"{name}.post_attention_layernorm", h)
        h = _norm(config, weights, f"{name}.pre_feedforward_layernorm", x)
        gate = F.gelu(linear(f"{name}.mlp.gate_proj", h), approximate="tanh")
        h = linear(f"{name}.mlp.down_proj", gate * linear(f"{name}.mlp.up_proj", h))
        x = x + _norm(config, weights, f"{name}.post_feedforward_layernorm", h)
    read = torch.gather(x, 1, rows[..., None].expand(-1, -1, x.shape[-1]))
    read = _norm(config, weights, "norm", read)
    logits = F.linear(read, F.embedding(candidates, weights["embed_tokens.weight"])).float()
    return logits, torch.stack(keys), torch.stack(values)


def _embed(
    config: TextConfig, weights: Mapping[str, Tensor], ids: Tensor, slots: Tensor | None, features: Tensor | None
) -> Tensor:
    """[B, S, hidden]: scaled embeddings of text tokens, image features unscaled."""
    embedding = weights["embed_tokens.weight"]
    if slots is None or features is None:
        return F.embedding(ids, embedding) * _embedding_scale(config, weights)
    # The image token's id may lie beyond the embedding's rows.
    x = F.embedding(ids.clamp(max=embedding.shape[0] - 1), embedding) * _embedding_scale(config, weights)
    return torch.where((slots >= 0)[..., None], F.embedding(slots.clamp(min=0), features.to(x.dtype)), x)


def _attend(q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor, mask: Tensor) -> Tensor:
    """q [B, H, S, D]; k, v [B, KV, S, D]; prefix [KV, T, D]; mask additive [B, 1, S, T + S] -> [B, H, S, D]."""
    batch, heads, length, dim = q.shape
    kv_heads, prefix_length = prefix_k.shape[0], prefix_k.shape[1]
    group = heads // kv_heads
    # Against the shared prefix, all rows are one matrix: [KV, B * group * S, D] x [KV, D, T].
    q = q.reshape(batch, kv_heads, group * length, dim)
    together = q.transpose(0, 1).reshape(kv_heads, batch * group * length, dim)
    prefix_scores = (together @ prefix_k.transpose(1, 2)).view(kv_heads, batch, group * length, prefix_length)
    scores = torch.cat([prefix_scores.transpose(0, 1), q @ k.transpose(2, 3)], dim=-1)
    scores = scores.view(batch, heads, length, prefix_length + length) + mask
    weights = torch.softmax(scores.float(), dim=-1).to(q.dtype)
    weights = weights.view(batch, kv_heads, group * length, prefix_length + length)
    over_prefix = weights[..., :prefix_length].transpose(0, 1).reshape(kv_heads, batch * group * length, prefix_length)
    out = (over_prefix @ prefix_v).view(kv_heads, batch, group * length, dim).transpose(0, 1)
    out = out + weights[..., prefix_length:] @ v
    return out.reshape(batch, heads, length, dim)


def _masks(config: TextConfig, positions: Tensor, visible: Tensor, prefix_length: int) -> dict[bool, Tensor]:
    """Additive masks [B, 1, S, T + S] for full (True) and sliding-window (False) layers."""
    prefix_positions = torch.arange(prefix_length, device=positions.device).expand(positions.shape[0], -1)
    key_positions = torch.cat([prefix_positions, positions], dim=1)
    near = positions[:, :, None] - key_positions[:, None, :] < config.sliding_window
    return {full: _additive(visible if full else visible & near) for full in (True, False)}


def _additive(allowed: Tensor) -> Tensor:
    return torch.zeros(allowed.shape).masked_fill(~allowed, -1e30)[:, None].to(allowed.device)


def _rotary(config: TextConfig, positions: Tensor, *, full: bool) -> tuple[Tensor, Tensor]:
    """(cos, sin) [B, S, 1, D]; full layers use rope_theta and the linear factor, sliding ones the local base."""
    base = config.rope_theta if full else config.rope_local_base_freq
    factor = config.rope_factor if full else 1.0
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=positions.device) / config.head_dim
    # Rounded as in transformers: `base**-exponents` differs in the last bit, which position 700 makes visible.
    angles = positions[..., None].float() * (1.0 / base**exponents / factor)
    angles = torch.cat([angles, angles], dim=-1)[:, :, None]
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rotary
    low, high = x.chunk(2, dim=-1)
    return (x * cos + torch.cat([-high, low], dim=-1) * sin).to(x.dtype)


def _norm(config: TextConfig, weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.rms_norm(x.float(), x.shape[-1:], weights[f"{name}.weight"].float(), config.rms_norm_eps).to(x.dtype)


def _embedding_scale(config: TextConfig, weights: Mapping[str, Tensor]) -> Tensor:
    """sqrt(hidden size), rounded to the weights' dtype as the published model does."""
    return torch.tensor(config.hidden_size**0.5, dtype=weights["embed_tokens.weight"].dtype)
