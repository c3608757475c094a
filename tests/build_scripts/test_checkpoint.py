from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_checkpoint import text_shapes, tiny_config, write_checkpoint
from tritonguard.errors import BundleError

from engines.checkpoint import (
    Checkpoint,
    TensorFile,
    TextConfig,
    bfloat16_to_float32,
    float32_to_bfloat16,
    rewrite_tensors,
    write_tensors,
)

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def rounded(value: float) -> int:
    return int(float32_to_bfloat16(np.array([value], np.float32))[0])


def value_of(bits: int) -> float:
    return float(bfloat16_to_float32(np.array([bits], np.uint16))[0])


def magnitude(bits: int) -> Fraction:
    """The exact magnitude of bfloat16 bits without sign; infinity counts as the next power of two."""
    exponent, fraction = bits >> 7, bits & 0x7F
    if exponent == 0:
        return Fraction(fraction, 2**133)
    return Fraction(128 + fraction, 128) * Fraction(2) ** (exponent - 127)


def nearest_even(value: float) -> int:
    """Round to nearest, ties to even, by comparing exact distances to both neighbours."""
    below = int.from_bytes(struct.pack(">f", abs(value))[:2], "big")
    exact = Fraction(abs(value))
    down, up = exact - magnitude(below), magnitude(below + 1) - exact
    bits = below if down < up or (down == up and below % 2 == 0) else below + 1
    return bits | (0x8000 if math.copysign(1, value) < 0 else 0)


@given(FINITE)
def test_rounding_to_bfloat16_takes_the_nearest_value(value: float) -> None:
    assert rounded(value) == nearest_even(value)


@given(st.integers(0, 0x7F7F), st.sampled_from([1.0, -1.0]))
def test_ties_go_to_the_even_neighbour(bits: int, sign: float) -> None:
    tie = float((magnitude(bits) + magnitude(bits + 1)) / 2)
    chosen = rounded(math.copysign(tie, sign))
    assert chosen == nearest_even(math.copysign(tie, sign))
    assert chosen % 2 == 0


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (1.0, 0x3F80),
        (1 + 2**-8, 0x3F80),  # tie, down to even
        (1 + 3 * 2**-8, 0x3F82),  # tie, up to even
        (1 + 2**-8 + 2**-23, 0x3F81),  # just above a tie
        (-(1 + 2**-8), 0xBF80),
        (0.0, 0x0000),
        (-0.0, 0x8000),
        (2**-133, 0x0001),  # the smallest bfloat16
        (2**-134, 0x0000),  # half of it: tie to zero
        (3.4028234663852886e38, 0x7F80),  # the largest float32 rounds to infinity
    ],
)
def test_known_roundings(value: float, bits: int) -> None:
    assert rounded(value) == bits


@given(st.integers(0, 0xFFFF).filter(lambda bits: bits & 0x7F80 != 0x7F80))
def test_a_bfloat16_survives_the_way_through_float32(bits: int) -> None:
    assert rounded(value_of(bits)) == bits


def write_file(path: Path) -> Path:
    layout = {"b": ("F32", (2, 3)), "a": ("BF16", (5,)), "c": ("F16", ())}
    values: list[Any] = [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.arange(5, dtype=np.uint16),
        np.array(1.5, np.float16),
    ]
    write_tensors(path, layout, values)
    return path


def with_header(header: Any, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_written_tensors_are_read_back(tmp_path: Path) -> None:
    file = TensorFile.open(write_file(tmp_path / "x.safetensors"))
    np.testing.assert_array_equal(file.raw("b"), np.arange(6, dtype=np.float32).reshape(2, 3))
    np.testing.assert_array_equal(file.raw("a"), np.arange(5))
    assert file.float32("c") == np.float32(1.5)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: content[:20],
        lambda content: b"",
        lambda content: b"\xff" * 8 + content[8:],
        lambda content: with_header([]),
        lambda content: with_header({"a": 1}),
        lambda content: with_header({"a": {"dtype": "F32", "shape": [1]}}),
    ],
    ids=["cut", "longer", "cut header", "empty", "absurd length", "list", "no spec", "no offsets"],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = write_file(tmp_path / "x.safetensors")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BundleError, match=r"x\.safetensors"):
        TensorFile.open(path)


def test_a_missing_file_or_tensor_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"none\.safetensors"):
        TensorFile.open(tmp_path / "none.safetensors")
    file = TensorFile.open(write_file(tmp_path / "x.safetensors"))
    with pytest.raises(BundleError, match="no tensor d"):
        file.raw("d")


def test_a_dtype_that_is_not_read_here_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(with_header({"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}, b"ab"))
    with pytest.raises(BundleError, match="F8_E4M3"):
        TensorFile.open(path).raw("a")


@pytest.mark.parametrize("value", [np.zeros((2, 2), np.float32), np.zeros((2, 3), np.float64)], ids=["shape", "dtype"])
def test_a_value_that_does_not_fit_its_layout_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(BundleError, match="does not fit"):
        write_tensors(tmp_path / "x.safetensors", {"b": ("F32", (2, 3))}, [value])


def test_rewriting_follows_the_bytes_when_the_header_has_another_order(tmp_path: Path) -> None:
    source = tmp_path / "x.safetensors"
    header = {
        "late": {"dtype": "I8", "shape": [3], "data_offsets": [2, 5]},
        "early": {"dtype": "I8", "shape": [2], "data_offsets": [0, 2]},
    }
    source.write_bytes(with_header(header, b"eelll"))
    file = TensorFile.open(source)
    assert file.stored_order() == ["early", "late"]
    rewrite_tensors(file, tmp_path / "y", (file.stored_bytes(name) for name in file.stored_order()))
    assert (tmp_path / "y").read_bytes() == source.read_bytes()


def test_rewriting_refuses_a_value_of_another_size(tmp_path: Path) -> None:
    file = TensorFile.open(write_file(tmp_path / "x.safetensors"))
    values = [np.zeros(1, np.uint8) for _ in file.header]
    with pytest.raises(BundleError, match="does not fit its place"):
        rewrite_tensors(file, tmp_path / "y", values)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_without_config_or_weights_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path / "base", tiny_config())
    (folder / name).unlink()
    with pytest.raises(BundleError, match=name if name == "config.json" else "safetensors"):
        Checkpoint.open(folder)


def test_text_tensors_are_read_across_shards_and_a_missing_one_is_named(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "base", tiny_config(), shards=3))
    for name, shape in text_shapes(tiny_config()).items():
        assert checkpoint.text(name).shape == shape
    with pytest.raises(BundleError, match=r"no tensor language_model\.model\.layers\.9"):
        checkpoint.text("layers.9.mlp.up_proj.weight")


def test_sizes_layer_kinds_and_rope_are_read_from_the_published_config() -> None:
    config = TextConfig.read(tiny_config(num_hidden_layers=5, sliding_window_pattern=2))
    assert (config.rope_theta, config.rope_local_base_freq, config.rope_factor) == (1e6, 1e4, 8.0)
    assert config.full_attention_layers == {1, 3}
    listed = ["full_attention", "sliding_attention"]
    assert TextConfig.read(tiny_config(layer_types=listed)).full_attention_layers == {0}
    assert TextConfig.read(tiny_config(rope_scaling=None)).rope_factor == 1.0


def test_what_a_published_config_leaves_out_has_the_defaults_of_gemma_3() -> None:
    # google/gemma-3-4b-it's config.json holds no more than this of its text model.
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    config = TextConfig.read({"text_config": text})
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (8, 4, 256)
    assert config.full_attention_layers == {5, 11, 17, 23, 29}
    assert (config.vocab_size, config.rope_theta, config.rope_local_base_freq) == (262208, 1e6, 1e4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rope_parameters": {"full_attention": {}}}, "transformers 5"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 8.0}}, "yarn"),
        ({"rope_scaling": {"factor": 8.0}}, "None"),
    ],
)
def test_a_rope_form_that_would_be_misread_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(BundleError, match=reason):
        TextConfig.read(tiny_config(**changes))


def test_a_config_without_a_text_model_is_refused() -> None:
    with pytest.raises(BundleError, match="no Gemma 3 text model"):
        TextConfig.read({"model_type": "resnet"})
