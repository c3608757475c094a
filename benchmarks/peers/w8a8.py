"""In the peers' environment: NNCF's `quantize` of OpenVINO's own export, int8 weights and int8 inputs of layers.

    python -m benchmarks.peers.w8a8 --model build/peers/openvino-fp32 --prompts ids.json --out folder

Attention's own products are left as they are: GenAI looks for the whole operation when it puts its paged attention in.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

GRAPH = "openvino_model"
ALPHA = 0.5


def inputs_of(ids: list[int]) -> dict[str, Any]:
    """Of one whole prompt, int64 [1, n], from an empty state."""
    tokens = np.array([ids], np.int64)
    return {
        "input_ids": tokens,
        "attention_mask": np.ones_like(tokens),
        "position_ids": np.arange(len(ids), dtype=np.int64)[None],
        "beam_idx": np.zeros(1, np.int32),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.w8a8", description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, required=True, help="JSON: a list of lists of token ids")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    ov, nncf = (importlib.import_module(name) for name in ("openvino", "nncf"))
    advanced = importlib.import_module("nncf.quantization.advanced_parameters")
    model = ov.Core().read_model(args.model / f"{GRAPH}.xml")
    names = {name for port in model.inputs for name in port.get_names()}
    rows = json.loads(args.prompts.read_text())

    def row(ids: list[int]) -> dict[str, Any]:
        return {name: value for name, value in inputs_of(ids).items() if name in names}

    smooth = advanced.AdvancedSmoothQuantParameters(matmul=ALPHA)
    quantized = nncf.quantize(
        model,
        nncf.Dataset(rows, row),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(rows),
        ignored_scope=nncf.IgnoredScope(types=["ScaledDotProductAttention"], validate=False),
        advanced_parameters=advanced.AdvancedQuantizationParameters(smooth_quant_alphas=smooth),
    )
    for file in args.model.iterdir():
        if file.stem != GRAPH and file.name != "manifest.json" and file.is_file():
            shutil.copyfile(file, args.out / file.name)
    ov.save_model(quantized, args.out / f"{GRAPH}.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main()
