"""Where a pass is computed in bfloat16, the residual stream is too: float32 between the products costs time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import tiny_config, write_checkpoint

from engines.checkpoint import Checkpoint
from engines.local.context import Context
from engines.local.forward_openvino import build_graph
from engines.local.runtime import COUNTERS, Runtime, native_precisions
from engines.local.tree import Tree, pass_inputs

LAYERS = 3


@pytest.mark.skipif("bf16" not in native_precisions(), reason="this CPU multiplies no bfloat16")
def test_what_layers_add_up_is_bfloat16(tmp_path: Path) -> None:
    opened = Checkpoint.open(write_checkpoint(tmp_path / "checkpoint", tiny_config(num_hidden_layers=LAYERS)))
    ids = np.random.default_rng(0).integers(0, opened.text_config.vocab_size, 20).tolist()
    asked = pass_inputs(Context.empty(opened.text_config), [Tree(tuple(ids))], candidates=[3, 4], image_token=-1)
    runtime = Runtime(build_graph(opened), precision="bf16", other=COUNTERS)
    runtime.run(**asked)
    added = [kernel for kind, kernel, _ in runtime.operations() if kind == "Add"]
    assert sum(kernel.endswith("bf16") for kernel in added) >= 2 * LAYERS - 1
    assert not any(kernel.endswith("f32") for kernel in added)
