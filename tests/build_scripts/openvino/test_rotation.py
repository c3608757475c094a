"""Rotated inputs and rotated weights give the product that they gave before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import projections, tiny_config, write_checkpoint

from build_scripts.openvino.rotation import hadamard, rotate_inputs, rotated
from engines.checkpoint import Checkpoint
from engines.local.context import Context
from engines.local.forward_openvino import build_graph
from engines.local.graph_nodes import float_rows, floats
from engines.local.runtime import Runtime
from engines.local.tree import Tree, pass_inputs


@pytest.mark.parametrize("size", [1, 2, 16, 32])
def test_the_matrix_is_its_own_inverse(size: int) -> None:
    matrix = hadamard(size)
    np.testing.assert_allclose(matrix @ matrix, np.eye(size), atol=1e-6)
    np.testing.assert_array_equal(matrix, matrix.T)


@pytest.mark.parametrize("width", [32, 48, 640])
def test_a_value_that_stands_out_is_spread_over_its_block_alone(width: int) -> None:
    row = np.zeros((1, width), np.float32)
    row[0, -1] = 8.0
    spread = rotated(row)
    block = np.gcd(width, 32)
    np.testing.assert_allclose(np.abs(spread[0, -block:]), 8.0 / np.sqrt(block), rtol=1e-6)
    assert not spread[0, :-block].any()


def test_a_graph_computes_the_same_with_both_rotated(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "checkpoint", tiny_config()))
    layers = set(projections(tiny_config()))
    plain = build_graph(checkpoint)
    turned = build_graph(checkpoint, lambda name, stored: floats(rotated(float_rows(stored))))
    alone = Runtime(turned, precision="f32").run(**asked(checkpoint))[0].copy()
    rotate_inputs(turned, layers)
    expected = Runtime(plain, precision="f32").run(**asked(checkpoint))
    for got, exact in zip(Runtime(turned, precision="f32").run(**asked(checkpoint)), expected, strict=True):
        np.testing.assert_allclose(got, exact, atol=2e-5)
    assert np.abs(alone - expected[0]).max() > 1e-2  # weights alone are another model


def asked(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    trees = [Tree((5, 6, 7, 8)), Tree((9, 10))]
    past = Context.empty(checkpoint.text_config)
    return pass_inputs(past, trees, candidates=[3, 4], image_token=96, padded=True)
