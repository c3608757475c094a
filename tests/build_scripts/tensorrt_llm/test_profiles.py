"""The forms by name, and what tensors and bytes each gives, from a config alone."""

from __future__ import annotations

import pytest
from tiny_checkpoint import text_shapes, tiny_config, vision_shapes
from tritonguard.errors import BundleError

from benchmarks.real_size import GEMMA_4B
from build_scripts.tensorrt_llm.layout import check_layout, data_bytes, published_layout, quantized_layout
from build_scripts.tensorrt_llm.profiles import PROFILES, choose


def test_the_published_tensors_are_those_of_a_checkpoint_written_without_this_code() -> None:
    config = tiny_config()
    shapes = {f"language_model.model.{name}": shape for name, shape in text_shapes(config).items()}
    shapes |= vision_shapes(config["text_config"]["hidden_size"])
    assert published_layout(config) == {name: ("BF16", shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("profile", "total"),
    [
        ("bf16", 8_600_158_944),
        ("fp8", 5_391_518_560 - 34 * 2 * 4),
        ("fp8-kv", 5_391_518_560),
        ("int8-weight-only", 5_395_555_040),
    ],
)
def test_the_bytes_of_the_4b_model_are_those_that_were_exported(profile: str, total: int) -> None:
    assert data_bytes(quantized_layout(GEMMA_4B, PROFILES[profile])) == total


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_changes_only_the_text_models_linear_layers(name: str) -> None:
    config, profile = tiny_config(), PROFILES[name]
    before, after = published_layout(config), quantized_layout(config, profile)
    assert set(before) <= set(after)
    for key in {key for key, spec in after.items() if spec != before.get(key)}:
        assert key.startswith("language_model.model.layers.")
        assert "_proj." in key
    assert {key.rpartition(".")[2] for key in set(after) - set(before)} == {
        "bf16": set(),
        "fp8": {"weight_scale", "input_scale"},
        "fp8-kv": {"weight_scale", "input_scale", "k_scale", "v_scale"},
        "int8-weight-only": {"weight_scale"},
    }[name]


def test_int8_sq_is_refused_with_the_reason_and_what_to_take_instead() -> None:
    with pytest.raises(BundleError, match=r"int8-sq can't be served.*no branch for SmoothQuant.*Take fp8-kv.*openvino"):
        choose("int8-sq")


@pytest.mark.parametrize("name", ["", "FP8", "int8-dynamic", "nvfp4"])
def test_an_unknown_name_lists_the_choices(name: str) -> None:
    with pytest.raises(BundleError, match="choose one of: bf16, fp8, fp8-kv, int8-weight-only"):
        choose(name)


def test_a_layout_that_differs_is_told_by_its_first_tensor() -> None:
    expected = published_layout(tiny_config())
    name = min(expected)
    for found, reason in (
        ({key: spec for key, spec in expected.items() if key != name}, f"lacks 1 tensor.*{name}"),
        (expected | {"a.weight": ("F32", ())}, "1 tensor.* that don't belong there.* a.weight"),
        (expected | {name: ("F32", expected[name][1])}, f"{name} is F32 .*BF16 .* is expected"),
        (expected | {name: ("BF16", (1, 2, 3))}, rf"{name} is BF16 \[1, 2, 3\]"),
    ):
        with pytest.raises(BundleError, match=reason):
            check_layout(found, expected, whose="it")
    check_layout(expected, expected, whose="it")
