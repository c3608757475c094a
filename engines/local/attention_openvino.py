"""Attention of the OpenVINO forward: rows of tokens, each behind what it goes on behind.

Tokens of a pass stand in a line; here alone they have rows. Keys of all pasts and of the pass stand in a pool, out of
which each row takes its own. Product, mask, softmax and product in a row are what the plugin takes for one operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from openvino import opset13 as op

from engines.checkpoint import TextConfig
from engines.local.graph_nodes import Node, floats, ints, swap


@dataclass(frozen=True)
class Pasts:
    """What rows go on behind. positions int32 [T]; lengths int32 [G], how many tokens of each count."""

    positions: Node
    lengths: Node

    @classmethod
    def of(cls, keys: Node, lengths: Node) -> Pasts:
        """keys [layers, G, KV, T, D]; lengths int32 [G]."""
        return cls(_range(_size(keys, 3)), lengths)

    def places(self, rows: Node) -> Node:
        """Of the tokens of the pasts that int32 [B] names, in a `pool`: int32 [B, T]."""
        return _places(rows, self.positions, _size(self.positions, 0))

    @property
    def end(self) -> Node:
        """The first place behind all of them in a `pool`: int32 [1]."""
        return op.multiply(_size(self.lengths, 0), _size(self.positions, 0))


@dataclass(frozen=True)
class Rows:
    """Rows that attend together. asking int32 [B, Q] and seen int32 [B, S]: tokens of the pass that ask, and those that
    may be seen; visible boolean [B, Q, S], which of them by which; past int32 [B], which one is a row's own."""

    asking: Node
    seen: Node
    visible: Node
    past: Node

    def only(self, rows: Node, columns: Node | None = None) -> Rows:
        """These rows, int32, alone: whole, or their first columns int32 [1]."""
        asking, seen, visible, past = (
            op.gather(each, rows, ints(0)) for each in (self.asking, self.seen, self.visible, self.past)
        )
        if columns is not None:
            asking, seen, visible = (_first(each, columns, 1) for each in (asking, seen, visible))
            visible = _first(visible, columns, 2)
        return Rows(asking, seen, visible, past)

    def at(self, columns: Node) -> Rows:
        """The tokens in columns int32 [B, N] alone ask; what they see stays."""
        # Not with batch_dims: OpenVINO's kernel for that reads up to 64 bytes past the indices' end.
        places = _places(_range(_size(self.asking, 0)), columns, _size(self.asking, 1))
        asking = op.gather(op.reshape(self.asking, ints([-1]), False), places, ints(0))
        visible = op.reshape(self.visible, op.concat([ints([-1]), _size(self.visible, 2)], 0), False)
        return Rows(asking, self.seen, op.gather(visible, places, ints(0)), self.past)

    def mask(self, positions: Node, pasts: Pasts, window: int | None) -> Node:
        """Additive [B, 1, Q, T + S]: over a row's past and over the pass. positions int32 [M].

        window: tokens that a sliding layer sees, itself included; None: a full layer.
        """
        lengths = op.unsqueeze(op.gather(pasts.lengths, self.past, ints(0)), ints([1, 2]))
        over_past, over_pass = op.less(pasts.positions, lengths), self.visible
        if window is not None:
            asking = op.unsqueeze(op.gather(positions, self.asking, ints(0)), ints(2))
            seen = op.unsqueeze(op.gather(positions, self.seen, ints(0)), ints(1))
            near = op.less(op.subtract(asking, pasts.positions), ints(window))
            over_past = op.logical_and(over_past, near)
            over_pass = op.logical_and(over_pass, op.less(op.subtract(asking, seen), ints(window)))
        shape = op.concat([op.shape_of(self.asking, "i32"), _size(pasts.positions, 0)], 0)
        visible = op.concat([op.broadcast(over_past, shape), over_pass], 2)
        return op.unsqueeze(op.select(visible, floats(0.0), floats(-1e30)), ints(1))

    def keys(self, pasts: Pasts) -> Node:
        """Places in a `pool` of what a row may see: int32 [B, T + S]."""
        return op.concat([pasts.places(self.past), op.add(self.seen, pasts.end)], 1)


def line(states: Node) -> Node:
    """Keys or values of the pass [1, M, KV, D] -> [KV, M, D]."""
    return op.squeeze(states, ints(2)) if _sized(states, 2) == 1 else op.squeeze(swap(states, 1, 2), ints(0))


def pool(past: Node, states: Node) -> Node:
    """Keys or values of all pasts [G, KV, T, D], and behind them the pass's [KV, M, D] -> [KV, G * T + M, D]."""
    heads, dim = _sized(past, 1), _sized(past, 3)
    past = op.reshape(past if heads == 1 else swap(past, 0, 1), ints([heads, -1, dim]), False)
    return op.concat([past, states], 1)


def in_rows(pooled: Node, places: Node) -> Node:
    """What stands at places int32 [B, L] of [KV, N, D] -> [B, KV, L, D]."""
    if _sized(pooled, 0) == 1:
        # With one head it is a matter of the shape alone.
        return op.gather(op.squeeze(pooled, ints(0)), op.unsqueeze(places, ints(1)), ints(0))
    return op.transpose(op.gather(pooled, places, ints(1)), ints([1, 0, 2, 3]))


def to_rows(x: Node, grid: Node) -> Node:
    """The tokens grid int32 [B, Q] of [1, M, ...] -> [B, Q, ...]."""
    return op.gather(op.squeeze(x, ints(0)), grid, ints(0))


def in_line(parts: Sequence[Node], cells: Node) -> Node:
    """What rows attended [B, Q, W], at the places cells int32 [M], counted through all parts -> [1, M, W]."""
    width = _sized(parts[0], 2)
    places = op.concat([op.reshape(part, ints([-1, width]), False) for part in parts], 0)
    return op.unsqueeze(op.gather(places, cells, ints(0)), ints(0))


def attend(config: TextConfig, q: Node, k: Node, v: Node, mask: Node) -> Node:
    """q [B, Q, H, D], scaled; k, v [B, KV, L, D]; mask [B, 1, Q, L] -> [B, Q, H * D]."""
    heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    group, length = heads // kv_heads, _size(q, 1)
    q = swap(q, 1, 2)
    if kv_heads > 1:
        # Heads of one group beside each other, groups as rows: a product takes each key once for all of them.
        # Sizes are said, since rows may be none: then nothing could be told from the others.
        rows = _size(q, 0)
        groups = op.multiply(rows, ints(kv_heads))
        q = op.reshape(q, op.concat([groups, ints([group]), length, ints([dim])], 0), False)
        k, v = (
            op.reshape(each, op.concat([groups, ints([1]), _size(each, 2), ints([dim])], 0), False) for each in (k, v)
        )
        mask = op.broadcast(mask, op.concat([_size(mask, 0), ints([kv_heads]), length, _size(mask, 3)], 0))
        mask = op.reshape(mask, op.concat([groups, ints([1]), length, _size(k, 2)], 0), False)
    seen = op.softmax(op.add(op.matmul(q, k, False, True), mask), -1)
    out = op.matmul(seen, v, False, False)
    if kv_heads > 1:
        out = op.reshape(out, op.concat([rows, ints([heads]), length, ints([dim])], 0), False)
    return op.reshape(swap(out, 1, 2), ints([0, 0, heads * dim]), True)


def _range(count: Node) -> Node:
    """count int32 [1] -> 0 to count - 1, int32."""
    return op.range(ints(0), op.squeeze(count, ints(0)), ints(1), "i32")


def _places(rows: Node, columns: Node, width: Node) -> Node:
    """Where columns int32 [N] or [B, N] of rows int32 [B] stand when rows of that width are one behind the other:
    int32 [B, N]."""
    return op.add(op.multiply(op.unsqueeze(rows, ints(1)), width), columns)


def _first(x: Node, count: Node, axis: int) -> Node:
    """count: int32 [1]."""
    return op.slice(x, ints([0]), count, ints([1]), ints([axis]))


def _size(x: Node, axis: int) -> Node:
    """int32 [1]."""
    return op.gather(op.shape_of(x, "i32"), ints([axis]), ints(0))


def _sized(x: Node, axis: int) -> int:
    """One that the graph knows."""
    return int(x.get_output_partial_shape(0)[axis].get_length())
