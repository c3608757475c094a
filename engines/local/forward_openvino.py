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
from engines.local.attention_openvino import Places, attend, heads_first
from engines.local.graph_nodes import Node, Stored, floats, ints, model, split_heads, weight

INPUTS = (
    "ids",
    "positions",
    "visible",
    "prefix_keys",
    "prefix_values",
    "prefix_lengths",
    "prefix_of",
    "own_keys",
    "own_values",
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
"""(cos, sin) [B, S, 1, D]."""
Weights = Callable[[str, Stored], Node]
"""(name of a linear layer, its matrix [out, in]) -> the node that stands for the matrix, float32."""


def build_graph(checkpoint: Checkpoint, weights: Weights = lambda name, stored: weight(stored)) -> ov.Model:
    """The graph of `forward_torch.forward`, dynamic in B, S, T, N and C.

    Its constants are views of the checkpoint's files: keep `checkpoint` for as long as the graph. weights: what
    stands for the matrices of the linear layers; as they are stored if not said. A layer's product has its name,
    "layers.0.mlp.down_proj" for one. Raises BundleError: tensors missing, or of other sizes than config.json says.

    Inputs: ids, positions int32 [B, S]; prefix_keys, prefix_values float32 [layers, G, kv heads, T, head dim], of which
    a row sees the one that prefix_of int32 [B] names, as much of it as prefix_lengths int32 [G] says, at positions from
    0 on; own_keys, own_values float32 [layers, B, kv heads, P, head dim], each row's own past, at positions from 0 on;
    visible boolean [B, S, P + S], what of its past and of the pass itself a token sees; rows int32 [B, N]; candidates
    int32 [C]; slots int32 [B, S], -1 for a text token, k >= 0 for an image token whose vector is row k of features
    float32 [F, hidden], F >= 1 (one unused row when there is no image). T, P >= 1: one key that nothing sees stands for
    none. Outputs: logits float32 [B, N, C]; keys, values float32 [layers, K, kv heads, S, head dim], of the rows that
    kept int32 [K] names, none perhaps; hidden float32 [B, N, hidden], the normed states that the logits are read from.
    Behind the last layer's keys and values only what `rows` names is computed.
    """
    graph = _Builder(checkpoint, weights)
    config = checkpoint.text_config
    states = [config.num_hidden_layers, -1, config.num_key_value_heads, -1, config.head_dim]
    shapes: dict[str, tuple[list[int], Type]] = {
        "ids": ([-1, -1], Type.i32),
        "positions": ([-1, -1], Type.i32),
        "visible": ([-1, -1, -1], Type.boolean),
        "prefix_keys": (states, Type.f32),
        "prefix_values": (states, Type.f32),
        "prefix_lengths": ([-1], Type.i32),
        "prefix_of": ([-1], Type.i32),
        "own_keys": (states, Type.f32),
        "own_values": (states, Type.f32),
        "rows": ([-1, -1], Type.i32),
        "candidates": ([-1], Type.i32),
        "slots": ([-1, -1], Type.i32),
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
        visible: Node,
        prefix_keys: Node,
        prefix_values: Node,
        prefix_lengths: Node,
        prefix_of: Node,
        own_keys: Node,
        own_values: Node,
        rows: Node,
        candidates: Node,
        slots: Node,
        features: Node,
        kept: Node,
    ) -> tuple[Node, Node, Node, Node]:
        config = self._config
        lengths = op.gather(prefix_lengths, prefix_of, ints(0))
        places = Places.of(positions, visible, prefix_keys, lengths, own_keys)
        rotary = {full: self._rotary(positions, full=full) for full in (True, False)}
        masks = {full: places.mask(None if full else config.sliding_window) for full in (True, False)}
        x = self._embed(ids, slots, features)
        keys, values = [], []
        kv_heads = config.num_key_value_heads
        last = config.num_hidden_layers - 1
        for layer in range(config.num_hidden_layers):
            name = f"layers.{layer}"
            full = layer in config.full_attention_layers
            h = self._norm(f"{name}.input_layernorm", x)
            k, v = self._states(name, h, rotary[full])
            keys.append(op.gather(k, kept, ints(0)))
            values.append(op.gather(v, kept, ints(0)))
            asking, mask = rotary[full], masks[full]
            if layer == last:
                # What nobody reads is not computed.
                x, h = (op.gather(each, rows, ints(1), batch_dims=1) for each in (x, h))
                asking = tuple(op.gather(each, rows, ints(1), batch_dims=1) for each in asking)
                mask = places.at(rows).mask(None if full else config.sliding_window)
            q = self._queries(name, h, asking)
            prefix_k, prefix_v = (
                op.gather(_layer(each, layer), prefix_of, ints(0)) for each in (prefix_keys, prefix_values)
            )
            k = op.concat([prefix_k, _layer(own_keys, layer), heads_first(k, kv_heads)], 2)
            v = op.concat([prefix_v, _layer(own_values, layer), heads_first(v, kv_heads)], 2)
            h = attend(config, q, k, v, mask)
            h = self._linear(f"{name}.self_attn.o_proj", h)
            x = op.add(x, self._norm(f"{name}.post_attention_layernorm", h))
            h = self._norm(f"{name}.pre_feedforward_layernorm", x)
            gate = op.gelu(self._linear(f"{name}.mlp.gate_proj", h), "tanh")
            h = op.multiply(gate, self._linear(f"{name}.mlp.up_proj", h))
            h = self._linear(f"{name}.mlp.down_proj", h)
            x = op.add(x, self._norm(f"{name}.post_feedforward_layernorm", h))
        read = self._norm("norm", x)
        scored = op.gather(self._embedding, candidates, ints(0))
        return op.matmul(read, scored, False, True), _stack(keys), _stack(values), read

    def _states(self, name: str, h: Node, rotary: Rotary) -> tuple[Node, Node]:
        """Keys and values [B, S, KV, D] of a layer's normed input [B, S, hidden]."""
        heads, dim = self._config.num_key_value_heads, self._config.head_dim
        k = split_heads(self._linear(f"{name}.self_attn.k_proj", h), heads, dim)
        v = split_heads(self._linear(f"{name}.self_attn.v_proj", h), heads, dim)
        return _rotate(self._norm(f"{name}.self_attn.k_norm", k), rotary, dim), v

    def _queries(self, name: str, h: Node, rotary: Rotary) -> Node:
        """Scaled queries [B, S, heads, D] of a layer's normed input [B, S, hidden]."""
        config = self._config
        q = split_heads(self._linear(f"{name}.self_attn.q_proj", h), config.num_attention_heads, config.head_dim)
        q = self._norm(f"{name}.self_attn.q_norm", q, times=config.query_pre_attn_scalar**-0.5)
        return _rotate(q, rotary, config.head_dim)

    def _embed(self, ids: Node, slots: Node, features: Node) -> Node:
        """[B, S, hidden]: scaled embeddings of text tokens, image features unscaled."""
        # The image token's id may lie beyond the embedding's rows.
        last = ints(self._checkpoint.stored("embed_tokens.weight").shape[0] - 1)
        text = op.gather(self._embedding, op.minimum(ids, last), ints(0))
        text = op.multiply(text, floats(self._config.hidden_size**0.5))
        image = op.gather(features, op.maximum(slots, ints(0)), ints(0))
        return op.select(op.unsqueeze(op.greater_equal(slots, ints(0)), ints(2)), image, text)

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
        """(cos, sin) [B, S, 1, D]; full layers use rope_theta and the linear factor, sliding ones the local base."""
        config = self._config
        base = config.rope_theta if full else config.rope_local_base_freq
        factor = config.rope_factor if full else 1.0
        exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
        frequencies = (1.0 / base**exponents / factor).astype(np.float32)
        angles = op.multiply(op.unsqueeze(op.convert(positions, "f32"), ints([2, 3])), op.constant(frequencies))
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
    """[K, S, KV, D] of each layer -> [layers, K, KV, S, D]."""
    stacked = op.concat([op.unsqueeze(each, ints(0)) for each in states], 0)
    return op.transpose(stacked, ints([0, 1, 3, 2, 4]))
