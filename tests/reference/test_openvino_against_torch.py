"""The two forwards are one model: OpenVINO's graph against the torch forward, float32, every logit within 1e-3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tiny_checkpoint import tiny_config, write_checkpoint
from twin_inputs import torch_inputs

from engines.checkpoint import Checkpoint
from engines.local.context import Context
from engines.local.forward_openvino import build_graph
from engines.local.forward_torch import forward, load_weights
from engines.local.runtime import Runtime
from engines.local.shared import Shelf
from engines.local.stack import Stack
from engines.local.tree import Tree, pass_inputs

BOUND = 1e-3
EMBEDDED_BOUND = 5e-3
"""Over hundreds of random ids logits reach 100, and the order of float32 sums is the processor's: within 1e-3 on AVX2,
up to 2.2e-3 on AVX-512."""


class Both:
    def __init__(self, folder: Path) -> None:
        self.checkpoint = Checkpoint.open(folder)
        self.config = self.checkpoint.text_config
        self._weights = load_weights(self.checkpoint)
        self._runtime = Runtime(build_graph(self.checkpoint), precision="f32")

    def __call__(self, inputs: dict[str, npt.NDArray[Any]]) -> float:
        """Largest difference over logits, keys and values."""
        theirs = [value.copy() for value in self._runtime.run(**inputs)[:3]]
        with torch.inference_mode():
            ours = forward(self._weights, self.config, **torch_inputs(inputs))
        # The twin's rows in one line: [layers, kv heads, M, head dim].
        row, place = np.divmod(self._cells(inputs), inputs["grid"].shape[1])
        in_line = [ours[0].numpy(), *(np.moveaxis(states.numpy()[:, row, :, place], 0, 2) for states in ours[1:])]
        return max(float(np.abs(a - b).max()) for a, b in zip(in_line, theirs, strict=True))

    @staticmethod
    def _cells(inputs: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
        """Where each token is in the grid, row by row: its first place, since the first token is at empty ones too."""
        found = np.zeros(len(inputs["ids"]), np.int64)
        found[inputs["grid"].ravel()[::-1]] = np.arange(inputs["grid"].size)[::-1]
        return found

    def inputs(
        self, *, prefix: int, count: int, length: int, own: int = 0, less: int = 0
    ) -> dict[str, npt.NDArray[Any]]:
        """own: tokens of the longest row's own past; then there is no prefix. less: by so many tokens, each row is
        shorter than the one before."""
        generator = np.random.default_rng(5)
        ids = generator.integers(0, self.config.vocab_size, (count, length))
        candidates = generator.integers(0, self.config.vocab_size, 500).tolist()
        lengths = [length - less * row for row in range(count)]
        trees = [Tree(tuple(row[:size].tolist())) for row, size in zip(ids, lengths, strict=True)]
        contexts = [self.context(generator, own - row) for row in range(count)]
        past = Stack.of(contexts, more=length) if own else self.context(generator, prefix)
        inputs = pass_inputs(past, trees, candidates=candidates, image_token=-1)
        return inputs | {"rows": np.asarray([[0, size // 2, size - 1] for size in lengths], np.int32)}

    def context(self, generator: np.random.Generator, length: int) -> Context:
        config = self.config
        shape = (config.num_hidden_layers, config.num_key_value_heads, max(1, length), config.head_dim)
        keys, values = (generator.standard_normal(shape).astype(np.float32) for _ in range(2))
        return Context(length, keys, values)


@pytest.fixture(scope="module", params=[1, 2])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """Of one key/value head, as the embedded checkpoint, and of two: the graphs differ."""
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    write_checkpoint(folder, tiny_config(num_hidden_layers=4, num_key_value_heads=request.param))
    return Both(folder)


@pytest.mark.parametrize(("prefix", "count", "length"), [(0, 1, 5), (0, 3, 40), (17, 1, 1), (17, 3, 40)])
def test_the_forwards_agree_on_a_small_model(tiny: Both, prefix: int, count: int, length: int) -> None:
    assert tiny(tiny.inputs(prefix=prefix, count=count, length=length)) <= BOUND


@pytest.mark.parametrize("less", [3, 12])
def test_the_forwards_agree_on_rows_of_different_lengths(tiny: Both, less: int) -> None:
    inputs = tiny.inputs(prefix=17, count=4, length=40, less=less)
    assert len(inputs["shorter"]) > 0
    assert tiny(inputs) <= BOUND


def test_the_forwards_agree_on_rows_behind_different_prefixes(tiny: Both) -> None:
    generator = np.random.default_rng(6)
    few, many, some = (tiny.context(generator, length) for length in (3, 17, 9))
    rows = Shelf().take([many, few, many, some])
    trees = [Tree(tuple(generator.integers(0, 96, size).tolist())) for size in (5, 24, 9, 6)]
    inputs = pass_inputs(rows, trees, candidates=range(96), image_token=-1)
    assert tiny(inputs) <= BOUND


@pytest.mark.parametrize(("own", "count", "length"), [(9, 1, 1), (30, 3, 1), (30, 3, 6)])
def test_the_forwards_agree_where_each_row_has_a_past_of_its_own(tiny: Both, own: int, count: int, length: int) -> None:
    assert tiny(tiny.inputs(prefix=0, count=count, length=length, own=own)) <= BOUND


def test_the_forwards_agree_on_the_embedded_checkpoint_beyond_its_window(base_folder: Path) -> None:
    both = Both(base_folder)
    assert both.config.sliding_window == 512
    assert both(both.inputs(prefix=0, count=1, length=600)) <= EMBEDDED_BOUND
