"""A bundle's text graph in ONNX Runtime: arrays in, arrays out, as `runtime.Runtime` does it with OpenVINO."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from tritonguard.errors import BundleError

from engines.checkpoint import FloatArray
from engines.local.forward_openvino import INPUTS, OUTPUTS
from engines.local.runtime import cores, whole

ONNX_GRAPH = "graph.onnx"
"""Its weights are in the file of OpenVINO's graph."""
_ERRORS_ALONE = 3


class OnnxRuntime:
    """The text forward. Not thread-safe: its outputs are the caller's, its inputs are read where they are."""

    def __init__(self, graph: Path, *, threads: int, counted: Path | None = None) -> None:
        """counted: folder for the counters that `operations` reads. Raises BundleError for a graph that can't be read,
        or of other inputs than `build_graph`'s."""
        self._graph, self._threads = graph, threads
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = _ERRORS_ALONE
        # Its plan of that takes most of a session's start, while no other Python runs, and makes no pass faster.
        options.enable_mem_reuse = False
        if counted is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(counted / "passes")
        # Threads that wait by spinning take the cores from everything else that serves.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own classes share no other base
            raise BundleError(f"{graph.parent.name}/{graph.name} can't be loaded") from error
        if {each.name for each in self._session.get_inputs()} != set(INPUTS):
            raise BundleError("the text graph was compiled by another version of this package: compile it again")
        (hidden,) = (each.shape[1] for each in self._session.get_inputs() if each.name == "features")
        self._no_features: FloatArray = np.zeros((1, hidden), np.float32)

    @classmethod
    def load(cls, folder: Path, *, streams: int = 1, counted: Path | None = None) -> OnnxRuntime:
        """streams: 2: on half of the cores, for one `beside` it. Raises BundleError."""
        threads = max(1, cores() // streams)
        return cls(folder / ONNX_GRAPH, threads=threads, counted=counted)

    def beside(self) -> OnnxRuntime:
        """Another one that may run at the same time; with its own copy of the int8 weights."""
        return OnnxRuntime(self._graph, threads=self._threads)

    def run(self, **inputs: npt.NDArray[Any]) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """See `runtime.Runtime.run`."""
        held = {name: np.ascontiguousarray(each) for name, each in whole(inputs, self._no_features).items()}
        logits, keys, values, hidden = self._session.run(list(OUTPUTS), held)
        return logits, keys, values, hidden

    def operations(self) -> list[tuple[str, str, float]]:
        """(kind, "onnxruntime", milliseconds) of each operation, the mean over all passes so far; loaded with
        `counted`, and called once. A float product with a constant is a "Rotation"."""
        events = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        passes = sum(event["name"] == "model_run" for event in events)
        kinds: dict[str, str] = {}
        spent: dict[str, float] = defaultdict(float)
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                about = event["args"]
                # Constants are not among the inputs whose shapes it tells.
                rotates = about["op_name"] == "MatMul" and len(about["input_type_shape"]) == 1
                kinds[about["node_index"]] = "Rotation" if rotates else about["op_name"]
                spent[about["node_index"]] += event["dur"] / 1e3 / passes
        return [(kinds[node], "onnxruntime", ms) for node, ms in spent.items()]
