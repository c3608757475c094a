"""Static SmoothQuant W8A8 of the text graph: NNCF on the graph itself, no torch.

SmoothQuant (arXiv 2211.10438) moves outliers of a layer's input into its weights, column by column; then both are
rounded to int8, weights with a scale a row, inputs with one scale a tensor that calibration fixes.

Ranges are symmetric, and the mean over calibration inputs of what each one reaches. Of four settings on 16 prompts of
the embedded checkpoint (compared on 32 others, linear layers alone) that had the smallest largest drift; all four are
far from what the parity gate allows. The plugin runs most roundings as steps of their own, in float32, with a
conversion before each under its bfloat16 hint: `compile` measures which arithmetic is faster for the rest.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import rich
from tritonguard.errors import BundleError

from engines.local.graph_nodes import Node
from engines.local.runtime import core, multiplies_int8

Inputs = dict[str, npt.NDArray[Any]]
OnProgress = Callable[[int, int], None]
"""(calibration passes done, of how many)."""

_PASSES = 2  # over all inputs: one for what SmoothQuant moves, one for the ranges of what it leaves


def smooth_quantized(
    graph: ov.Model,
    inputs: Sequence[Inputs],
    *,
    alpha: float = 0.5,
    linear_in_float: Callable[[str], bool] = lambda name: False,
    on_progress: OnProgress | None = None,
) -> ov.Model:
    """The graph with int8 weights and fixed input scales; its inputs and outputs stay the same.

    graph: of `build_graph`; it is left as it is, and the result shares its float constants: keep the checkpoint.
    inputs: all its inputs by name, once per calibration pass. alpha: 0 (all is left to the inputs) to 1 (all to the
    weights), the paper's formula 4. linear_in_float: says by name ("layers.0.mlp.down_proj") which linear layers
    keep their weights as stored and their inputs unrounded. Embedding, norms, attention and logits are float always.

    Raises BundleError: NNCF is not installed; no inputs, or some that do not fit the graph; nothing to quantize.
    """
    _check(graph, inputs, alpha)
    products = [node for node in graph.get_ops() if node.get_type_name() == "MatMul"]
    linear = {node.get_friendly_name() for node in products if _is_constant(node.input_value(1))}
    kept = {name for name in linear if not name.startswith("layers.") or linear_in_float(name)}
    others = {node.get_friendly_name() for node in products} - linear
    if linear == kept:
        raise BundleError("static quantization: all layers are to stay in float")
    nncf = _nncf()
    # A scale before a Gather would be one for the prefixes of all layers, and one on the embedding.
    gathers = {node.get_friendly_name() for node in graph.get_ops() if node.get_type_name() == "Gather"}
    report = on_progress or (lambda done, total: None)
    total, done = _PASSES * len(inputs), iter(range(_PASSES * len(inputs)))

    def next_input(item: Inputs) -> Inputs:
        report(next(done, total), total)
        return item

    core()  # see there: NNCF's own cores come and go after this one
    try:
        with _quiet():
            quantized = nncf.quantize(
                graph,
                nncf.Dataset(inputs, next_input),
                preset=nncf.QuantizationPreset.PERFORMANCE,
                subset_size=len(inputs),
                model_type=nncf.ModelType.TRANSFORMER,
                ignored_scope=nncf.IgnoredScope(names=sorted(others | kept | gathers)),
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=alpha),
                    disable_bias_correction=True,  # it corrects biases; these layers have none
                    overflow_fix=_overflow_fix(nncf),
                ),
            )
    except RuntimeError as error:
        raise BundleError("static quantization: the graph can't be run on these calibration inputs") from error
    _restore(quantized, graph, kept)
    report(total, total)
    return quantized


def _overflow_fix(nncf: Any) -> Any:
    """Seven bits of the weights on a CPU without VNNI: it adds pairs of int8 products in int16, which overflow."""
    return None if multiplies_int8() else nncf.OverflowFix.ENABLE


def _check(graph: ov.Model, inputs: Sequence[Inputs], alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise BundleError(f"static quantization: alpha is {alpha}, not from 0 to 1")
    if not inputs:
        raise BundleError("static quantization: no calibration inputs")
    wanted = {node.get_any_name(): node for node in graph.inputs}
    for index, item in enumerate(inputs):
        if item.keys() != wanted.keys():
            wrong = ", ".join(sorted(item.keys() ^ wanted.keys()))
            raise BundleError(f"static quantization: calibration input {index}: missing or unknown: {wrong}")
        for name, array in item.items():
            node = wanted[name]
            dtype, shape = node.get_element_type().to_dtype(), node.get_partial_shape()
            if array.dtype != dtype or not shape.compatible(ov.PartialShape(list(array.shape))):
                found = f"{array.dtype} {list(array.shape)}, not {dtype} {shape}"
                raise BundleError(f"static quantization: calibration input {index}: {name} is {found}")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise BundleError(f"static quantization: calibration input {index}: {name} is not finite")


def _is_constant(value: Node) -> bool:
    """A stored tensor, with its conversion to float32 or without."""
    node = value.get_node()
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")


def _restore(quantized: ov.Model, graph: ov.Model, names: set[str]) -> None:
    """NNCF smooths ignored layers too. That is undone: their stored weights, and their inputs before smoothing."""
    stored = {node.get_friendly_name(): node for node in graph.clone().get_ops() if node.get_friendly_name() in names}
    for node in quantized.get_ops():
        if node.get_friendly_name() in names:
            before = node.input_value(0).get_node()
            if "nncf_smooth_quant" in before.get_friendly_name():
                node.input(0).replace_source_output(before.input_value(0))
            node.input(1).replace_source_output(stored[node.get_friendly_name()].input_value(1))


def _nncf() -> Any:
    """Raises BundleError when it is not installed."""
    telemetry = "openvino_telemetry"
    before = sys.modules.get(telemetry)
    # NNCF does without this package where it can't be imported. With it, it writes an id into the home folder as it
    # is imported and sends an event from `quantize`.
    sys.modules[telemetry] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("nncf")
    except ImportError as error:
        raise BundleError(
            "static quantization needs nncf: it is not installed (pip install 'tritonguard-server[quantize]')"
        ) from error
    finally:
        if before is None:
            del sys.modules[telemetry]
        else:
            sys.modules[telemetry] = before


@contextmanager
def _quiet() -> Iterator[None]:
    """NNCF's log lines, and its progress bars on rich's global console, are not shown."""
    log, console = logging.getLogger("nncf"), rich.get_console()
    level, quiet = log.level, console.quiet
    log.setLevel(logging.ERROR)
    console.quiet = True
    try:
        yield
    finally:
        log.setLevel(level)
        console.quiet = quiet
