"""Gemma 3's text forward as an OpenVINO graph, built with its own ops. Its twin is `forward_torch`.

Formulas: Gemma 3 report (arXiv 2503.19786) and transformers' modeling_gemma3, to which a test holds it.
Attention is over one prefix that all rows share and each row's own suffix: two products, one softmax.
OpenVINO refuses an empty prefix: give one key that nothing may see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
from openvino import Type
from openvino import opset13 as op

from engines.checkpoint import Checkpoint, FloatArray, TextConfig

Node = Any  # openvino's Python wheel has no types for graph nodes
INPUTS = ("ids", "positions", "visible", "prefix_keys", "prefix_values", "rows", "candidates")
OUTPUTS = ("logits", "keys", "values")


def build_graph(checkpoint: Checkpoint) -> ov.Model:
    """The graph of `forward_torch.forward`, dynamic in B, S, T, N and C.

    Its constants are views of the checkpoint's files: keep `checkpoint` for as long as the graph.

    Inputs: ids, positions int32 [B, S]; visible boolean [B, S, T + S]; prefix_keys, prefix_values float32
    [layers, kv heads, T, head dim]; rows int32 [B, N]; candidates int32 [C]. Outputs: logits float32
    [B, N, C]; keys, values float32 [layers, B, kv heads, S, head dim].
    """
    graph = _Builder(checkpoint)
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
    }
    inputs = {name: op.parameter(shape, dtype, name=name) for name, (shape, dtype) in shapes.items()}
    outputs = graph.forward(**inputs)
    for name, node in inputs.items():
        node.output(0).set_names({name})
    results = [op.result(node) for node in outputs]
    for name, result in zip(OUTPUTS, results, strict=True):
        result.output(0).set_names({name})
    return ov.Model(results, list(inputs.values()), "gemma3_text")


class _Builder:
    """Holds the checkpoint and the constants while the graph is written down."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._config: TextConfig = checkpoint.text_config
        self._embedding = self._weight("embed_tokens")

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
    ) -> tuple[Node, Node, Node]:
        config = self._config
        heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        masks = self._masks(positions, visible, prefix_keys)
        rotary = {full: self._rotary(positions, full=full) for full in (True, False)}
        x = op.multiply(op.gather(self._embedding, ids, _ints(0)), _floats(config.hidden_size**0.5))
        keys, values = [], []
        for layer in range(config.num_hidden_layers):
            name = f"layers.{layer}"
            full = layer in config.full_attention_layers
            h = self._norm(f"{name}.input_layernorm", x)
            q = _split_heads(self._linear(f"{name}.self_attn.q_proj", h), heads, dim)
            k = _split_heads(self._linear(f"{name}.self_attn.k_proj", h), kv_heads, dim)
            v = _swap(_split_heads(self._linear(f"{name}.self_attn.v_proj", h), kv_heads, dim), 1, 2)
            q = _swap(_rotate(self._norm(f"{name}.self_attn.q_norm", q), rotary[full], dim), 1, 2)
            k = _swap(_rotate(self._norm(f"{name}.self_attn.k_norm", k), rotary[full], dim), 1, 2)
            keys.append(k)
            values.append(v)
            q = op.multiply(q, _floats(config.query_pre_attn_scalar**-0.5))
            prefix_k, prefix_v = (op.gather(states, _ints(layer), _ints(0)) for states in (prefix_keys, prefix_values))
            h = _attend(config, q, k, v, prefix_k, prefix_v, masks[full])
            h = op.reshape(_swap(h, 1, 2), _ints([0, 0, heads * dim]), True)
            h = self._linear(f"{name}.self_attn.o_proj", h)
            x = op.add(x, self._norm(f"{name}.post_attention_layernorm", h))
            h = self._norm(f"{name}.pre_feedforward_layernorm", x)
            gate = op.gelu(self._linear(f"{name}.mlp.gate_proj", h), "tanh")
            h = op.multiply(gate, self._linear(f"{name}.mlp.up_proj", h))
            h = self._linear(f"{name}.mlp.down_proj", h)
            x = op.add(x, self._norm(f"{name}.post_feedforward_layernorm", h))
        read = self._norm("norm", op.gather(x, rows, _ints(1), batch_dims=1))
        scored = op.gather(self._embedding, candidates, _ints(0))
        return op.matmul(read, scored, False, True), _stack(keys), _stack(values)

    def _linear(self, name: str, x: Node) -> Node:
        return op.matmul(x, self._weight(name), False, True)

    def _norm(self, name: str, x: Node) -> Node:
        """x / rms(x) * (1 + w): Gemma stores w."""
        variance = op.reduce_mean(op.multiply(x, x), _ints([-1]), True)
        inverse = op.divide(_floats(1.0), op.sqrt(op.add(variance, _floats(self._config.rms_norm_eps))))
        scale = op.constant(self._checkpoint.text(f"{name}.weight") + 1.0)
        return op.multiply(op.multiply(x, inverse), scale)

    def _weight(self, name: str) -> Node:
        """A matrix as the checkpoint stores it: bfloat16 bits with a conversion that the plugin folds."""
        stored = self._checkpoint.stored(f"{name}.weight")
        if stored.dtype == np.uint16:
            tensor = ov.Tensor(stored.view(np.float16), stored.shape, Type.bf16)
            return op.convert(op.constant(tensor), Type.f32)
        return op.constant(stored)

    def _masks(self, positions: Node, visible: Node, prefix_keys: Node) -> dict[bool, Node]:
        """Additive masks [B, 1, S, T + S] for full (True) and sliding-window (False) layers."""
        length = op.gather(op.shape_of(prefix_keys, "i32"), _ints(2), _ints(0))
        prefix = op.unsqueeze(op.range(_ints(0), length, _ints(1), "i32"), _ints(0))
        batch = op.gather(op.shape_of(positions, "i32"), _ints([0]), _ints(0))
        prefix = op.broadcast(prefix, op.concat([batch, op.unsqueeze(length, _ints(0))], 0))
        key_positions = op.unsqueeze(op.concat([prefix, positions], 1), _ints(1))
        distance = op.subtract(op.unsqueeze(positions, _ints(2)), key_positions)
        near = op.less(distance, _ints(self._config.sliding_window))
        return {
            full: op.unsqueeze(op.select(allowed, _floats(0.0), _floats(-1e30)), _ints(1))
            for full, allowed in ((True, visible), (False, op.logical_and(visible, near)))
        }

    def _rotary(self, positions: Node, *, full: bool) -> tuple[Node, Node]:
        """(cos, sin) [B, S, 1, D]; full layers use rope_theta and the linear factor, sliding ones the local base."""
        config = self._config
        base = config.rope_theta if full else config.rope_local_base_freq
        factor = config.rope_factor if full else 1.0
        exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
        frequencies = (1.0 / base**exponents / factor).astype(np.float32)
        angles = op.multiply(op.unsqueeze(op.convert(positions, "f32"), _ints([2, 3])), op.constant(frequencies))
        angles = op.concat([angles, angles], -1)
        return op.cos(angles), op.sin(angles)


def _attend(config: TextConfig, q: Node, k: Node, v: Node, prefix_k: Node, prefix_v: Node, mask: Node) -> Node:
    """q [B, H, S, D]; k, v [B, KV, S, D]; prefix [KV, T, D]; mask additive [B, 1, S, T + S] -> [B, H, S, D]."""
    heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    group = heads // kv_heads
    shape = op.shape_of(q, "i32")
    batch, length = (op.gather(shape, _ints([axis]), _ints(0)) for axis in (0, 2))
    grouped = op.concat([batch, _ints([kv_heads]), op.multiply(length, _ints(group))], 0)
    q = op.reshape(q, op.concat([grouped, _ints([dim])], 0), False)
    # Against the shared prefix, all rows are one matrix: [KV, B * group * S, D] x [KV, D, T].
    together = op.reshape(_swap(q, 0, 1), _ints([kv_heads, -1, dim]), False)
    swapped = op.concat([_ints([kv_heads]), batch, op.multiply(length, _ints(group)), _ints([-1])], 0)
    prefix_scores = op.reshape(op.matmul(together, prefix_k, False, True), swapped, False)
    scores = op.concat([_swap(prefix_scores, 0, 1), op.matmul(q, k, False, True)], -1)
    per_head = op.concat([batch, _ints([heads]), length, _ints([-1])], 0)
    weights = op.softmax(op.add(op.reshape(scores, per_head, False), mask), -1)
    weights = op.reshape(weights, op.concat([grouped, _ints([-1])], 0), False)
    prefix_length = op.gather(op.shape_of(prefix_k, "i32"), _ints([1]), _ints(0))
    over_prefix = op.slice(weights, _ints([0]), prefix_length, _ints([1]), _ints([3]))
    over_suffix = op.slice(weights, prefix_length, _ints([2**31 - 1]), _ints([1]), _ints([3]))
    flat = op.concat([_ints([kv_heads]), _ints([-1]), prefix_length], 0)
    from_prefix = op.matmul(op.reshape(_swap(over_prefix, 0, 1), flat, False), prefix_v, False, False)
    out = op.add(_swap(op.reshape(from_prefix, swapped, False), 0, 1), op.matmul(over_suffix, v, False, False))
    return op.reshape(out, op.concat([batch, _ints([heads]), length, _ints([dim])], 0), False)


def _split_heads(x: Node, heads: int, dim: int) -> Node:
    return op.reshape(x, _ints([0, 0, heads, dim]), True)


def _rotate(x: Node, rotary: tuple[Node, Node], dim: int) -> Node:
    cos, sin = rotary
    low, high = op.split(x, _ints(-1), 2).outputs()
    turned = op.concat([op.negative(high), low], -1)
    return op.add(op.multiply(x, cos), op.multiply(turned, sin))


def _swap(x: Node, first: int, second: int) -> Node:
    order = [0, 1, 2, 3]
    order[first], order[second] = second, first
    return op.transpose(x, _ints(order))


def _stack(nodes: Sequence[Node]) -> Node:
    return op.concat([op.unsqueeze(node, _ints(0)) for node in nodes], 0)


def _ints(value: int | Sequence[int]) -> Node:
    return op.constant(np.asarray(value, dtype=np.int32))


def _floats(value: float) -> Node:
    array: FloatArray = np.asarray(value, dtype=np.float32)
    return op.constant(array)
