"""SmoothQuant's change of scales (arXiv 2211.10438), folded into the weights: in float the model stays what it is, and
its layers' inputs are easier to round.

Some channels of a layer's input are far larger than others, and whoever shares a scale with them is rounded coarsely.
So channel k is divided by s_k and column k of the layer multiplied by it: s_k = rms(x_k) ** alpha / (largest |w_k|) **
(1 - alpha). That is the paper's formula 4 with the root mean square of a channel in the place of its largest value: a
scale is taken for each token here, and what one token once had says little of the others. Nothing is computed for it,
since the division goes into what makes the channel:

    q_proj, k_proj, v_proj   the norm in front
    o_proj                   the rows of v_proj; heads that read one value head share its factors
    gate_proj, up_proj       the norm in front
    down_proj                the rows of up_proj
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from tritonguard.errors import BundleError

from build_scripts.openvino.layer_inputs import folded
from engines.checkpoint import TEXT_PREFIX, Checkpoint, FloatArray, TextConfig
from engines.local.graph_nodes import Stored, float_rows

_LEAST = 0.01
"""Of the mean channel: a channel that calibration hardly excited counts as this large."""


@dataclass(frozen=True)
class Smoothing:
    """Factors float32 by layer: its columns [in] are multiplied by them, its rows [out] divided. norms: the norms'
    weights as a checkpoint stores them, by its keys."""

    columns: dict[str, FloatArray] = field(default_factory=dict)
    rows: dict[str, FloatArray] = field(default_factory=dict)
    norms: dict[str, FloatArray] = field(default_factory=dict)

    @classmethod
    def of(cls, opened: Checkpoint, sizes: Mapping[str, FloatArray], alpha: float) -> Smoothing:
        """sizes: of `input_sizes`, by layer; layers that belong together are smoothed where all of them are there.
        alpha: 0 (all is left to the inputs) to 1 (all to the weights). Raises BundleError for inputs that are not
        finite."""
        found = cls()
        for layers, source, heads in _groups(opened.text_config):
            if not {*layers, *([] if source.endswith("norm") else [source])} <= sizes.keys():
                continue
            inputs = _over_heads(sizes[layers[0]], heads)
            if not np.isfinite(inputs).all():
                raise BundleError("calibration gave inputs that are not finite")
            columns = [np.abs(float_rows(opened.stored(f"{layer}.weight"))).max(0) for layer in layers]
            weights = _over_heads(np.max(columns, axis=0), heads)
            factors = _at_least(inputs) ** alpha / _at_least(weights) ** (1 - alpha)
            factors /= np.exp(np.log(factors).mean())
            of_heads = np.repeat(factors.reshape(heads[0], 1, -1), heads[1], axis=1).ravel()
            found.columns.update(dict.fromkeys(layers, of_heads))
            if source.endswith("norm"):
                key = f"{source}.weight"
                found.norms[TEXT_PREFIX + key] = (opened.text(key) + 1) / factors - 1
            else:
                found.rows[source] = factors
        return found

    def matrix(self, layer: str, stored: Stored) -> FloatArray:
        """A layer's weights [out, in], changed."""
        values = float_rows(stored)
        if layer in self.columns:
            values = values * self.columns[layer]
        return values / self.rows[layer][:, None] if layer in self.rows else values


def input_sizes(
    graph: ov.Model, layers: Sequence[str], inputs: Iterable[Mapping[str, npt.NDArray[Any]]]
) -> dict[str, FloatArray]:
    """{layer: root mean square of each channel of its input over all tokens, float32 [in]}; see `folded`, and what it
    raises."""

    def added(total: FloatArray | None, seen: FloatArray) -> FloatArray:
        squares: FloatArray = np.square(seen).sum(0)
        return squares if total is None else total + squares

    sums, tokens = folded(graph, layers, inputs, added)
    return {name: np.sqrt(total / tokens) for name, total in sums.items()}


def _groups(config: TextConfig) -> Iterator[tuple[tuple[str, ...], str, tuple[int, int]]]:
    """(layers that read one input, what makes it, (heads that differ in it, heads that share each of them))."""
    value_heads = config.num_key_value_heads
    for number in range(config.num_hidden_layers):
        layer, attention, mlp = (f"layers.{number}{part}" for part in ("", ".self_attn", ".mlp"))
        read = tuple(f"{attention}.{each}_proj" for each in "qkv")
        yield read, f"{layer}.input_layernorm", (1, 1)
        yield (f"{attention}.o_proj",), read[-1], (value_heads, config.num_attention_heads // value_heads)
        gate, up, down = (f"{mlp}.{each}_proj" for each in ("gate", "up", "down"))
        yield (gate, up), f"{layer}.pre_feedforward_layernorm", (1, 1)
        yield (down,), up, (1, 1)


def _over_heads(channels: FloatArray, heads: tuple[int, int]) -> FloatArray:
    """[differing * shared * D] -> the largest over those that share, [differing * D]."""
    largest: FloatArray = channels.reshape(*heads, -1).max(1).ravel()
    return largest


def _at_least(channels: FloatArray) -> FloatArray:
    return np.maximum(channels, max(_LEAST * float(channels.mean()), 1e-12))
