"""forward_torch against transformers' Gemma 3, both in float32: every logit within 1e-3, or what float32 allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoint import tiny_config, write_checkpoint
from torch import Tensor
from transformers_twin import load_twin

from engines.checkpoint import Checkpoint
from engines.local.forward_torch import forward, load_weights

BOUND = 1e-3
EMBEDDED_BOUND = 5e-3
"""Over hundreds of random ids logits reach 100, and the order of float32 sums is the processor's: within 1e-3 on AVX2,
up to 2.2e-3 on AVX-512."""
WINDOW = 16


@dataclass(frozen=True)
class Pair:
    """One checkpoint in both implementations, and the token ids whose logits are compared."""

    checkpoint: Checkpoint
    weights: dict[str, Tensor]
    twin: Any
    candidates: Tensor

    @classmethod
    def load(cls, folder: Path, candidates: Tensor) -> Pair:
        checkpoint = Checkpoint.open(folder)
        return cls(checkpoint, load_weights(checkpoint), load_twin(checkpoint, torch.float32), candidates)

    def theirs(self, ids: Tensor) -> Tensor:
        """float32 [n, C]: logits of the candidates after each of n tokens, in one plain pass."""
        with torch.inference_mode():
            logits: Tensor = self.twin(ids[None], use_cache=False).logits[0]
        return logits[:, self.candidates]

    def states(self, prefix: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [layers, kv heads, T, head dim] of a prefix, T = 0 included."""
        config = self.checkpoint.text_config
        empty = torch.zeros(config.num_hidden_layers, config.num_key_value_heads, 0, config.head_dim)
        if not len(prefix):
            return empty, empty
        _, keys, values = self._forward([prefix], empty, empty)
        return keys[:, 0], values[:, 0]

    def ours(self, prefix: Tensor, suffixes: Sequence[Tensor]) -> list[Tensor]:
        """float32 [n, C] of each suffix: all in one batch, padded on the right, behind one prefix."""
        logits, _, _ = self._forward(suffixes, *self.states(prefix))
        return [logits[row, : len(suffix)] for row, suffix in enumerate(suffixes)]

    def _forward(self, suffixes: Sequence[Tensor], keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        count, length, prefix_length = len(suffixes), max(map(len, suffixes)), keys.shape[2]
        ids = torch.nn.utils.rnn.pad_sequence(list(suffixes), batch_first=True, padding_value=0)
        rows = torch.arange(length).expand(count, -1)
        visible = torch.ones(length, length, dtype=torch.bool).tril().expand(count, -1, -1)
        with torch.inference_mode():
            return forward(
                self.weights,
                self.checkpoint.text_config,
                ids=ids,
                positions=prefix_length + rows,
                visible=visible,
                prefix_keys=keys,
                prefix_values=values,
                rows=rows,
                candidates=self.candidates,
            )


def furthest(first: Tensor, second: Tensor) -> float:
    assert first.shape == second.shape
    assert bool(torch.isfinite(first).all())
    return float((first - second).abs().max())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Both kinds of layers, grouped queries, a window shorter than the texts, linear RoPE scaling by 8."""
    config = tiny_config(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=6,
        sliding_window_pattern=3,
        sliding_window=WINDOW,
        query_pre_attn_scalar=24,
        vocab_size=300,
    )
    folder = write_checkpoint(tmp_path_factory.mktemp("forward") / "tiny", config, scale=0.3)
    return Pair.load(folder, torch.arange(300))


def random_ids(count: int, vocabulary: int, *, seed: int = 0) -> Tensor:
    return torch.randint(4, vocabulary, (count,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("length", [1, WINDOW - 1, WINDOW, WINDOW + 1, 90])
def test_logits_at_every_position_equal_without_a_prefix(tiny: Pair, length: int) -> None:
    ids = random_ids(length, 300)
    (ours,) = tiny.ours(ids[:0], [ids])
    assert furthest(ours, tiny.theirs(ids)) <= BOUND


@pytest.mark.parametrize("prefix", [1, WINDOW - 1, WINDOW, 60])
def test_a_reused_prefix_changes_nothing(tiny: Pair, prefix: int) -> None:
    ids = random_ids(90, 300)
    (ours,) = tiny.ours(ids[:prefix], [ids[prefix:]])
    assert furthest(ours, tiny.theirs(ids)[prefix:]) <= BOUND


@pytest.mark.parametrize("prefix", [0, 40])
def test_rows_of_a_padded_batch_equal_each_row_alone(tiny: Pair, prefix: int) -> None:
    ids = random_ids(prefix, 300)
    suffixes = [random_ids(length, 300, seed=length) for length in (1, 30, 7, 55)]
    for suffix, ours in zip(suffixes, tiny.ours(ids, suffixes), strict=True):
        assert furthest(ours, tiny.theirs(torch.cat([ids, suffix]))[prefix:]) <= BOUND


def test_the_comparison_would_see_a_wrong_window_and_a_wrong_rope(tiny: Pair) -> None:
    ids = random_ids(90, 300)
    text = tiny.checkpoint.config["text_config"]
    for change in ({"sliding_window": WINDOW + 1}, {"rope_scaling": None}, {"rope_local_base_freq": 2e4}):
        other = Checkpoint(tiny.checkpoint.folder, {"text_config": {**text, **change}}, tiny.checkpoint.files)
        (ours,) = Pair(other, tiny.weights, tiny.twin, tiny.candidates).ours(ids[:0], [ids])
        assert furthest(ours, tiny.theirs(ids)) > 10 * BOUND, change


def test_the_embedded_checkpoint_equals_beyond_its_window_with_and_without_a_prefix(
    base_folder: Path,
) -> None:
    checkpoint = Checkpoint.open(base_folder)
    vocabulary = checkpoint.text_config.vocab_size
    assert checkpoint.text_config.sliding_window < 700
    pair = Pair.load(base_folder, random_ids(2000, vocabulary, seed=1))
    ids = torch.cat([torch.tensor([2]), random_ids(699, vocabulary)])
    theirs = pair.theirs(ids)
    (whole,) = pair.ours(ids[:0], [ids])
    assert furthest(whole, theirs) <= EMBEDDED_BOUND
    (behind,) = pair.ours(ids[:600], [ids[600:]])
    assert furthest(behind, theirs[600:]) <= EMBEDDED_BOUND
