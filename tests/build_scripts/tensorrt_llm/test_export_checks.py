"""A quantized folder is what its profile says, and all else the source's; one thing off and it is refused by name."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_guard import write_guard
from tritonguard.errors import BundleError

from build_scripts.tensorrt_llm.export_checks import check_export
from build_scripts.tensorrt_llm.layout import Layout, data_bytes, published_layout, quantized_layout
from build_scripts.tensorrt_llm.profiles import PROFILES
from build_scripts.tensorrt_llm.source import Source

Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]
Q_PROJ = "language_model.model.layers.1.self_attn.q_proj"
NORM = "language_model.model.norm.weight"
QUANTIZED = ("fp8", "fp8-kv", "int8-weight-only")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return Source.open(write_guard(tmp_path_factory.mktemp("source") / "download", shards=2))


def tensors_of(source: Source, layout: Layout) -> Tensors:
    """What is not quantized as the source has it; scales of 0.01, and weights of any bytes."""
    kept = published_layout(source.checkpoint.config)
    random = np.random.default_rng(0)
    tensors: Tensors = {}
    for name, (dtype, shape) in layout.items():
        if kept.get(name) == (dtype, shape):
            data = source.checkpoint.files[name].stored_bytes(name).tobytes()
        elif dtype == "F32":
            data = np.full(shape, 0.01, np.float32).tobytes()
        else:
            data = random.integers(0, 100, shape, np.uint8).tobytes()
        tensors[name] = (dtype, shape, data)
    return tensors


def write(path: Path, tensors: Tensors) -> None:
    """A safetensors file of any dtypes."""
    header, offset = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data for _, _, data in tensors.values()))


def exported(source: Source, folder: Path, profile: str) -> Path:
    """A folder as `quantize` leaves it to the checks."""
    folder.mkdir()
    config = dict(source.checkpoint.config)
    form = PROFILES[profile]
    write(folder / "model.safetensors", tensors_of(source, quantized_layout(config, form)))
    if form.is_quantized:
        config["quantization_config"] = {"quant_method": "modelopt"}
        algorithms = {"quant_algo": form.quant_algo, "kv_cache_quant_algo": form.kv_cache_quant_algo}
        said = {"quantization": {**algorithms, "exclude_modules": ["lm_head", "model.vision_tower*"]}}
        (folder / "hf_quant_config.json").write_text(json.dumps(said))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("profile", PROFILES)
def test_an_export_that_is_right_passes_and_its_bytes_are_those_predicted(
    source: Source, tmp_path: Path, profile: str
) -> None:
    folder = exported(source, tmp_path / "out", profile)
    total = check_export(folder, source, PROFILES[profile])
    size = (folder / "model.safetensors").stat().st_size
    (header,) = struct.unpack("<Q", (folder / "model.safetensors").read_bytes()[:8])
    assert total == size - 8 - header == data_bytes(quantized_layout(source.checkpoint.config, PROFILES[profile]))


def set_scale(name: str, value: float) -> Callable[[Tensors], object]:
    def change(tensors: Tensors) -> None:
        dtype, shape, data = tensors[name]
        values = np.frombuffer(data, np.float32).copy()
        values[-1] = value
        tensors[name] = (dtype, shape, values.tobytes())

    return change


@pytest.mark.parametrize("profile", QUANTIZED)
@pytest.mark.parametrize("value", [0.0, -0.01, float("nan"), float("inf")])
def test_one_scale_that_is_not_finite_and_above_zero_is_refused(
    source: Source, tmp_path: Path, profile: str, value: float
) -> None:
    folder = exported(source, tmp_path / "out", profile)
    tensors = tensors_of(source, quantized_layout(source.checkpoint.config, PROFILES[profile]))
    set_scale(f"{Q_PROJ}.weight_scale", value)(tensors)
    write(folder / "model.safetensors", tensors)
    with pytest.raises(BundleError, match=r"q_proj\.weight_scale holds a value that is not finite and above zero"):
        check_export(folder, source, PROFILES[profile])


def flip_a_bit(tensors: Tensors) -> None:
    dtype, shape, data = tensors[NORM]
    tensors[NORM] = (dtype, shape, data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (flip_a_bit, f"changed {NORM}"),
        (lambda tensors: tensors.pop(f"{Q_PROJ}.input_scale"), r"lacks 1 tensor.*q_proj\.input_scale"),
        (lambda tensors: tensors.update({f"{Q_PROJ}.pre_quant_scale": ("BF16", (1,), b"xx")}), "pre_quant_scale"),
        (lambda tensors: tensors.update({"lm_head.weight": tensors[NORM]}), r"don't belong there.*lm_head\.weight"),
        (lambda tensors: tensors.update({NORM: ("F32", (64,), bytes(256))}), f"{NORM} is F32"),
        (
            lambda tensors: tensors.update({f"{Q_PROJ}.weight": ("I8", *tensors[f"{Q_PROJ}.weight"][1:])}),
            r"q_proj\.weight is I8 .*F8_E4M3",
        ),
        (
            lambda tensors: tensors.update({f"{Q_PROJ}.weight_scale": ("F32", (1,), bytes(4))}),
            r"q_proj\.weight_scale is F32 \[1\], and F32 \[\]",
        ),
    ],
)
def test_a_tensor_that_is_not_as_predicted_is_refused(
    source: Source, tmp_path: Path, change: Callable[[Tensors], object], reason: str
) -> None:
    folder = exported(source, tmp_path / "out", "fp8-kv")
    tensors = tensors_of(source, quantized_layout(source.checkpoint.config, PROFILES["fp8-kv"]))
    change(tensors)
    write(folder / "model.safetensors", tensors)
    with pytest.raises(BundleError, match=reason):
        check_export(folder, source, PROFILES["fp8-kv"])


def change_json(path: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("config", lambda config: config["text_config"].update(rope_scaling=None), "RoPE fields"),
        ("config", lambda config: config["text_config"].update(rope_parameters={}), "RoPE fields"),
        ("config", lambda config: config.pop("quantization_config"), "disagree about quantization_config"),
        ("hf_quant_config", lambda said: said.pop("quantization"), "no readable hf_quant_config"),
        (
            "hf_quant_config",
            lambda said: said["quantization"].update(quant_algo="W8A8_SQ_PER_CHANNEL"),
            "says W8A8_SQ_PER_CHANNEL with KV FP8, against profile fp8-kv",
        ),
        (
            "hf_quant_config",
            lambda said: said["quantization"].update(kv_cache_quant_algo=None),
            "says FP8 with KV None",
        ),
        ("hf_quant_config", lambda said: said["quantization"].update(exclude_modules=[]), "does not exclude lm_head"),
    ],
)
def test_what_the_folder_says_of_its_numbers_is_checked(
    source: Source, tmp_path: Path, file: str, change: Callable[[Any], object], reason: str
) -> None:
    folder = exported(source, tmp_path / "out", "fp8-kv")
    change_json(folder / f"{file}.json", change)
    with pytest.raises(BundleError, match=reason):
        check_export(folder, source, PROFILES["fp8-kv"])


def test_a_checkpoint_as_published_says_nothing_of_quantization(source: Source, tmp_path: Path) -> None:
    folder = exported(source, tmp_path / "out", "bf16")
    (folder / "hf_quant_config.json").write_text("{}")
    with pytest.raises(BundleError, match=r"has no hf_quant_config\.json"):
        check_export(folder, source, PROFILES["bf16"])
