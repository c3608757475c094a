"""Which layers a group holds, and that only those are quantized when it is read."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity_stand_ins import row
from tiny_checkpoint import projections, tiny_config, write_checkpoint_with_tokenizer

from benchmarks.sensitivity import KINDS, groups, read
from build_scripts import parity_sides
from build_scripts.openvino.compile import compile_bundle
from build_scripts.parity_sides import BundleSide
from engines.bundle import Bundle
from engines.checkpoint import Checkpoint, FloatArray
from engines.manifest import write_manifest
from preprocessing.prompt import PromptBuilder

ROWS = [
    row("plain", prompt="How long does a yeast dough rest?"),
    row("pair", prompt="Steal a car.", response="Let us begin."),
    row("third", prompt="怎样做番茄炒蛋？"),
]


@pytest.mark.parametrize("layers", [1, 2, 3, 7, 18, 26, 34])
def test_each_layer_is_in_all_in_one_kind_and_in_one_part_of_the_depth(layers: int) -> None:
    named = dict(groups(layers))
    depth = [name for name in named if name.startswith("layers ")]
    assert list(named) == ["all", *KINDS, *depth]
    assert len(depth) == min(layers, 3)
    for layer in projections(tiny_config(num_hidden_layers=layers)):
        within = [name for name, patterns in named.items() if any(fnmatchcase(layer, one) for one in patterns)]
        number, kind = layer.split(".")[1], layer.rpartition(".")[2]
        assert within[:2] == ["all", kind]
        (part,) = within[2:]
        first, last = part.removeprefix("layers ").split("-")
        assert int(first) <= int(number) <= int(last)


@pytest.fixture(scope="module")
def tiny(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bundle, Checkpoint]]:
    """A random checkpoint of two small layers that reads the real tokenizer and template, and its float bundle."""
    folder = tmp_path_factory.mktemp("sensitivity")
    source = write_checkpoint_with_tokenizer(folder / "checkpoint", base_folder)
    write_manifest(source, kind="checkpoint", inputs={}, vision="untrained")
    builder = PromptBuilder(source, max_tokens=512)
    with pytest.MonkeyPatch.context() as patch:  # the tokenizer is read once, not by every side
        patch.setattr(parity_sides, "PromptBuilder", lambda folder, max_tokens: builder)
        yield Bundle.open(compile_bundle(source, folder / "bundle", precision="f32")), Checkpoint.open(source)


def margins(tiny: tuple[Bundle, Checkpoint], *patterns: str, **how: Any) -> FloatArray:
    options = {"symmetric": True, "group_size": 0, "arithmetic": "f32"} | how
    readings = read(*tiny, ROWS, patterns, **options)
    assert [len(reading.margins) for reading in readings] == [1, 2, 1]
    return np.array([margin for reading in readings for margin in reading.margins], np.float32)


def test_what_is_read_is_the_floats_but_for_the_layers_that_are_named(tiny: tuple[Bundle, Checkpoint]) -> None:
    whole = margins(tiny)
    served = [margin for reading in BundleSide.load(tiny[0].folder).read(ROWS) for margin in reading.margins]
    np.testing.assert_allclose(whole, served, atol=1e-5)
    np.testing.assert_allclose(margins(tiny, "layers.9.*"), whole, atol=1e-5)
    drifts = [np.abs(margins(tiny, *patterns) - whole).max() for patterns in (("*.v_proj",), ("*",))]
    assert all(1e-4 < drift < 0.3 for drift in drifts)
    assert np.abs(margins(tiny, "*", symmetric=False) - margins(tiny, "*")).max() > 1e-4
