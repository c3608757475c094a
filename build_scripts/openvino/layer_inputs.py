"""What the linear layers of a float graph read, over calibration inputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import openvino as ov
from openvino import opset13 as op
from tritonguard.errors import BundleError

from engines.checkpoint import FloatArray
from engines.local.runtime import infer_request

Fold = Callable[[FloatArray | None, FloatArray], FloatArray]
"""(what came of the passes before, None at first; the layer's inputs in one pass, float32 [tokens, in]) -> what comes
of both. The inputs are overwritten by the next pass."""


def folded(
    graph: ov.Model, layers: Sequence[str], inputs: Iterable[Mapping[str, npt.NDArray[Any]]], fold: Fold
) -> tuple[dict[str, FloatArray], int]:
    """{layer: what `fold` made of its inputs} of the linear layers of these names, and over how many tokens.

    graph: float, of `build_graph`; it is left as it is. Layers that read the same input share one array. Raises
    BundleError without inputs, or where a layer is not in the graph.
    """
    observed = graph.clone()
    products = {node.get_friendly_name(): node for node in observed.get_ops() if node.get_type_name() == "MatMul"}
    readers: dict[tuple[str, int], list[str]] = defaultdict(list)
    sources: dict[tuple[str, int], Any] = {}
    for name in layers:
        if name not in products:
            raise BundleError(f"the graph has no layer {name}")
        source = products[name].input_value(0)
        key = source.get_node().get_friendly_name(), source.get_index()
        readers[key].append(name)
        sources[key] = source
    observed.add_results([op.result(source) for source in sources.values()])
    request = infer_request(observed, precision="f32")
    first = len(graph.outputs)
    found: list[FloatArray | None] = [None] * len(sources)
    tokens = 0
    for item in inputs:
        request.infer(dict(item))
        for index in range(len(sources)):
            seen = request.get_output_tensor(first + index).data
            seen = seen.reshape(-1, seen.shape[-1])
            found[index] = fold(found[index], seen)
            tokens += len(seen) if index == 0 else 0  # each reads the same ones
    if sources and not tokens:
        raise BundleError("there are no calibration inputs")
    known = [each for each in found if each is not None]
    return {name: each for names, each in zip(readers.values(), known, strict=True) for name in names}, tokens
