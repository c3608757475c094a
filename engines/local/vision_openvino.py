"""Gemma 3's vision tower (SigLIP) and projector as an OpenVINO graph. Its twin is `vision_torch`.

Formulas: SigLIP (arXiv 2303.15343), Gemma 3 report (arXiv 2503.19786) and transformers' modeling_siglip and
modeling_gemma3, to which a test holds it.
"""

from __future__ import annotations

import openvino as ov
from openvino import Type
from openvino import opset13 as op
from tritonguard.errors import BundleError

from engines.checkpoint import PROJECTOR_PREFIX, VISION_PREFIX, Checkpoint
from engines.local.graph_nodes import Node, floats, ints, model, split_heads, swap, weight
from engines.vision_config import VisionConfig

PIXELS, FEATURES = "pixels", "features"


def build_vision_graph(checkpoint: Checkpoint) -> ov.Model:
    """The graph of `vision_torch.features`, dynamic in N.

    Its constants are views of the checkpoint's files: keep `checkpoint` for as long as the graph.

    Input: pixels uint8 [N, size, size, 3], RGB. Output: features float32 [N, tokens per image, text hidden
    size], row by row from the top left, which take the place of text embeddings as they are.
    Raises BundleError for a checkpoint without a tower, or with tensors missing.
    """
    config = checkpoint.vision_config
    if config is None:
        raise BundleError(f"{checkpoint.folder.name} has no vision tower")
    size = config.image_size
    pixels = op.parameter([-1, size, size, 3], Type.u8, name=PIXELS)
    features = _Builder(checkpoint, config).features(pixels)
    return model({PIXELS: pixels}, {FEATURES: features}, "gemma3_vision")


class _Builder:
    """Holds the checkpoint while the graph is written down."""

    def __init__(self, checkpoint: Checkpoint, config: VisionConfig) -> None:
        self._checkpoint = checkpoint
        self._config = config

    def features(self, pixels: Node) -> Node:
        config = self._config
        x = op.add(self._linear("embeddings.patch_embedding", self._patches(pixels)), self._positions())
        for layer in range(config.num_hidden_layers):
            name = f"encoder.layers.{layer}"
            x = op.add(x, self._attend(f"{name}.self_attn", self._norm(f"{name}.layer_norm1", x)))
            h = self._linear(f"{name}.mlp.fc1", self._norm(f"{name}.layer_norm2", x))
            x = op.add(x, self._linear(f"{name}.mlp.fc2", op.gelu(h, "tanh")))
        return self._project(self._norm("post_layernorm", x))

    def _patches(self, pixels: Node) -> Node:
        """uint8 [N, size, size, 3] -> [N, patches, 3 * patch * patch] in -1..1, in the order of the weights."""
        side, patch = self._config.patches_per_side, self._config.patch_size
        x = op.multiply(op.convert(pixels, Type.f32), floats(1 / 255))
        x = op.divide(op.subtract(x, floats(0.5)), floats(0.5))
        x = op.reshape(x, ints([0, side, patch, side, patch, 3]), True)
        x = op.transpose(x, ints([0, 1, 3, 5, 2, 4]))
        return op.reshape(x, ints([0, side * side, 3 * patch * patch]), True)

    def _positions(self) -> Node:
        return weight(self._checkpoint.raw(f"{VISION_PREFIX}embeddings.position_embedding.weight"))

    def _attend(self, name: str, x: Node) -> Node:
        heads, hidden = self._config.num_attention_heads, self._config.hidden_size
        q, k, v = (
            swap(split_heads(self._linear(f"{name}.{part}_proj", x), heads, hidden // heads), 1, 2) for part in "qkv"
        )
        out = swap(op.scaled_dot_product_attention(q, k, v), 1, 2)
        return self._linear(f"{name}.out_proj", op.reshape(out, ints([0, 0, hidden]), True))

    def _project(self, x: Node) -> Node:
        """[N, patches, hidden] -> [N, tokens, text hidden]: average over squares, RMS norm, projection."""
        config, tokens = self._config, self._config.tokens_per_side
        pooled = config.patches_per_side // tokens
        x = op.reshape(x, ints([0, tokens, pooled, tokens, pooled, config.hidden_size]), True)
        x = op.reshape(op.reduce_mean(x, ints([2, 4])), ints([0, tokens * tokens, config.hidden_size]), True)
        variance = op.reduce_mean(op.multiply(x, x), ints([-1]), True)
        inverse = op.divide(floats(1.0), op.sqrt(op.add(variance, floats(config.layer_norm_eps))))
        scale = floats(self._checkpoint.float32(f"{PROJECTOR_PREFIX}mm_soft_emb_norm.weight") + 1.0)
        projection = weight(self._checkpoint.raw(f"{PROJECTOR_PREFIX}mm_input_projection_weight"))
        return op.matmul(op.multiply(op.multiply(x, inverse), scale), projection, False, False)

    def _linear(self, name: str, x: Node) -> Node:
        stored = self._checkpoint.raw(f"{VISION_PREFIX}{name}.weight")
        matrix = weight(stored.reshape(stored.shape[0], -1))  # the patch embedding's is stored as a convolution's
        return op.add(op.matmul(x, matrix, False, True), self._vector(f"{name}.bias"))

    def _norm(self, name: str, x: Node) -> Node:
        x = op.mvn(x, ints([-1]), True, self._config.layer_norm_eps, "inside_sqrt")
        return op.add(op.multiply(x, self._vector(f"{name}.weight")), self._vector(f"{name}.bias"))

    def _vector(self, name: str) -> Node:
        return floats(self._checkpoint.float32(VISION_PREFIX + name))
