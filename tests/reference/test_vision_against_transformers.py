"""Tower, projector and text forward with images: both twins against transformers' Gemma3ForConditionalGeneration."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tiny_checkpoint import tiny_config, write_checkpoint
from transformers import Gemma3Config, Gemma3ForConditionalGeneration
from transformers_twin import text_config, text_state
from twin_inputs import torch_inputs

from engines.checkpoint import Checkpoint
from engines.local import vision_torch
from engines.local.context import Context
from engines.local.forward_openvino import build_graph
from engines.local.forward_torch import forward, load_weights
from engines.local.runtime import Runtime, VisionRuntime
from engines.local.tree import Tree, pass_inputs
from engines.local.vision_openvino import build_vision_graph

BOUND = 1e-3
Inputs = dict[str, npt.NDArray[Any]]
Logits = npt.NDArray[np.float32]


class Case:
    """One checkpoint, one prompt with images, and the ids whose logits are compared at every position."""

    def __init__(self, folder: Path, *, words: Sequence[int], candidates: int) -> None:
        """words: how many text tokens stand before, between and behind the images."""
        self.checkpoint = Checkpoint.open(folder)
        self.config = self.checkpoint.text_config
        vision = self.checkpoint.vision_config
        assert vision is not None
        self.vision = vision
        generator = np.random.default_rng(3)
        count, size = len(words) - 1, vision.image_size
        self.pixels = generator.integers(0, 256, (count, size, size, 3)).astype(np.uint8)
        self.image_token = int(self.checkpoint.config["image_token_index"])
        parts = [generator.integers(4, self.config.vocab_size, words[0])]
        for length in words[1:]:
            parts.append(np.full(vision.mm_tokens_per_image, self.image_token))
            parts.append(generator.integers(4, self.config.vocab_size, length))
        self.ids = np.concatenate(parts).astype(np.int32)
        self.candidates = generator.permutation(self.config.vocab_size)[:candidates].astype(np.int32)

    def theirs(self) -> Logits:
        """float32 [n, C]: transformers, one plain pass, attention inside an image both ways."""
        model = whole_twin(self.checkpoint)
        values = (torch.from_numpy(self.pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
        ids = torch.from_numpy(self.ids).long()[None]
        kinds = (ids == self.image_token).long()
        with torch.inference_mode():
            logits = model(input_ids=ids, pixel_values=values, token_type_ids=kinds, use_cache=False).logits[0]
        return np.asarray(logits[:, torch.from_numpy(self.candidates).long()])

    def by_torch(self, change: Callable[[Inputs], None] = lambda inputs: None) -> Logits:
        weights = vision_torch.load_vision_weights(self.checkpoint)
        with torch.inference_mode():
            features = vision_torch.features(weights, self.vision, torch.from_numpy(self.pixels))
            inputs = self._inputs(features.flatten(0, 1).numpy())
            change(inputs)
            logits, _, _ = forward(load_weights(self.checkpoint), self.config, **torch_inputs(inputs))
        return np.asarray(logits[0])

    def by_openvino(self) -> Logits:
        vision = VisionRuntime(build_vision_graph(self.checkpoint), precision="f32")
        features = vision.features(self.pixels)
        text = Runtime(build_graph(self.checkpoint), precision="f32")
        logits, *_ = text.run(**self._inputs(features.reshape(-1, features.shape[-1])))
        return logits[0].copy()

    def _inputs(self, features: npt.NDArray[np.float32]) -> Inputs:
        tree = Tree(tuple(self.ids.tolist()), features=features)
        candidates = self.candidates.tolist()
        empty = Context.empty(self.config)
        inputs = pass_inputs(empty, [tree], candidates=candidates, image_token=self.image_token)
        return inputs | {"rows": np.arange(len(self.ids), dtype=np.int32)[None]}


def whole_twin(checkpoint: Checkpoint) -> Any:
    """Gemma3ForConditionalGeneration with every tensor of the checkpoint, in float32."""
    config = Gemma3Config(
        text_config=text_config(checkpoint),
        vision_config=checkpoint.config["vision_config"],
        mm_tokens_per_image=checkpoint.config["mm_tokens_per_image"],
        image_token_index=checkpoint.config["image_token_index"],
    )
    for part in (config, config.text_config, config.vision_config):
        part._attn_implementation = "eager"
    model: Any = Gemma3ForConditionalGeneration(config)
    model = model.float().eval()
    model.model.language_model.load_state_dict(text_state(checkpoint, torch.float32), strict=True)
    for module, prefix in (
        (model.model.vision_tower, "vision_tower.vision_model."),
        (model.model.multi_modal_projector, "multi_modal_projector."),
    ):
        keys = [key for key in checkpoint.files if key.startswith(prefix)]
        state = {key.removeprefix(prefix): torch.from_numpy(checkpoint.float32(key)) for key in keys}
        module.load_state_dict(state, strict=True)
    model.tie_weights()
    return model


def furthest(first: Logits, second: Logits) -> float:
    assert first.shape == second.shape
    assert np.isfinite(first).all()
    return float(np.abs(first - second).max())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Two images; the prompt is several sliding windows long."""
    config = tiny_config(hidden_size=64, num_hidden_layers=4, vocab_size=300)
    folder = write_checkpoint(tmp_path_factory.mktemp("vision") / "tiny", config, scale=0.3)
    return Case(folder, words=(1, 5, 30), candidates=300)


@pytest.fixture(scope="module")
def theirs(tiny: Case) -> Logits:
    return tiny.theirs()


def test_both_twins_equal_transformers_at_every_position(tiny: Case, theirs: Logits) -> None:
    assert len(theirs) == 1 + 5 + 30 + 2 * 4 > 4 * tiny.config.sliding_window
    assert furthest(tiny.by_torch(), theirs) <= BOUND
    assert furthest(tiny.by_openvino(), theirs) <= BOUND


def _scaled(inputs: Inputs) -> None:
    inputs["features"] = inputs["features"] * 1.05


def _causal(inputs: Inputs) -> None:
    length = inputs["grid"].shape[1]
    inputs["visible"] &= np.tri(length, dtype=np.bool_)


def _swapped(inputs: Inputs) -> None:
    inputs["features"] = inputs["features"][::-1].copy()


@pytest.mark.parametrize("change", [_scaled, _causal, _swapped])
def test_the_comparison_would_see_another_scale_mask_and_order(
    tiny: Case, theirs: Logits, change: Callable[[Inputs], None]
) -> None:
    assert furthest(tiny.by_torch(change), theirs) > 10 * BOUND


def test_the_towers_twins_are_one_model(tiny: Case, base_folder: Path) -> None:
    for case in (tiny, Case(base_folder, words=(1, 1, 1), candidates=1)):
        ours = VisionRuntime(build_vision_graph(case.checkpoint), precision="f32").features(case.pixels)
        weights = vision_torch.load_vision_weights(case.checkpoint)
        with torch.inference_mode():
            theirs = vision_torch.features(weights, case.vision, torch.from_numpy(case.pixels)).numpy()
        assert furthest(ours, theirs) <= 1e-4


def test_the_embedded_checkpoint_with_an_image_equals_transformers(base_folder: Path) -> None:
    case = Case(base_folder, words=(20, 40), candidates=2000)
    assert len(case.ids) == 20 + 64 + 40
    theirs = case.theirs()
    gc.collect()  # one model's weights at a time
    assert furthest(case.by_torch(), theirs) <= BOUND
    gc.collect()
    assert furthest(case.by_openvino(), theirs) <= BOUND
