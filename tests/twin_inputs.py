"""One pass's inputs for OpenVINO's graph, as its torch twin takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

INTEGERS = ("ids", "positions", "rows", "candidates", "slots")


def torch_inputs(inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, torch.Tensor]:
    """The twin has one prefix for all rows and tells the keys and values of all, so that inputs ask for no less."""
    count = len(inputs["ids"])
    assert not inputs["prefix_of"].any()
    assert inputs["kept"].tolist() == list(range(count))
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in inputs.items()}
    del tensors["prefix_of"], tensors["kept"]
    tensors["prefix_length"] = tensors.pop("prefix_lengths")
    for name in ("prefix_keys", "prefix_values"):
        tensors[name] = tensors[name][:, 0]
    return {name: value.long() if name in INTEGERS else value for name, value in tensors.items()}
