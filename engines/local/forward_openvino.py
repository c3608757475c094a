"""Gemma 3's text forward as an OpenVINO graph, built with its own ops. Its twin is `forward_torch`.

Formulas: Gemma 3 report (arXiv 2503.19786) and transformers' modeling_gemma3, to which a test holds it.
Attention is over one prefix that all rows share and each row's own suffix: two products, one softmax.
OpenVINO refuses an empty prefix: give one key that nothing may see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import openvino as ov
from openvino import Type
from openvino import opset13 as op
from tritonguard.errors import BundleError

from engines.checkpoint import Checkpoint, TextConfig
from engines.local.graph_nodes import Node, Stored, floats, ints, model, split_heads, swap, weight

INPUTS = ("ids", "positions", "visible", "prefix_keys", "prefix_values", "rows", "candidates", "slots", "features")
OUTPUTS = ("logits", "keys", "values", "hidden")
EMBEDDING = "embed_tokens"
"""Friendly name of the embedding's constant [vocabulary, hidden] in a saved graph."""


Weights = Callable[[str, Stored], Node]
"""(name of a linear layer, its matrix [out, in]) -> the node that stands for the matrix, float32."""


def build_graph(checkpoint: Checkpoint, weights: Weights = lambda name, stored: weight(stored)) -> ov.Model:
    """The graph of `forward_torch.forward`, dynamic in B, S, T, N and C.

    Its constants are views of the checkpoint's files: keep `checkpoint` for as long as the graph. weights: what
    stands for the matrices of the linear layers; as they are stored if not said. A layer's product has its name,
    "layers.0.mlp.down_proj" for one. Raises BundleError: tensors missing, or of other sizes than config.json says.

    Inputs: ids, positions int32 [B, S]; visible boolean [B, S, T + S]; prefix_keys, prefix_values float32
    [layers, kv heads, T, head dim]; rows int32 [B, N]; candidates int32 [C]; slots int32 [B, S], -1 for a text
    token, k >= 0 for an image token whose vector is row k of features float32 [F, hidden], F >= 1 (one unused
    row when there is no image). Outputs: logits float32 [B, N, C]; keys, values float32 [layers, B, kv heads,
    S, head dim]; hidden float32 [B, N, hidden], the normed states that the logits are read from.
    """
    graph = _Builder(checkpoint, weights)
    config = checkpoint.text_config
    state = [config.num_hidden_layers, config.num_key_value_heads, -1, config.head_dim]
    shapes: dict[str, tuple[list[int], Type]] = {
        "ids": ([-1, -1], Type.i32),
        "positions": ([-1, -1], Type.i32),
        "visible": ([-1, -1, -1], Type.boolean),
        "prefix_keys": (state, Type.f32),
        "prefix_values": (state, Type.f32),
        "rows": ([-1, -1], Type.i32),
        "candidates": ([-1], Type.i32),
        "slots": ([-1, -1], Type.i32),
        "features": ([-1, config.hidden_size], Type.f32),
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
        rows: Node,
        candidates: Node,
        slots: Node,
        features: Node,
    ) -> tuple[Node, Node, Node, Node]:
        config = self._config
        heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        masks = self._masks(positions, visible, prefix_keys)
        rotary = {full: self._rotary(positions, full=full) for full in (True, False)}
        x = self._embed(ids, slots, features)
        keys, values = [], []
        for layer in range(config.num_hidden_layers):
            name = f"layers.{layer}"
            full = layer in config.full_attention_layers
            h = self._norm(f"{name}.input_layernorm", x)
            q = split_heads(self._linear(f"{name}.self_attn.q_proj", h), heads, dim)
            k = split_heads(self._linear(f"{name}.self_attn.k_proj", h), kv_heads, dim)
            v = swap(split_heads(self._linear(f"{name}.self_attn.v_proj", h), kv_heads, dim), 1, 2)
            q = swap(_rotate(self._norm(f"{name}.self_attn.q_norm", q), rotary[full], dim), 1, 2)
            k = swap(_rotate(self._norm(f"{name}.self_attn.k_norm", k), rotary[full], dim), 1, 2)
            keys.append(k)
            values.append(v)
            q = op.multiply(q, floats(config.query_pre_attn_scalar**-0.5))
            prefix_k, prefix_v = (op.gather(states, ints(layer), ints(0)) for states in (prefix_keys, prefix_values))
            h = _attend(config, q, k, v, prefix_k, prefix_v, masks[full])
            h = op.reshape(swap(h, 1, 2), ints([0, 0, heads * dim]), True)
            h = self._linear(f"{name}.self_attn.o_proj", h)
            x = op.add(x, self._norm(f"{name}.post_attention_layernorm", h))
            h = self._norm(f"{name}.pre_feedforward_layernorm", x)
            gate = op.gelu(self._linear(f"{name}.mlp.gate_proj", h), "tanh")
            h = op.multiply(gate, self._linear(f"{name}.mlp.up_proj", h))
            h = self._linear(f"{name}.mlp.down_proj", h)
            x = op.add(x, self._norm(f"{name}.post_feedforward_layernorm", h))
        read = self._norm("norm", op.gather(x, rows, ints(1), batch_dims=1))
        scored = op.gather(self._embedding, candidates, ints(0))
        return op.matmul(read, scored, False, True), _stack(keys), _stack(values), read

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

    def _norm(self, name: str, x: Node) -> Node:
        """x / rms(x) * (1 + w): Gemma stores w."""
        variance = op.reduce_mean(op.multiply(x, x), ints([-1]), True)
        inverse = op.divide(floats(1.0), op.sqrt(op.add(variance, floats(self._config.rms_norm_eps))))
        scale = floats(self._checkpoint.text(f"{name}.weight") + 1.0)
        return op.multiply(op.multiply(x, inverse), scale)

    def _masks(self, positions: Node, visible: Node, prefix_keys: Node) -> dict[bool, Node]:
        """Additive masks [B, 1, S, T + S] for full (True) and sliding-window (False) layers."""
        length = op.gather(op.shape_of(prefix_keys, "i32"), ints(2), ints(0))
        prefix = op.unsqueeze(op.range(ints(0), length, ints(1), "i32"), ints(0))
        batch = op.gather(op.shape_of(positions, "i32"), ints([0]), ints(0))
        prefix = op.broadcast(prefix, op.concat([batch, op.unsqueeze(length, ints(0))], 0))
        key_positions = op.unsqueeze(op.concat([prefix, positions], 1), ints(1))
        distance = op.subtract(op.unsqueeze(positions, ints(2)), key_positions)
        near = op.less(distance, ints(self._config.sliding_window))
        return {
            full: op.unsqueeze(op.select(allowed, floats(0.0), floats(-1e30)), ints(1))
            for full, allowed in ((True, visible), (False, op.logical_and(visible, near)))
        }

    def _rotary(self, positions: Node, *, full: bool) -> tuple[Node, Node]:
        """(cos, sin) [B, S, 1, D]; full layers use rope_theta and the linear factor, sliding ones the local base."""
        config = self._config
        base = config.rope_theta if full else config.rope_local_base_freq
        factor = config.rope_factor if full else 1.0
        exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
        frequencies = (1.0 / base**exponents / factor).astype(np.float32)
        angles = op.multiply(op.unsqueeze(op.convert(positions, "f32"), ints([2, 3])), op.constant(frequencies))
        angles = op.concat([angles, angles], -1)
        return op.cos(angles), op.sin(angles)


def _attend(config: TextConfig, q: Node, k: Node, v: Node, prefix_k: Node, prefix_v: Node, mask: Node) -> Node:
    """q [B, H, S, D]; k, v [B, KV, S, D]; prefix [KV, T, D]; mask additive [B, 1, S, T + S] -> [B, H, S, D]."""
    heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    group = heads // kv_heads
    shape = op.shape_of(q, "i32")
    batch, length = (op.gather(shape, ints([axis]), ints(0)) for axis in (0, 2))
    grouped = op.concat([batch, ints([kv_heads]), op.multiply(length, ints(group))], 0)
    q = op.reshape(q, op.concat([grouped, ints([dim])], 0), False)
    # Against the shared prefix, all rows are one matrix: [KV, B * group * S, D] x [KV, D, T].
    together = op.reshape(swap(q, 0, 1), ints([kv_heads, -1, dim]), False)
    swapped = op.concat([ints([kv_heads]), batch, op.multiply(length, ints(group)), ints([-1])], 0)
    prefix_scores = op.reshape(op.matmul(together, prefix_k, False, True), swapped, False)
    scores = op.concat([swap(prefix_scores, 0, 1), op.matmul(q, k, False, True)], -1)
    per_head = op.concat([batch, ints([heads]), length, ints([-1])], 0)
    weights = op.softmax(op.add(op.reshape(scores, per_head, False), mask), -1)
    weights = op.reshape(weights, op.concat([grouped, ints([-1])], 0), False)
    prefix_length = op.gather(op.shape_of(prefix_k, "i32"), ints([1]), ints(0))
    over_prefix = op.slice(weights, ints([0]), prefix_length, ints([1]), ints([3]))
    over_suffix = op.slice(weights, prefix_length, ints([2**31 - 1]), ints([1]), ints([3]))
    flat = op.concat([ints([kv_heads]), ints([-1]), prefix_length], 0)
    from_prefix = op.matmul(op.reshape(swap(over_prefix, 0, 1), flat, False), prefix_v, False, False)
    out = op.add(swap(op.reshape(from_prefix, swapped, False), 0, 1), op.matmul(over_suffix, v, False, False))
    return op.reshape(out, op.concat([batch, ints([heads]), length, ints([dim])], 0), False)


def _rotate(x: Node, rotary: tuple[Node, Node], dim: int) -> Node:
    cos, sin = rotary
    low, high = op.split(x, ints(-1), 2).outputs()
    turned = op.concat([op.negative(high), low], -1)
    return op.add(op.multiply(x, cos), op.multiply(turned, sin))


def _stack(nodes: Sequence[Node]) -> Node:
    return op.concat([op.unsqueeze(node, ints(0)) for node in nodes], 0)
