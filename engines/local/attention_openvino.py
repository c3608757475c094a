"""Attention of the OpenVINO forward: over a prefix that rows share, each row's own past, and the pass itself.

Keys of the three stand behind each other, the prefix once for each row: copying them costs a hundredth of a pass, and
product, mask, softmax and product in a row are what the plugin takes for one operation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from openvino import opset13 as op

from engines.checkpoint import TextConfig
from engines.local.graph_nodes import Node, floats, ints, swap


@dataclass(frozen=True)
class Places:
    """Where the tokens stand and what they see. positions int32 [B, S]; visible boolean [B, S, P + S]; own_positions
    int32 [B, P + S]; prefix_positions int32 [T]; prefix_seen boolean [B, 1, T]."""

    positions: Node
    visible: Node
    own_positions: Node
    prefix_positions: Node
    prefix_seen: Node

    @classmethod
    def of(cls, positions: Node, visible: Node, prefix_keys: Node, prefix_lengths: Node, own_keys: Node) -> Places:
        """prefix_lengths int32 [B]; the others as `build_graph` has them."""
        prefix_positions, own = _up_to(_size(prefix_keys, 3)), _up_to(_size(own_keys, 3))
        own = op.broadcast(op.unsqueeze(own, ints(0)), op.concat([_size(positions, 0), _size(own_keys, 3)], 0))
        seen = op.less(prefix_positions, op.unsqueeze(prefix_lengths, ints([1, 2])))
        return cls(positions, visible, op.concat([own, positions], 1), prefix_positions, seen)

    def at(self, rows: Node) -> Places:
        """Of the tokens rows int32 [B, N] alone; what they see stays."""
        positions, visible = (op.gather(each, rows, ints(1), batch_dims=1) for each in (self.positions, self.visible))
        return replace(self, positions=positions, visible=visible)

    def mask(self, window: int | None) -> Node:
        """Additive [B, 1, S, T + P + S]: over the prefix, one's own past and the pass.

        window: tokens that a sliding layer sees, itself included; None: a full layer.
        """
        over_prefix, over_own = self.prefix_seen, self.visible
        if window is not None:
            positions = op.unsqueeze(self.positions, ints(2))
            to_prefix = op.subtract(positions, self.prefix_positions)
            to_own = op.subtract(positions, op.unsqueeze(self.own_positions, ints(1)))
            over_prefix = op.logical_and(over_prefix, op.less(to_prefix, ints(window)))
            over_own = op.logical_and(over_own, op.less(to_own, ints(window)))
        shape = op.concat([op.shape_of(self.positions, "i32"), _size(self.prefix_positions, 0)], 0)
        seen = op.concat([op.broadcast(over_prefix, shape), over_own], 2)
        return op.unsqueeze(op.select(seen, floats(0.0), floats(-1e30)), ints(1))


def attend(config: TextConfig, q: Node, k: Node, v: Node, mask: Node) -> Node:
    """q [B, S, H, D], scaled; k, v [B, KV, L, D]; mask [B, 1, S, L] -> [B, S, H * D]."""
    heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    group, length = heads // kv_heads, _size(q, 1)
    q = swap(q, 1, 2)
    if kv_heads > 1:
        # Heads of one group beside each other, groups as rows: a product takes each key once for all of them.
        q = op.reshape(q, op.concat([ints([-1, group]), length, ints([dim])], 0), False)
        k, v = (op.reshape(each, op.concat([ints([-1, 1]), _size(each, 2), ints([dim])], 0), False) for each in (k, v))
        mask = op.broadcast(mask, op.concat([_size(mask, 0), ints([kv_heads]), length, _size(mask, 3)], 0))
        mask = op.reshape(mask, op.concat([ints([-1, 1]), length, _size(k, 2)], 0), False)
    seen = op.softmax(op.add(op.matmul(q, k, False, True), mask), -1)
    out = op.matmul(seen, v, False, False)
    if kv_heads > 1:
        out = op.reshape(out, op.concat([ints([-1, heads]), length, ints([dim])], 0), False)
    return op.reshape(swap(out, 1, 2), ints([0, 0, heads * dim]), True)


def heads_first(x: Node, heads: int) -> Node:
    """[B, S, KV, D] -> [B, KV, S, D]; with one head it is a matter of the shape alone."""
    if heads > 1:
        return swap(x, 1, 2)
    return op.reshape(x, op.gather(op.shape_of(x, "i32"), ints([0, 2, 1, 3]), ints(0)), False)


def _size(x: Node, axis: int) -> Node:
    """int32 [1]."""
    return op.gather(op.shape_of(x, "i32"), ints([axis]), ints(0))


def _up_to(size: Node) -> Node:
    """int32 [size]: 0 to size - 1."""
    return op.range(ints(0), op.squeeze(size, ints(0)), ints(1), "i32")
