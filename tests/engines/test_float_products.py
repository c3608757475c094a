"""In float32 no activation is taken into a product, since such a product is a slower one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from tiny_checkpoint import tiny_config, write_checkpoint

from engines.checkpoint import Checkpoint
from engines.local.context import Context
from engines.local.float_products import without_activations
from engines.local.forward_openvino import build_graph
from engines.local.graph_nodes import int8_matrix
from engines.local.runtime import COUNTERS, Runtime, core, infer_request, save_compiled
from engines.local.tree import Tree, pass_inputs

PLAIN = {"INFERENCE_PRECISION_HINT": "f32"}


@pytest.fixture(name="checkpoint")
def _checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint.open(write_checkpoint(tmp_path / "checkpoint", tiny_config()))


def names(compiled: ov.CompiledModel) -> list[str]:
    """Of each operation, those of all that OpenVINO made it of."""
    return [node.get_rt_info()["originalLayersNames"].astype(str) for node in compiled.get_runtime_model().get_ops()]


def taken_in(compiled: ov.CompiledModel) -> list[str]:
    """The products that OpenVINO took an activation into."""
    return [name for name in names(compiled) if "_proj" in name and ("Gelu" in name or "Sigmoid" in name)]


def test_a_product_of_floats_ends_with_the_product(checkpoint: Checkpoint, tmp_path: Path) -> None:
    graph = build_graph(checkpoint)
    layers = checkpoint.text_config.num_hidden_layers
    assert len(taken_in(core().compile_model(graph, "CPU", PLAIN))) == layers, "this release of OpenVINO takes none"
    assert taken_in(infer_request(graph, precision="f32").get_compiled_model()) == []
    saved = tmp_path / "graph.xml"
    ov.save_model(graph, saved, compress_to_fp16=False)
    assert taken_in(infer_request(saved, precision="f32").get_compiled_model()) == []
    save_compiled(saved, precision="f32")
    assert taken_in(infer_request(saved, precision="f32").get_compiled_model()) == []


def test_the_activation_is_one_operation_with_the_product_behind_it(checkpoint: Checkpoint) -> None:
    """Written out plainly, it is three that each go through memory."""
    compiled = infer_request(build_graph(checkpoint), precision="f32").get_compiled_model()
    taken_together = [name for name in names(compiled) if "Sigmoid" in name]
    assert len(taken_together) == checkpoint.text_config.num_hidden_layers
    assert all("Power" in name and name.count("Multiply") == 4 for name in taken_together), taken_together


def test_all_products_of_floats_run_in_the_same_kernel(checkpoint: Checkpoint) -> None:
    runtime = Runtime(build_graph(checkpoint), precision="f32", other=COUNTERS)
    runtime.run(**asked(checkpoint))
    assert len({kernel for kind, kernel, _ in runtime.operations() if kind == "FullyConnected"}) == 1


def test_the_graph_computes_the_same_and_is_left_as_it_was(checkpoint: Checkpoint) -> None:
    graph = build_graph(checkpoint)
    before = len(graph.get_ops())
    apart = without_activations(graph)
    assert len(graph.get_ops()) == before < len(apart.get_ops())
    assert not any(node.get_type_name() == "Gelu" for node in apart.get_ops())
    inputs = asked(checkpoint)
    for got, expected in zip(*(results(each, inputs) for each in (apart, graph)), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_products_of_int8_keep_their_activations(checkpoint: Checkpoint) -> None:
    graph = build_graph(checkpoint, lambda name, stored: int8_matrix(stored).node)
    assert len(without_activations(graph).get_ops()) == len(graph.get_ops())


def asked(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    trees = [Tree((1, 2, 3), ((4, 5), (6,))), Tree((7, 8))]
    return pass_inputs(Context.empty(checkpoint.text_config), trees, candidates=[3, 4], image_token=-1)


def results(graph: ov.Model, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    hidden = graph.input("features").partial_shape[1].get_length()
    no_image = {"slots": np.full(inputs["ids"].shape, -1, np.int32), "features": np.zeros((1, hidden), np.float32)}
    return list(core().compile_model(graph, "CPU", PLAIN)(no_image | inputs).values())
