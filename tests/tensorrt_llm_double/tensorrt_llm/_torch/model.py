"""The model of the double: our own Gemma 3 forward on the CPU, a sequence at a time, logits of the whole vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.checkpoint import Checkpoint, FloatArray
from engines.local.context import Context
from engines.local.forward_openvino import build_graph
from engines.local.passes import Passes
from engines.local.runtime import Runtime, VisionRuntime
from engines.local.tree import Tree
from engines.local.vision_openvino import build_vision_graph
from tensorrt_llm._torch.loading import check_layout, check_quantization

_BLOCK = 64


class Gemma3VLM:
    """Not thread-safe. Float32 throughout: what is bfloat16 in the package differs by its rounding."""

    def __init__(self, folder: Path) -> None:
        if check_quantization(folder) is not None:
            raise NotImplementedError("the double multiplies no quantized weights: give it the bf16 checkpoint")
        self._checkpoint = checkpoint = Checkpoint.open(folder)  # the graphs' constants are views of its files
        check_layout(name for file in checkpoint.files.values() for name in file.header)
        self.vocabulary = checkpoint.text_config.vocab_size
        self.image_token = Checkpoint.read_image_token(folder)
        self._passes = Passes(
            Runtime(build_graph(checkpoint), precision="f32"),
            checkpoint.text_config,
            image_token=self.image_token,
            vision=VisionRuntime(build_vision_graph(checkpoint), precision="f32"),
        )

    def forward(
        self, context: Context | None, ids: Sequence[int], pixel_values: Any = None
    ) -> tuple[Context, npt.NDArray[np.float32]]:
        """The longer context, and logits float32 [vocabulary] behind the last id.

        pixel_values: tensor [images, 3, size, size], -1..1. Raises ValueError where the image tokens among `ids` are
        not as many as the features. Without pixel_values image tokens are embedded like text (behaviour:
        both_keys_drop_image): nothing says so.
        """
        features = None if pixel_values is None else self._features(pixel_values)
        pieces = sum(id == self.image_token for id in ids)
        if features is not None and pieces != len(features):
            raise ValueError(f"{pieces} image tokens, but features of {len(features)}")
        known = [id if id < self.vocabulary or features is not None else 0 for id in ids]
        context = self._passes.empty if context is None else context
        tree = Tree(tuple(known), features=features)
        # OpenVINO makes its kernels anew for each length that it meets: a second row fills prompts up to whole blocks.
        trees = [tree, Tree((0,) * (-len(ids) % _BLOCK + len(ids)))] if len(ids) > 1 else [tree]
        result = self._passes.run(context, trees, range(self.vocabulary))[0]
        longer = context.extended(*result.kept, range(tree.length))
        return longer, result.logits[0].copy()

    def _features(self, pixel_values: Any) -> FloatArray:
        """The vision graph takes bytes; what bfloat16 loses of x/255 rounds back to the same byte."""
        values = pixel_values.float().numpy()
        pixels = np.rint((values * 0.5 + 0.5) * 255).clip(0, 255).astype(np.uint8)
        return self._passes.see(np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)))
