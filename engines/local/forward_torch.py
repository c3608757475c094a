"""Gemma 3's text forward on torch: explicit inputs, no cache object. Its twin is `forward_openvino`.

Formulas: Gemma 3 report (arXiv 2503.19786) and transformers' modeling_gemma3, to which a test holds it.
Attention is over one prefix that all rows share, each row's own past, and the pass itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

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
    candidates: Tensor | None,
    own_keys: Tensor | None = None,
    own_values: Tensor | None = None,
    slots: Tensor | None = None,
    features: Tensor | None = None,
    linear: Linear | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One pass over B suffixes behind one shared prefix of T tokens, and each behind its own past of P.

    ids, positions: int64 [B, S]. prefix_keys, prefix_values: [layers, kv heads, T, head dim] at positions from 0 on,
    which all rows see whole. own_keys, own_values: [layers, B, kv heads, P, head dim], at positions from T on; None:
    P = 0. visible: bool [B, S, P + S], True where a query may see a key of its past or of the pass (the sliding window
    is applied here on top).
    rows: int64 [B, N], suffix indices whose logits are read; behind the last layer's keys and values nothing else is
    computed. candidates: int64 [C], token ids scored; None: the whole vocabulary.
    slots: int64 [B, S] and features [F, hidden], together or not at all (no image): -1 marks a text
    token, k >= 0 an image token, whose vector is features[k] as it is and whose id is not looked at.
    linear: replaces `x @ W.T` for a projection's name (LoRA training); None means plain weights.
    Returns logits float32 [B, N, C] and the suffix's keys and values [layers, B, kv heads, S, head dim].
    """

    def plain(name: str, x: Tensor) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"])

    linear = linear or plain
    heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    if own_keys is None or own_values is None:
        own_keys = own_values = prefix_keys.new_zeros(len(prefix_keys), len(ids), kv_heads, 0, dim)
    places = _Places.of(positions, visible, prefix_keys, own_keys)
    rotary = {full: _rotary(config, positions, full=full) for full in (True, False)}
    masks = {full: places.masks(None if full else config.sliding_window) for full in (True, False)}
    x = _embed(config, weights, ids, slots, features)
    keys, values = [], []
    for layer in range(config.num_hidden_layers):
        name = f"layers.{layer}"
        full = layer in config.full_attention_layers
        h = _norm(config, weights, f"{name}.input_layernorm", x)
        k = linear(f"{name}.self_attn.k_proj", h).unflatten(-1, (kv_heads, dim))
        v = linear(f"{name}.self_attn.v_proj", h).unflatten(-1, (kv_heads, dim)).transpose(1, 2)
        k = _rotate(_norm(config, weights, f"{name}.self_attn.k_norm", k), rotary[full]).transpose(1, 2)
        keys.append(k)
        values.append(v)
        asking, mask = rotary[full], masks[full]
        if layer == config.num_hidden_layers - 1:
            # What nobody reads is not computed.
            x, h = _at(rows, x), _at(rows, h)
            asking = (_at(rows, asking[0]), _at(rows, asking[1]))
            mask = places.at(rows).masks(None if full else config.sliding_window)
        q = linear(f"{name}.self_attn.q_proj", h).unflatten(-1, (heads, dim))
        q = _rotate(_norm(config, weights, f"{name}.self_attn.q_norm", q), asking) * config.query_pre_attn_scalar**-0.5
        k, v = torch.cat([own_keys[layer], k], dim=2), torch.cat([own_values[layer], v], dim=2)
        h = _attend(q, k, v, prefix_keys[layer], prefix_values[layer], mask)
        x = x + _norm(config, weights, f"{name}.post_attention_layernorm", linear(f"{name}.self_attn.o_proj", h))
        h = _norm(config, weights, f"{name}.pre_feedforward_layernorm", x)
        gate = F.gelu(linear(f"{name}.mlp.gate_proj", h), approximate="tanh")
        h = linear(f"{name}.mlp.down_proj", gate * linear(f"{name}.mlp.up_proj", h))
        x = x + _norm(config, weights, f"{name}.post_feedforward_layernorm", h)
    read = _norm(config, weights, "norm", x)
    embedding = weights["embed_tokens.weight"]
    logits = F.linear(read, embedding if candidates is None else F.embedding(candidates, embedding)).float()
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


@dataclass(frozen=True)
class _Places:
    """Where the tokens stand and what they see. positions [B, S]; visible bool [B, S, P + S]; own_positions [B, P + S];
    prefix_positions [T]."""

    positions: Tensor
    visible: Tensor
    own_positions: Tensor
    prefix_positions: Tensor

    @classmethod
    def of(cls, positions: Tensor, visible: Tensor, prefix_keys: Tensor, own_keys: Tensor) -> _Places:
        prefix_positions = torch.arange(prefix_keys.shape[2], device=positions.device)
        own = len(prefix_positions) + torch.arange(own_keys.shape[3], device=positions.device)
        own_positions = torch.cat([own.expand(len(positions), -1), positions], dim=1)
        return cls(positions, visible, own_positions, prefix_positions)

    def at(self, rows: Tensor) -> _Places:
        """Of the tokens rows int64 [B, N] alone; what they see stays."""
        return replace(self, positions=_at(rows, self.positions), visible=_at(rows, self.visible))

    def masks(self, window: int | None) -> tuple[Tensor, Tensor]:
        """Additive [B, 1, S, T] over the prefix and [B, 1, S, P + S] over one's own past and the pass.

        window: tokens that a sliding layer sees, itself included; None: a full layer.
        """
        over_own = self.visible
        over_prefix = over_own.new_ones(*self.positions.shape, len(self.prefix_positions))
        if window is not None:
            over_prefix = self.positions[:, :, None] - self.prefix_positions < window
            over_own = over_own & (self.positions[:, :, None] - self.own_positions[:, None] < window)
        return _additive(over_prefix), _additive(over_own)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor, masks: tuple[Tensor, Tensor]
) -> Tensor:
    """q [B, S, H, D]; k, v [B, KV, P + S, D]; prefix [KV, T, D] -> [B, S, H * D]: two products, one softmax."""
    batch, length, heads, dim = q.shape
    kv_heads, prefix_length = prefix_k.shape[0], prefix_k.shape[1]
    group = heads // kv_heads
    # Against the shared prefix, all rows are one matrix: [KV, B * group * S, D] x [KV, D, T].
    q = q.transpose(1, 2).reshape(batch, kv_heads, group * length, dim)
    together = q.transpose(0, 1).reshape(kv_heads, batch * group * length, dim)
    to_prefix = (together @ prefix_k.transpose(1, 2)).view(kv_heads, batch, group * length, prefix_length)
    parts = (to_prefix.transpose(0, 1), q @ k.transpose(2, 3))
    by_head = [part.reshape(batch, heads, length, -1) + mask for part, mask in zip(parts, masks, strict=True)]
    weights = torch.softmax(torch.cat(by_head, dim=-1).float(), dim=-1).to(q.dtype)
    weights = weights.view(batch, kv_heads, group * length, -1)
    over_prefix = weights[..., :prefix_length].transpose(0, 1).reshape(kv_heads, batch * group * length, prefix_length)
    out = (over_prefix @ prefix_v).view(kv_heads, batch, group * length, dim).transpose(0, 1)
    out = out + weights[..., prefix_length:] @ v
    return out.reshape(batch, heads, length, dim).transpose(1, 2).flatten(2)


def _at(rows: Tensor, x: Tensor) -> Tensor:
    """x [B, S, ...] at rows int64 [B, N] -> [B, N, ...]."""
    return x[torch.arange(len(x), device=x.device)[:, None], rows]


def _additive(allowed: Tensor) -> Tensor:
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill(~allowed, -1e30)[:, None]


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
