"""Prompts for the package with exact token ids, with images and without.

Its own processor would tokenise a text: once more where ids come with images, with a second `<bos>`, and with
ValueError where a user's text spells `<start_of_image>`. Here the ids are final before the engine sees them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonguard.errors import InternalError

from engines.checkpoint import FloatArray

_IDS = "guard_ids"
_LEVELS: FloatArray = (np.arange(256, dtype=np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
"""Of each value of a pixel, in [-1, 1], as Gemma 3's image processor leaves it."""


def pixel_levels(pixels: npt.NDArray[np.uint8]) -> FloatArray:
    """uint8 [images, size, size, 3] -> float32 [images, 3, size, size], as the vision tower takes them."""
    return np.ascontiguousarray(_LEVELS[pixels].transpose(0, 3, 1, 2))


def pixel_values(pixels: npt.NDArray[np.uint8]) -> Any:
    """`pixel_levels` as a torch tensor of bfloat16, on the CPU: the package moves it."""
    import torch

    return torch.from_numpy(pixel_levels(pixels)).to(torch.bfloat16)


def inputs_of(ids: Sequence[int], pixels: Any) -> dict[str, Any]:
    """The `inputs` of `LLM.generate_async`. pixels: `pixel_values` of the prompt's images; None: it has none."""
    if pixels is None:
        return {"prompt_token_ids": list(ids)}
    # Never ids beside an image: with both keys it is dropped in silence, with ids alone they are decoded and tokenised
    # anew. The prompt is not read, but must not be empty (1.2.1 llm.py, generate_async).
    return {"prompt": "x", "multi_modal_data": {"image": pixels}, "mm_processor_kwargs": {_IDS: list(ids)}}


class PassthroughProcessor:
    """Takes the place of `LLM.input_processor`: hands on the ids and pixels of `inputs_of`, and tokenises nothing.

    No subclass of DefaultInputProcessor: for that one the package would not ask it about images.
    """

    # Read by the package outside of its try (inputs/registry.py, create_input_processor_with_hash); False: the
    # processor is called as it is.
    multimodal_hashing_supported = False

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        if name == "_inner":  # not set yet: in a copy that is being made
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __call__(self, inputs: Mapping[str, Any], sampling_params: Any) -> tuple[list[int], dict[str, Any]]:
        """(ids, what the model is given beside them). Raises InternalError for a prompt that is not of `inputs_of`."""
        ids = (inputs.get("mm_processor_kwargs") or {}).get(_IDS)
        if ids is None:
            raise InternalError("the engine was given a text to tokenise")
        # Only pixels: the model reads no features (Gemma3VLM.forward), so equal images are seen again.
        return list(ids), {"multimodal_data": {"image": {"pixel_values": inputs["multi_modal_data"]["image"]}}}
