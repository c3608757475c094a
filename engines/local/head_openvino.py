"""The head: which token of the whole vocabulary comes next. Free text needs it; verdicts score two candidates.

A graph over int8 rows proposes the best 32, and the embedding's own values decide between them in float32.
Against a float32 argmax that is a quarter of the memory (168 MB instead of 671 MB for the embedded checkpoint)
and less than half of the CPU time per token (16 ms instead of 39 ms on two AVX2 cores). Of 600 states of real
prompts the right token was the first proposal 589 times and the second 11 times. Its int8 score led that of the
first token left out by at least 1.5 (median 5.7); int8 moves a score by 0.08 (root mean square, largest 1.2).
Eight proposals cost the same and lead by 0.7. Held as bfloat16 or float16 with decompression the matrix takes
as much memory as in float32: the plugin unpacks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import Type
from openvino import opset13 as op
from tritonguard.errors import BundleError

from engines.checkpoint import Checkpoint, FloatArray, bfloat16_to_float32
from engines.local.forward_openvino import EMBEDDING
from engines.local.graph_nodes import int8_matrix, ints, model
from engines.local.runtime import GRAPH, core, infer_request

HEAD_GRAPH = "head.xml"
PROPOSALS = 32


def build_head_graph(checkpoint: Checkpoint) -> ov.Model:
    """Input: hidden float32 [N, hidden]. Output: proposals int32 [N, PROPOSALS]: token ids, in no order that counts."""
    embedding = checkpoint.stored("embed_tokens.weight")
    hidden = op.parameter([-1, embedding.shape[1]], Type.f32, name="hidden")
    scores = op.matmul(hidden, int8_matrix(embedding).node, False, True)
    best = op.topk(scores, ints(min(PROPOSALS, len(embedding))), -1, "max", "value", index_element_type="i32")
    return model({"hidden": hidden}, {"proposals": best.output(1)}, "gemma3_head")


class HeadRuntime:
    """Not thread-safe: one infer request."""

    def __init__(self, head: ov.Model | Path, embedding: npt.NDArray[Any], *, precision: str) -> None:
        """embedding: [vocabulary, hidden] as stored (uint16: bfloat16 bits). precision: of the proposals alone."""
        # Quantizing the states too would save little: reading the matrix is what takes the time.
        self._request = infer_request(head, precision=precision)
        self._embedding = embedding

    @classmethod
    def of(cls, checkpoint: Checkpoint, *, precision: str) -> HeadRuntime:
        """Without a bundle: graph and embedding of a checkpoint."""
        return cls(build_head_graph(checkpoint), checkpoint.stored("embed_tokens.weight"), precision=precision)

    @classmethod
    def load(cls, folder: Path, *, precision: str) -> HeadRuntime:
        """The embedding is the text graph's, mapped from its file. Raises BundleError when the graphs can't be read."""
        return cls(folder / HEAD_GRAPH, _embedding(folder / GRAPH), precision=precision)

    def best(
        self, hidden: FloatArray, without: Sequence[frozenset[int]] = ()
    ) -> tuple[npt.NDArray[np.int32], FloatArray]:
        """hidden float32 [N, hidden size] -> ids int32 [N] of the highest logits, and those logits float32 [N].

        Equal logits: the lowest id of them. A logit is NaN where the state is. without: for each state, ids passed
        over; where all proposals are among them, one of them comes back, its logit -inf.
        """
        self._request.infer({"hidden": np.ascontiguousarray(hidden, np.float32)})
        proposals = np.sort(self._request.get_tensor("proposals").data, axis=1)
        rows = self._embedding[proposals]
        values = bfloat16_to_float32(rows) if rows.dtype == np.uint16 else rows.astype(np.float32)
        logits = np.einsum("nph,nh->np", values, hidden)
        if any(without):
            logits[[[int(id) in over for id in row] for row, over in zip(proposals, without, strict=True)]] = -np.inf
        first = np.argmax(logits, axis=1)[:, None]
        return np.take_along_axis(proposals, first, 1)[:, 0], np.take_along_axis(logits, first, 1)[:, 0]


def _embedding(path: Path) -> npt.NDArray[Any]:
    """A view of the embedding in a saved text graph, bfloat16 as uint16 bits."""
    try:
        graph = core().read_model(str(path))
        (constant,) = (node for node in graph.get_ops() if node.get_friendly_name() == EMBEDDING)
    except (RuntimeError, ValueError) as error:
        raise BundleError(f"{path.parent.name}/{path.name} can't be read, or holds no embedding") from error
    values: npt.NDArray[Any] = constant.data  # keeps the constant, and that the file's mapping
    return values.view(np.uint16) if constant.get_element_type() == Type.bf16 else values
