"""Which of ModelOpt's quantizers may be on: exactly the profile's. (The exports themselves: tests/modelopt.)"""

from __future__ import annotations

import pytest
from small_guard import guard_config
from tritonguard.errors import BundleError

from build_scripts.tensorrt_llm.modelopt_export import check_quantizers
from build_scripts.tensorrt_llm.profiles import PROFILES
from engines.checkpoint import TextConfig

TEXT = TextConfig.read(guard_config())
MODULE = "model.language_model.layers"
LINEAR = [f"self_attn.{part}_proj" for part in "qkvo"] + [f"mlp.{part}_proj" for part in ("gate", "up", "down")]
WEIGHTS = {f"{MODULE}.{layer}.{name}.weight_quantizer" for layer in range(4) for name in LINEAR}
INPUTS = {name.replace("weight_quantizer", "input_quantizer") for name in WEIGHTS}
CACHES = {f"{MODULE}.{layer}.self_attn.{part}_bmm_quantizer" for layer in range(4) for part in "kv"}
ENABLED = {"fp8": WEIGHTS | INPUTS, "fp8-kv": WEIGHTS | INPUTS | CACHES, "int8-weight-only": WEIGHTS}


@pytest.mark.parametrize("profile", ENABLED)
def test_a_profiles_own_quantizers_pass(profile: str) -> None:
    check_quantizers(ENABLED[profile], TEXT, PROFILES[profile])


@pytest.mark.parametrize("profile", ENABLED)
@pytest.mark.parametrize(
    "name",
    [
        "lm_head.weight_quantizer",
        "model.vision_tower.vision_model.encoder.layers.0.self_attn.k_bmm_quantizer",
        "model.multi_modal_projector.input_quantizer",
        f"{MODULE}.0.self_attn.q_bmm_quantizer",
        f"{MODULE}.4.mlp.up_proj.weight_quantizer",
    ],
)
def test_one_that_should_be_off_is_named(profile: str, name: str) -> None:
    with pytest.raises(BundleError, match=f"{name} is on, against profile {profile}"):
        check_quantizers({*ENABLED[profile], name}, TEXT, PROFILES[profile])


@pytest.mark.parametrize("profile", ENABLED)
def test_one_that_is_off_is_named(profile: str) -> None:
    name = min(ENABLED[profile])
    with pytest.raises(BundleError, match=f"{name} is off"):
        check_quantizers(ENABLED[profile] - {name}, TEXT, PROFILES[profile])
