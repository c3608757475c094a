"""What rounding does to products, with inputs moved into the weights and without."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_checkpoint import write_checkpoint_with_tokenizer

from benchmarks import smoothing as script
from benchmarks.smoothing import in_groups, main, moved


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 50))
@settings(max_examples=50, deadline=None)
def test_values_lie_on_the_grid_of_their_group(seed: int, columns: int, group: int) -> None:
    values = np.random.default_rng(seed).standard_normal((3, columns)).astype(np.float32)
    found = in_groups(values, group)
    for start in range(0, columns, group):
        part, whole = found[:, start : start + group], values[:, start : start + group]
        scale = np.abs(whole).max(1, keepdims=True) / 127
        assert np.abs(part - whole).max() <= 0.51 * scale.max()
        np.testing.assert_allclose(part / scale, np.rint(part / scale), atol=1e-3)


def test_an_outlier_costs_less_in_small_groups_and_nothing_where_it_is_in_the_weights() -> None:
    generator = np.random.default_rng(0)
    inputs, weights = (generator.standard_normal((64, 256)).astype(np.float32) for _ in range(2))
    factors = np.ones(256, np.float32)
    factors[7] = 100
    outlier, smooth = inputs * factors, weights / factors
    exact = outlier @ smooth.T
    whole, groups = (moved(exact, outlier, smooth, group, symmetric=True) for group in (256, 64))
    assert moved(exact, inputs, weights, 256, symmetric=True) < groups < 0.7 * whole


def test_the_command_judges_the_form_on_tokens_that_gave_no_sizes(
    base_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = write_checkpoint_with_tokenizer(tmp_path / "checkpoint", base_folder)
    out = tmp_path / "smoothing.json"
    arguments = ["--checkpoint", str(checkpoint), "--prompts", "4", "--alphas", "0.5", "--out", str(out)]
    assert main([*arguments, "--keep-float", "*.self_attn.*"]) == 0
    found = json.loads(out.read_text())
    assert set(found) == {f"{kind}_proj, {size}" for kind in ("gate", "up", "down") for size in script.SIZES}
    assert all(0 < share < 0.2 for row in found.values() for share in row.values())
    assert "| down_proj, rms |" in capsys.readouterr().out


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    assert main(["--checkpoint", str(tmp_path)]) == 2
