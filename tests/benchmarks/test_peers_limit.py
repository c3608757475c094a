"""Engine against engine: the count of operations, and the limit that the machine's peaks set."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.peers import operations
from benchmarks.peers.machine import Peaks, operations_of, shares
from engines.checkpoint import TextConfig

EMBEDDED = TextConfig.read(
    {
        "hidden_size": 640,
        "intermediate_size": 2048,
        "num_hidden_layers": 18,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "sliding_window": 512,
    }
)


def test_linear_operations_are_two_for_each_weight_and_token() -> None:
    # 100 million weights in the layers, as the checkpoint has them.
    weights = 18 * (640 * 1536 + 1024 * 640 + 640 * 4096 + 2048 * 640)
    assert operations.linear_operations(EMBEDDED, 154) == 2 * 154 * weights
    assert 30e9 < operations.linear_operations(EMBEDDED, 154) < 31.5e9


def test_attention_operations_count_what_the_mask_lets_through() -> None:
    prefix, tokens = 500, 40
    everything = np.tri(prefix + tokens, dtype=bool)[prefix:]
    distance = np.arange(prefix, prefix + tokens)[:, None] - np.arange(prefix + tokens)[None]
    seen = 3 * everything.sum() + 15 * (everything & (distance < 512)).sum()
    products = 2 * 2 * 4 * 256  # keys and values, multiply and add, heads, their size
    assert operations.attention_operations(EMBEDDED, prefix=prefix, tokens=tokens) == products * seen


def test_the_limit_is_the_sum_of_both_parts_at_their_peaks() -> None:
    asked = [(338, 154), (338, 154)]
    linear, attention = operations_of(EMBEDDED, asked)
    limit = operations.limit_per_s(EMBEDDED, asked, linear_peak=linear, attention_peak=attention / 3)
    assert limit == pytest.approx(1 / 4)


def test_the_share_is_of_the_best_arithmetic_and_of_the_bundles_own() -> None:
    peaks = Peaks({"a": {"f32": 2e11, "int8": 6e11}, "b": {"int8": 8e11, "bf16": 4e11}}, {})
    best, own = shares(EMBEDDED, peaks, [(338, 154)], 3.0, arithmetic="f32", int8=False)
    assert best.limit_per_s == pytest.approx(
        operations.limit_per_s(EMBEDDED, [(338, 154)], linear_peak=8e11, attention_peak=4e11)
    )
    assert own.limit_per_s == pytest.approx(
        operations.limit_per_s(EMBEDDED, [(338, 154)], linear_peak=2e11, attention_peak=2e11)
    )
    assert own.reached == pytest.approx(3.0 / own.limit_per_s)
    with pytest.raises(ValueError, match="no peak"):
        operations.peak({"a": {"f32": 1.0}}, ("int8",))
