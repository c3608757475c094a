"""Gemma 3's text forward as an OpenVINO graph, built with its own ops. Its twin is `forward_torch`.

Formulas: Gemma 3 report (arXiv 2503.19786) and transformers' modeling_gemma3, to which a test holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import openvino as ov
from openvino import Type
from openvino import opset13 as op
from tritonguard.errors import BundleError

from engines.checkpoint import Checkpoint, TextConfig
from engines.local.attention_openvino import Pasts, Rows, attend, in_line, in_rows, line, pool, to_rows
from engines.local.graph_nodes import Node, Stored, floats, ints, model, split_heads, weight

INPUTS = (
    "ids",
    "positions",
    "grid",
    "cells",
    "longer",
    "shorter",
    "columns",
    "visible",
    "past_keys",
    "past_values",
    "past_lengths",
    "past_of",
    "rows",
    "candidates",
    "slots",
    "features",
    "kept",
)
OUTPUTS = ("logits", "keys", "values", "hidden")
EMBEDDING = "embed_tokens"
"""Friendly name of the embedding's constant [vocabulary, hidden] in a saved graph."""


Rotary = tuple[Node, Node]
"""(cos, sin) [..., 1, D] of tokens [...]."""
Weights = Callable[[str, Stored], Node]
"""(name of a linear layer, its matrix [out, in]) -> the node that stands for the matrix, float32."""


def build_graph(checkpoint: Checkpoint, weights: Weights = lambda name, stored: weight(stored)) -> ov.Model:
    """The graph of what `forward_torch.forward` computes, dynamic in all sizes but the model's own.

    Tokens of all rows stand in one line, and every layer computes each of them once. Attention alone has rows, the
    longer and the shorter of them in two parts, so that none is padded much.

    Its constants are views of the checkpoint's files: keep `checkpoint` for as long as the graph. weights: what
    stands for the matrices of the linear layers; as they are stored if not said. A layer's product has its name,
    "layers.0.mlp.down_proj" for one. Raises BundleError: tensors missing, or of other sizes than config.json says.

    Inputs: ids, positions int32 [M]; grid int32 [B, S], which token is at each place of a row, any where none is;
    longer int32 [L] and shorter int32 [B - L], the rows of both parts, and columns int32 [1], how many places a shorter
    one has; cells int32 [M], where each token's place is: longer rows have S places each, counted in their order, and
    behind L * S come those of the shorter ones; visible boolean [B, S, S], what of the pass a place sees; past_keys,
    past_values float32 [layers, G, kv heads, T, head dim], of which a row sees the one that past_of int32 [B] names, as
    much of it as past_lengths int32 [G] says, at positions from 0 on, T >= 1; rows int32 [B, N], columns of the grid;
    candidates int32 [C]; slots int32 [M], -1 for a text token, k >= 0 for an image token whose vector is row k of
    features float32 [F, hidden], F >= 1 (one unused row when there is no image). Outputs: logits float32 [B, N, C];
    keys, values float32 [layers, kv heads, K, head dim], of the tokens that kept int32 [K] names, none perhaps; hidden
    float32 [B, N, hidden], the normed states that the logits are read from. Behind the last layer's keys and values
    only what `rows` names is computed.
    """
    graph = _Builder(checkpoint, weights)
    config = checkpoint.text_config
    states = [config.num_hidden_layers, -1, config.num_key_value_heads, -1, config.head_dim]
    shapes: dict[str, tuple[list[int], Type]] = {
        "ids": ([-1], Type.i32),
        "positions": ([-1], Type.i32),
        "grid": ([-1, -1], Type.i32),
        "cells": ([-1], Type.i32),
        "longer": ([-1], Type.i32),
        "shorter": ([-1], Type.i32),
        "columns": ([1], Type.i32),
        "visible": ([-1, -1, -1], Type.boolean),
        "past_keys": (states, Type.f32),
        "past_values": (states, Type.f32),
        "past_lengths": ([-1], Type.i32),
        "past_of": ([-1], Type.i32),
        "rows": ([-1, -1], Type.i32),
        "candidates": ([-1], Type.i32),
        "slots": ([-1], Type.i32),
        "features": ([-1, config.hidden_size], Type.f32),
        "kept": ([-1], Type.i32),
    }
    inputs = {name: op.parameter(shape, dtype, name=name) for name, (shape, dtype) in shapes.items()}
    try:
        outputs = graph.forward(**inputs)
    except RuntimeError as error:
        raise BundleError(f"{checkpoint.folder.name}: its weights are not of the sizes in its config.json") from error
    return model(inputs, dict(zip(OUTPUTS, outputs, strict=True)), "gemma3_text")


class _Builder:
    """Holds the checkpoint and the constants while the graph is written down."""

    def __init__(self, checkpoint: Checkpoint, weights: Weights) -> None:
        self._checkpoint = checkpoint
        self._weights = weights
        self._config: TextConfig = checkpoint.text_config
        self._embedding = weight(checkpoint.stored("embed_tokens.weight"), name=EMBEDDING)

    def forward(
        self,
        *,
        ids: Node,
        positions: Node,
        grid: Node,
        cells: Node,
        longer: Node,
        shorter: Node,
        columns: Node,
        visible: Node,
        past_keys: Node,
        past_values: Node,
        past_lengths: Node,
        past_of: Node,
        rows: Node,
        candidates: Node,
        slots: Node,
        features: Node,
        kept: Node,
    ) -> tuple[Node, Node, Node, Node]:
        config = self._config
        windows = {True: None, False: config.sliding_window}  # of full layers, and of sliding ones
        pasts, every = Pasts.of(past_keys, past_lengths), Rows(grid, grid, visible, past_of)
        parts, ends = (every.only(longer), every.only(shorter, columns)), every.at(rows)
        seen, all_seen = [part.keys(pasts) for part in parts], every.keys(pasts)
        rotary = {full: self._rotary(positions, full=full) for full in windows}
        masks = {full: [part.mask(positions, pasts, window) for part in parts] for full, window in windows.items()}
        x = self._embed(ids, slots, features)
        keys, values = [], []
        last = config.num_hidden_layers - 1
        for layer in range(config.num_hidden_layers):
            name = f"layers.{layer}"
            full = layer in config.full_attention_layers
            h = self._norm(f"{name}.input_layernorm", x)
            k, v = (line(each) for each in self._states(name, h, rotary[full]))
            keys.append(op.gather(k, kept, ints(1)))
            values.append(op.gather(v, kept, ints(1)))
            k, v = pool(_layer(past_keys, layer), k), pool(_layer(past_values, layer), v)
            if layer < last:
                q = self._queries(name, h, rotary[full])
                attended = [
                    attend(config, to_rows(q, part.asking), in_rows(k, at), in_rows(v, at), mask)
                    for part, at, mask in zip(parts, seen, masks[full], strict=True)
                ]
                h = in_line(attended, cells)
            else:
                # What nobody reads is not computed.
                x, h, cos, sin = (to_rows(each, ends.asking) for each in (x, h, *rotary[full]))
                q, mask = self._queries(name, h, (cos, sin)), ends.mask(positions, pasts, windows[full])
                h = attend(config, q, in_rows(k, all_seen), in_rows(v, all_seen), mask)
            h = self._linear(f"{name}.self_attn.o_proj", h)
            x = op.add(x, self._norm(f"{name}.post_attention_layernorm", h))
            h = self._norm(f"{name}.pre_feedforward_layernorm", x)
            gate = op.gelu(self._linear(f"{name}.mlp.gate_proj", h), "tanh")
            h = op.multiply(gate, self._linear(f"{name}.mlp.up_proj", h))
            h = self._linear(f"{name}.mlp.down_proj", h)
            x = op.add(x, self._norm(f"{name}.post_feedforward_layernorm", h))
        # The plugin keeps all behind the last product in float32, and by its additions that is the residual stream as a
        # whole. A product that changes nothing ends it, and in bfloat16 a pass takes less time.
        x = op.matmul(x, op.constant(np.eye(config.hidden_size, dtype=np.float32)), False, True)
        read = self._norm("norm", x)
        scored = op.gather(self._embedding, candidates, ints(0))
        return op.matmul(read, scored, False, True), _stack(keys), _stack(values), read

    def _states(self, name: str, h: Node, rotary: Rotary) -> tuple[Node, Node]:
        """Keys and values [1, M, KV, D] of a layer's normed input [1, M, hidden]."""
        heads, dim = self._config.num_key_value_heads, self._config.head_dim
        k = split_heads(self._linear(f"{name}.self_attn.k_proj", h), heads, dim)
        v = split_heads(self._linear(f"{name}.self_attn.v_proj", h), heads, dim)
        return _rotate(self._norm(f"{name}.self_attn.k_norm", k), rotary, dim), v

    def _queries(self, name: str, h: Node, rotary: Rotary) -> Node:
        """Scaled queries [..., heads, D] of a layer's normed input [..., hidden]."""
        config = self._config
        q = split_heads(self._linear(f"{name}.self_attn.q_proj", h), config.num_attention_heads, config.head_dim)
        q = self._norm(f"{name}.self_attn.q_norm", q, times=config.query_pre_attn_scalar**-0.5)
        return _rotate(q, rotary, config.head_dim)

    def _embed(self, ids: Node, slots: Node, features: Node) -> Node:
        """[1, M, hidden]: scaled embeddings of text tokens, image features unscaled."""
        # The image token's id may lie beyond the embedding's rows.
        last = ints(self._checkpoint.stored("embed_tokens.weight").shape[0] - 1)
        text = op.gather(self._embedding, op.minimum(ids, last), ints(0))
        text = op.multiply(text, floats(self._config.hidden_size**0.5))
        image = op.gather(features, op.maximum(slots, ints(0)), ints(0))
        x = op.select(op.unsqueeze(op.greater_equal(slots, ints(0)), ints(1)), image, text)
        return op.unsqueeze(x, ints(0))

    def _linear(self, name: str, x: Node) -> Node:
        product = op.matmul(x, self._weights(name, self._checkpoint.stored(f"{name}.weight")), False, True)
        product.set_friendly_name(name)
        return product

    def _norm(self, name: str, x: Node, *, times: float = 1.0) -> Node:
        """x / rms(x) * (1 + w) * times: Gemma stores w."""
        variance = op.reduce_mean(op.multiply(x, x), ints([-1]), True)
        inverse = op.divide(floats(1.0), op.sqrt(op.add(variance, floats(self._config.rms_norm_eps))))
        scale = floats((self._checkpoint.text(f"{name}.weight") + 1.0) * np.float32(times))
        return op.multiply(op.multiply(x, inverse), scale)

    def _rotary(self, positions: Node, *, full: bool) -> Rotary:
        """(cos, sin) [1, M, 1, D]; full layers use rope_theta and the linear factor, sliding ones the local base."""
        config = self._config
        base = config.rope_theta if full else config.rope_local_base_freq
        factor = config.rope_factor if full else 1.0
        exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
        frequencies = (1.0 / base**exponents / factor).astype(np.float32)
        angles = op.multiply(op.unsqueeze(op.convert(positions, "f32"), ints([0, 2, 3])), op.constant(frequencies))
        cos, sin = op.cos(angles), op.sin(angles)
        return op.concat([cos, cos], -1), op.concat([sin, sin], -1)


def _rotate(x: Node, rotary: Rotary, dim: int) -> Node:
    """In the form that the plugin takes for one operation."""
    cos, sin = rotary
    low, high = op.variadic_split(x, ints(3), ints([dim // 2, -1])).outputs()
    turned = op.concat([op.multiply(high, floats(-1.0)), low], -1)
    return op.add(op.multiply(x, cos), op.multiply(turned, sin))


def _layer(states: Node, layer: int) -> Node:
    return op.gather(states, ints(layer), ints(0))


def _stack(states: Sequence[Node]) -> Node:
    """[KV, K, D] of each layer -> [layers, KV, K, D]."""
    return op.concat([op.unsqueeze(each, ints(0)) for each in states], 0)
