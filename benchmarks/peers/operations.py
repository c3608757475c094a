"""How many operations a verdict needs: a multiplication and an addition count as two. The model's own sizes, no clock.

What lies between the layers (norms, rotations, softmax) is left out, and so are the logits: two rows of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engines.checkpoint import TextConfig


def layer_shapes(config: TextConfig) -> tuple[tuple[int, int], ...]:
    """(inputs, outputs) of the products of one layer, those that share their input as one."""
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    return (
        (config.hidden_size, queries + 2 * keys),
        (queries, config.hidden_size),
        (config.hidden_size, 2 * config.intermediate_size),
        (config.intermediate_size, config.hidden_size),
    )


def linear_operations(config: TextConfig, tokens: int) -> int:
    """Of all linear layers over this many tokens."""
    weights = sum(inputs * outputs for inputs, outputs in layer_shapes(config))
    return 2 * tokens * config.num_hidden_layers * weights


def attention_operations(config: TextConfig, *, prefix: int, tokens: int) -> int:
    """Of the products with keys and with values: each of `tokens` behind a prefix of kept ones sees the prefix, those
    before it and itself, and in a sliding layer no more than the window."""
    ends = range(prefix + 1, prefix + tokens + 1)
    everything = sum(ends)
    windowed = sum(min(end, config.sliding_window) for end in ends)
    full = len(config.full_attention_layers)
    seen = full * everything + (config.num_hidden_layers - full) * windowed
    return 4 * config.num_attention_heads * config.head_dim * seen


def limit_per_s(
    config: TextConfig, requests: Sequence[tuple[int, int]], *, linear_peak: float, attention_peak: float
) -> float:
    """Requests a second, if nothing but the products took time. requests: (prefix, tokens behind it) of each. Peaks in
    operations a second."""
    seconds = sum(
        linear_operations(config, tokens) / linear_peak
        + attention_operations(config, prefix=prefix, tokens=tokens) / attention_peak
        for prefix, tokens in requests
    )
    return len(requests) / seconds


def peak(measured: Mapping[str, Mapping[str, float]], arithmetics: Sequence[str]) -> float:
    """The best figure of these arithmetics, over all ways. measured: operations a second by way, by arithmetic. Raises
    ValueError where none was measured."""
    found = [by[name] for by in measured.values() for name in arithmetics if name in by]
    if not found:
        raise ValueError(f"no peak was measured in {' or '.join(arithmetics)}")
    return max(found)
