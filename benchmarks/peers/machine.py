"""What the machine gives at most in this run, and how much of it ours reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.peers.operations import attention_operations, layer_shapes, limit_per_s, linear_operations, peak
from engines.checkpoint import TextConfig

ROWS = 1232
"""Of the products that are timed: eight requests of 154 tokens behind their prefix."""
INT8 = "int8"
FLOATS = ("f32", "bf16", "f16")
LEAST_SHARE = 0.75


@dataclass(frozen=True)
class Peaks:
    """peaks: operations a second by way, by arithmetic. refused: what a way could not do, with the reason."""

    peaks: Mapping[str, Mapping[str, float]]
    refused: Mapping[str, str]


def shapes(config: TextConfig) -> list[list[int]]:
    return [[ROWS, inputs, outputs] for inputs, outputs in layer_shapes(config)]


@dataclass(frozen=True)
class Share:
    """linear, attention: whose peaks are taken. limit_per_s: requests a second that they allow. reached: our share."""

    linear: str
    attention: str
    limit_per_s: float
    reached: float


def shares(
    config: TextConfig, peaks: Peaks, asked: Sequence[tuple[int, int]], per_s: float, *, arithmetic: str, int8: bool
) -> list[Share]:
    """The limit of the machine's best arithmetic, and that of the bundle's own. per_s: of ours on `asked`. arithmetic:
    the bundle's floats; int8: its linear layers multiply int8. Attention is float in both: the best one that was
    measured, and the bundle's own."""

    def share(linear: Sequence[str], attention: Sequence[str]) -> Share:
        limit = limit_per_s(
            config,
            asked,
            linear_peak=peak(peaks.peaks, linear),
            attention_peak=peak(peaks.peaks, attention),
        )
        return Share("/".join(linear), "/".join(attention), limit, per_s / limit)

    own = INT8 if int8 else arithmetic
    return [share((INT8, *FLOATS), FLOATS), share((own,), (arithmetic,))]


def operations_of(config: TextConfig, asked: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """(linear, attention) operations of a request, the mean."""
    linear = sum(linear_operations(config, tokens) for _, tokens in asked)
    attention = sum(attention_operations(config, prefix=prefix, tokens=tokens) for prefix, tokens in asked)
    return linear / len(asked), attention / len(asked)
