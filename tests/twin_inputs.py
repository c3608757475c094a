"""One pass's inputs for OpenVINO's graph, as its torch twin takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

INTEGERS = ("ids", "positions", "rows", "candidates", "slots")


def torch_inputs(inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, torch.Tensor]:
    """The twin has rows where the graph has a line of tokens, gets each row's past as the row's own, and tells the keys
    and values of all tokens, so that inputs ask for no less."""
    grid, past_of, lengths = (inputs[name] for name in ("grid", "past_of", "past_lengths"))
    assert inputs["kept"].tolist() == list(range(len(inputs["ids"])))
    known = np.arange(inputs["past_keys"].shape[3]) < lengths[past_of][:, None]
    known = np.broadcast_to(known[:, None], (*grid.shape, known.shape[1]))
    nothing = inputs["past_keys"][:, 0, :, :0]
    found = {name: inputs[name] for name in ("rows", "candidates")}
    found |= {name: inputs[name][grid] for name in ("ids", "positions", "slots") if name in inputs}
    found |= {name: inputs[name] for name in ("features",) if name in inputs}
    found |= {
        "visible": np.concatenate([known, inputs["visible"]], axis=2),
        "prefix_keys": nothing,
        "prefix_values": nothing,
        "own_keys": inputs["past_keys"][:, past_of],
        "own_values": inputs["past_values"][:, past_of],
    }
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in found.items()}
    return {name: value.long() if name in INTEGERS else value for name, value in tensors.items()}
