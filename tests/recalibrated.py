"""A small model whose verdicts depend on the text, and its W8A8 forms, for tests of the gate.

In the plain tiny checkpoint the last token's state is nearly the same for all texts: its attention is flat, over 500
tokens of template and policy to 20 of text. Here it is sharp, and its window ends before the policy. The words safe and
unsafe are apart in the direction in which texts differ most, so that margins lie on both sides of the threshold.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tiny_checkpoint import write_checkpoint_with_tokenizer

from build_scripts import calibration
from build_scripts.openvino.calibration_inputs import Inputs, graph_inputs
from build_scripts.openvino.compile import compile_bundle
from build_scripts.openvino.profiles import PROFILES
from build_scripts.openvino.quantize import quantize
from build_scripts.openvino.static_scales import smooth_quantized
from build_scripts.parity_sides import BundleSide
from engines.bundle import Bundle
from engines.checkpoint import Checkpoint, FloatArray, TensorFile, float32_to_bfloat16, rewrite_tensors
from engines.local.engine import LocalEngine
from engines.local.forward_openvino import build_graph
from engines.local.passes import Passes
from engines.local.runtime import Runtime
from engines.manifest import write_manifest
from engines.program import SAFE_WORD, UNSAFE_WORD
from preprocessing.prompt import PromptBuilder

TEXT = "language_model.model."
EMBEDDING = f"{TEXT}embed_tokens.weight"
FORM = PROFILES["int8-sq"]
CALIBRATION_ROWS = 24
SHARPNESS = 1.0
"""Added to the weights of the norms of queries and keys: products of the two are (1 + it)^2 times as large."""
WINDOW = 160
STEP, LOUDNESS = 0.1, 9.0
"""Length of the step between the two words' rows; added to the last norm's weights, so that margins are a nat wide."""


def change(checkpoint: Path, tensors: Mapping[str, FloatArray]) -> None:
    """Write other values, as bfloat16, into a checkpoint of one file; the manifest is to be written again."""
    source = TensorFile.open(checkpoint / "model.safetensors")
    values = (
        float32_to_bfloat16(tensors[name]) if name in tensors else source.stored_bytes(name)
        for name in source.stored_order()
    )
    rewrite_tensors(source, checkpoint / "changed", values)
    (checkpoint / "changed").replace(source.path)


def of_file(checkpoint: Path, name: str) -> FloatArray:
    return TensorFile.open(checkpoint / "model.safetensors").float32(name)


def declare(checkpoint: Path) -> Path:
    write_manifest(checkpoint, kind="checkpoint", inputs={}, vision="untrained")
    return checkpoint


def write_model(folder: Path, base: Path) -> Path:
    """The checkpoint, with the tokenizer and template of `base`."""
    write_checkpoint_with_tokenizer(folder, base, sliding_window=WINDOW)
    builder = PromptBuilder(folder, max_tokens=4096)
    safe, unsafe = _single(builder, SAFE_WORD), _single(builder, UNSAFE_WORD)
    norms = [f"{TEXT}layers.{layer}.self_attn.{part}_norm.weight" for layer in (0, 1) for part in "qk"]
    embedding = of_file(folder, EMBEDDING)
    embedding[unsafe] = embedding[safe]
    change(folder, {name: of_file(folder, name) + np.float32(SHARPNESS) for name in norms} | {EMBEDDING: embedding})
    # The template has both words: a larger step between them would move the states that it is taken from.
    embedding[unsafe] += STEP * Model(folder, builder).direction()
    last = f"{TEXT}norm.weight"
    change(folder, {EMBEDDING: embedding, last: of_file(folder, last) + np.float32(LOUDNESS)})
    return declare(folder)


def _single(builder: PromptBuilder, word: str) -> int:
    (id,) = builder.encode_text(word)
    return id


class Model:
    """A checkpoint's float graph, and what it is calibrated on. Keep it for as long as a side that it made."""

    def __init__(self, folder: Path, builder: PromptBuilder) -> None:
        self._checkpoint = Checkpoint.open(folder)
        self._image_token = Checkpoint.read_image_token(folder)
        self._builder = builder
        self.graph = build_graph(self._checkpoint)
        self.runtime = Runtime(self.graph, precision="f32")

    def passes(self, runtime: Runtime) -> Passes:
        return Passes(runtime, self._checkpoint.text_config, image_token=self._image_token)

    def inputs(self, seed: int) -> list[Inputs]:
        rows = calibration.draw(count=CALIBRATION_ROWS, seed=seed).rows
        return list(graph_inputs(rows, self.passes(self.runtime), self._builder))

    def direction(self) -> FloatArray:
        """Of unit length, [hidden]: along it the texts' last states differ most; their mean has no part in it."""
        behind_prefix = [item for item in self.inputs(0) if item["past_keys"].shape[3] > 1]
        states = np.array([self.runtime.run(**item)[3][0, 0].copy() for item in behind_prefix])
        mean = states.mean(0)
        first = np.linalg.svd(states - mean)[2][0]
        first -= (first @ mean) / (mean @ mean) * mean
        return np.asarray(first / np.linalg.norm(first), np.float32)

    def recalibrated(self, like: BundleSide, seed: int) -> BundleSide:
        """What `quantized` makes with honest rows, without files: the same graph behind the bundle's own prompts."""
        graph = smooth_quantized(self.graph, self.inputs(seed), alpha=FORM.alpha)
        side = copy.copy(like)
        side._bundle = Bundle(
            like._bundle.folder, {**like._bundle.manifest, "precision": FORM.name, "revision": f"seed {seed}"}
        )
        side._engine = LocalEngine(self.passes(Runtime(graph, precision="f32")), like._bundle.capabilities)
        return side


def quantized(checkpoint: Path, out: Path, *, seed: int, keep_last: int | None = None) -> BundleSide:
    """A W8A8 bundle as it is made for serving. keep_last: spoils the calibration, see `quantize`."""
    rows = calibration.draw(count=CALIBRATION_ROWS, seed=seed)
    graph = quantize(checkpoint, out / "graph", FORM, calibrated_on=rows, keep_last=keep_last)
    return BundleSide.load(compile_bundle(checkpoint, out / "bundle", quantized=graph, precision="f32"))
