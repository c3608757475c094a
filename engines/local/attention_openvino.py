"""Attention of the OpenVINO forward: over one prefix that all rows share, each row's own past, and the pass itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from openvino import opset13 as op

from engines.checkpoint import TextConfig
from engines.local.graph_nodes import Node, floats, ints


@dataclass(frozen=True)
class Places:
    """Where the tokens stand and what they see. positions int32 [B, S]; visible boolean [B, S, P + S]; own_positions
    int32 [B, P + S]; prefix_positions int32 [T]; prefix_seen boolean [1, 1, T]."""

    positions: Node
    visible: Node
    own_positions: Node
    prefix_positions: Node
    prefix_seen: Node

    @classmethod
    def of(cls, positions: Node, visible: Node, prefix_keys: Node, prefix_length: Node, own_keys: Node) -> Places:
        prefix_positions, own = _up_to(_size(prefix_keys, 2)), _up_to(_size(own_keys, 3))
        own = op.broadcast(op.unsqueeze(own, ints(0)), op.concat([_size(positions, 0), _size(own_keys, 3)], 0))
        seen = op.unsqueeze(op.less(prefix_positions, prefix_length), ints([0, 1]))
        return cls(positions, visible, op.concat([own, positions], 1), prefix_positions, seen)

    def at(self, rows: Node) -> Places:
        """Of the tokens rows int32 [B, N] alone; what they see stays."""
        positions, visible = (op.gather(each, rows, ints(1), batch_dims=1) for each in (self.positions, self.visible))
        return replace(self, positions=positions, visible=visible)

    def masks(self, window: int | None) -> tuple[Node, Node]:
        """Additive: over the prefix [B or 1, S or 1, 1, T], over one's own past and the pass [B, 1, S, 1, P + S].

        window: tokens that a sliding layer sees, itself included; None: a full layer.
        """
        over_prefix, over_own = self.prefix_seen, self.visible
        if window is not None:
            positions = op.unsqueeze(self.positions, ints(2))
            to_prefix = op.subtract(positions, self.prefix_positions)
            to_own = op.subtract(positions, op.unsqueeze(self.own_positions, ints(1)))
            over_prefix = op.logical_and(over_prefix, op.less(to_prefix, ints(window)))
            over_own = op.logical_and(over_own, op.less(to_own, ints(window)))
        return op.unsqueeze(_additive(over_prefix), ints(2)), op.unsqueeze(_additive(over_own), ints([1, 3]))


def attend(
    config: TextConfig, q: Node, k: Node, v: Node, prefix_k: Node, prefix_v: Node, masks: tuple[Node, Node]
) -> Node:
    """q [B, S, H, D]; k, v [B, KV, P + S, D]; prefix [KV, T, D] -> [B, S, H * D].

    The softmax of two parts: exponentials of both under their common maximum, divided by the sum of both.
    """
    heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    group = heads // kv_heads
    batch, length = _size(q, 0), _size(q, 1)
    over_prefix, over_own = masks
    split = ints([0, 0, kv_heads, group, dim])
    q = op.reshape(q, split, True)
    # Against the shared prefix all rows are one matrix: [KV, B * S * group, D] x [KV, D, T].
    together = op.reshape(_moved(q, (2, 0, 1, 3, 4), kv_heads), ints([kv_heads, -1, dim]), False)
    to_prefix = op.matmul(together, prefix_k, False, True)
    by_row = op.concat([ints([kv_heads]), batch, length, ints([group, -1])], 0)
    to_prefix = op.add(op.reshape(to_prefix, by_row, False), over_prefix)
    apart = op.reshape(_moved(q, (0, 2, 1, 3, 4), kv_heads), ints([0, kv_heads, -1, dim]), True)
    of_row = op.concat([batch, ints([kv_heads]), length, ints([group, -1])], 0)
    to_own = op.add(op.reshape(op.matmul(apart, k, False, True), of_row, False), over_own)
    most_prefix, most_own = (op.reduce_max(each, ints([-1]), True) for each in (to_prefix, to_own))
    most = op.maximum(_swapped(most_prefix, kv_heads), most_own)
    to_prefix = op.exp(op.subtract(to_prefix, _swapped(most, kv_heads)))
    to_own = op.exp(op.subtract(to_own, most))
    total = op.add(
        _swapped(op.reduce_sum(to_prefix, ints([-1]), True), kv_heads), op.reduce_sum(to_own, ints([-1]), True)
    )
    flat = op.concat([ints([kv_heads, -1]), _size(prefix_k, 1)], 0)
    from_prefix = op.matmul(op.reshape(to_prefix, flat, False), prefix_v, False, False)
    from_prefix = _swapped(op.reshape(from_prefix, by_row, False), kv_heads)
    own_flat = op.concat([batch, ints([kv_heads, -1]), _size(k, 2)], 0)
    from_own = op.reshape(op.matmul(op.reshape(to_own, own_flat, False), v, False, False), of_row, False)
    out = op.divide(op.add(from_prefix, from_own), total)
    out = _moved(out, (0, 2, 1, 3, 4), kv_heads)
    return op.reshape(out, op.concat([batch, length, ints([heads * dim])], 0), False)


def _additive(allowed: Node) -> Node:
    return op.select(allowed, floats(0.0), floats(-1e30))


def _size(x: Node, axis: int) -> Node:
    """int32 [1]."""
    return op.gather(op.shape_of(x, "i32"), ints([axis]), ints(0))


def _up_to(size: Node) -> Node:
    """int32 [size]: 0 to size - 1."""
    return op.range(ints(0), op.squeeze(size, ints(0)), ints(1), "i32")


def _moved(x: Node, order: Sequence[int], heads: int) -> Node:
    """Axes in this order; with one head among them it is a matter of the shape alone."""
    if heads > 1:
        return op.transpose(x, ints(order))
    shape = op.shape_of(x, "i32")
    return op.reshape(x, op.gather(shape, ints(order), ints(0)), False)


def _swapped(x: Node, heads: int) -> Node:
    """[KV, B, S, group, n] -> [B, KV, S, group, n], and back."""
    return _moved(x, (1, 0, 2, 3, 4), heads)


def heads_first(x: Node, heads: int) -> Node:
    """[B, S, KV, D] -> [B, KV, S, D]."""
    return _moved(x, (0, 2, 1, 3), heads)
