"""A bundle's OpenVINO graphs, compiled for this CPU: arrays in, arrays out."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from tritonguard.errors import BundleError

from engines.checkpoint import FloatArray
from engines.local.engine_config import PRECISIONS, EngineConfig
from engines.local.float_products import without_activations
from engines.local.forward_openvino import INPUTS, OUTPUTS
from engines.local.vision_openvino import FEATURES, PIXELS

GRAPH = "graph.xml"
VISION_GRAPH = "vision.xml"
COUNTERS = {"PERF_COUNT": True}
"""To be loaded with, for `Runtime.operations`."""
_LOGGER = logging.getLogger(__name__)
_WITHOUT_WEIGHTS = {"CACHE_MODE": "OPTIMIZE_SIZE"}
"""For exporting and for importing alike. With the weights in it the file would be larger than the graph's."""
_KEPT_KERNELS = "200"
"""The plugin keeps kernels by shape, and every length of a text is one. Its own limit of 5,000 let memory grow for
thousands of requests (800 MB and more); with this it stays the same after some hundred, and passes are no slower."""


@cache
def core() -> ov.Core:
    """The one OpenVINO core of this process, kept to its end.

    Its CPU plugin sets an alternate signal stack and puts back the one before it when it goes. Two of them that go
    in the wrong order leave a freed stack behind, and the next signal is a segmentation fault.
    """
    return ov.Core()


def cpu_name() -> str:
    """As the plugin knows it, "Intel(R) Xeon(R) ..." for one."""
    return str(core().get_property("CPU", "FULL_DEVICE_NAME"))


def native_precisions() -> tuple[str, ...]:
    """Those of PRECISIONS that this CPU computes in itself; a hint for another one falls back to f32."""
    has = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(
        name for name in PRECISIONS if name == "f32" or (name.upper() in has and runs_with(name, threads=cores()))
    )


def runs_with(precision: str, *, threads: int) -> bool:
    """Whether so many threads may compute a graph. OpenVINO 2026.4.1 divides by zero, and the process is gone, where a
    single thread multiplies bf16 with AMX."""
    return threads > 1 or precision != "bf16" or not has_amx()


def can_cut(precision: str) -> bool:
    """Whether half of the threads may compute a graph, so that two passes can run at once."""
    return runs_with(precision, threads=cores() // 2)


def multiplies_int8() -> bool:
    """Whether this CPU sums int8 products in int32 (VNNI, AMX). Without it OpenVINO leaves the inputs of int8 weights
    float, and sums of fixed-scale products can overflow."""
    return not {"avx512_vnni", "avx_vnni", "amx_int8"}.isdisjoint(_cpu_flags())


def has_amx() -> bool:
    """Whether this CPU multiplies tiles of bf16 and int8."""
    return "amx_bf16" in _cpu_flags()


def _cpu_flags() -> frozenset[str]:
    try:
        return frozenset(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return frozenset()


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def refuse_foreign(config: EngineConfig) -> None:
    """Raises BundleError where this CPU would compute in another arithmetic than the one that was compiled for."""
    if config.arithmetic not in native_precisions():
        raise BundleError(f"compiled for {config.arithmetic}, which this CPU does not multiply: compile it here")


def infer_request(
    model: ov.Model | Path,
    *,
    precision: str,
    group_size: int = 0,
    streams: int = 1,
    other: Mapping[str, Any] | None = None,
) -> Any:
    """A graph or a saved graph's file, compiled for this CPU; as `save_compiled` left it, where it did.

    precision, group_size: see `EngineConfig`. streams: requests that run at the same time, each on its share of the
    threads. other: settings of OpenVINO for a measurement, on top or instead. Raises BundleError for an unknown
    precision, one that so few threads can't compute (`runs_with`), or a graph that can't be read or compiled.
    """
    settings = _settings(precision, group_size, streams)
    if other:
        return _compiled(model, {**settings, **other}).create_infer_request()
    if isinstance(model, Path) and (blob := compiled_file(model, precision, group_size, streams)).is_file():
        try:
            return _imported(model, blob, settings)
        except (RuntimeError, OSError):
            # For another kind of CPU or another OpenVINO, as a rule. The graph is what counts.
            _LOGGER.warning("%s can't be used here, so %s is compiled: the start takes longer", blob.name, model.name)
    return _compiled(model, settings).create_infer_request()


def save_compiled(graph: Path, *, precision: str, group_size: int = 0, streams: int = 1) -> None:
    """Write what OpenVINO made of a saved graph for this CPU beside it; importing that takes a quarter of the time.

    It holds no weights: they stay in the graph's own file. Raises BundleError where the graph can't be compiled.
    """
    compiled = _compiled(graph, _settings(precision, group_size, streams) | _WITHOUT_WEIGHTS)
    compiled_file(graph, precision, group_size, streams).write_bytes(compiled.export_model().getvalue())


def compiled_file(graph: Path, precision: str, group_size: int, streams: int = 1) -> Path:
    """Where `save_compiled` leaves it. Imported with other settings it would not be what compiling makes of the graph,
    and OpenVINO does not ask: so they are in the name. CPU and OpenVINO are in the file, where OpenVINO looks.
    """
    return graph.with_suffix(f".{precision}-g{group_size}{f'-s{streams}' if streams > 1 else ''}.blob")


def _imported(graph: Path, blob: Path, settings: Mapping[str, Any]) -> Any:
    weights = {"WEIGHTS_PATH": str(graph.with_suffix(".bin"))}
    imported = core().import_model(blob.read_bytes(), "CPU", {**settings, **_WITHOUT_WEIGHTS, **weights})
    return imported.create_infer_request()


def _compiled(model: ov.Model | Path, settings: Mapping[str, Any]) -> Any:
    try:
        graph = model if isinstance(model, ov.Model) else core().read_model(model)
        if settings["INFERENCE_PRECISION_HINT"] == "f32":
            graph = without_activations(graph)
        return core().compile_model(graph, "CPU", dict(settings))
    except RuntimeError as error:
        name = f"{model.parent.name}/{model.name}" if isinstance(model, Path) else model.get_friendly_name()
        raise BundleError(f"{name} can't be compiled for this CPU") from error


def _settings(precision: str, group_size: int, streams: int = 1) -> dict[str, Any]:
    if precision not in PRECISIONS:
        raise BundleError(f"precision {precision!r} is not one of: {', '.join(PRECISIONS)}")
    if not runs_with(precision, threads=cores() // streams):
        raise BundleError(f"OpenVINO can't compute {precision} with one thread on this CPU (AMX)")
    return {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": cores(),
        "CPU_RUNTIME_CACHE_CAPACITY": _KEPT_KERNELS,
        # Always said: the plugin's own default would quantize the inputs of every layer with int8 weights.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(group_size),  # PER_TOKEN is too large for an int
    }


class Runtime:
    """The text forward. Not thread-safe: one infer request."""

    def __init__(self, model: ov.Model | Path, **how: Any) -> None:
        """how: see `infer_request`. Raises BundleError, also for a graph of other inputs than `build_graph`'s."""
        self._take(infer_request(model, **how))

    def _take(self, request: Any) -> None:
        self._request = request
        names = {name for each in self._request.get_compiled_model().inputs for name in each.get_names()}
        if names != set(INPUTS):
            raise BundleError("the text graph was compiled by another version of this package: compile it again")
        hidden = self._request.get_compiled_model().input("features").partial_shape[1].get_length()
        self._no_features: FloatArray = np.zeros((1, hidden), np.float32)

    @classmethod
    def load(cls, folder: Path, **how: Any) -> Runtime:
        """how: see `infer_request`. Raises BundleError for a graph that can't be read or compiled."""
        return cls(folder / GRAPH, **how)

    def beside(self) -> Runtime:
        """Another request of the same compiled graph, which shares its weights and may run at the same time."""
        other = Runtime.__new__(Runtime)
        other._take(self._request.get_compiled_model().create_infer_request())
        return other

    def operations(self) -> list[tuple[str, str, float]]:
        """(kind, how it was executed, milliseconds) of each operation, the mean over all passes so far; loaded with
        COUNTERS."""
        return [
            (each.node_type, each.exec_type, each.real_time.total_seconds() * 1e3)
            for each in self._request.get_profiling_info()
            if each.status == each.Status.EXECUTED
        ]

    def run(self, **inputs: npt.NDArray[Any]) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """The inputs of `build_graph`; without an image, slots and features may be left out.

        Returns logits float32 [B, N, C], keys and values float32 [layers, kv heads, K, head dim] of the tokens that are
        kept, hidden float32 [B, N, hidden]. The next call overwrites them.
        """
        # Held until the next pass: the request reads them where they are.
        self._held = {name: np.ascontiguousarray(value) for name, value in whole(inputs, self._no_features).items()}
        self._request.infer({name: _in_place(value) for name, value in self._held.items()})
        logits, keys, values, hidden = (self._request.get_tensor(name).data for name in OUTPUTS)
        return logits, keys, values, hidden


def whole(inputs: Mapping[str, npt.NDArray[Any]], no_features: FloatArray) -> dict[str, npt.NDArray[Any]]:
    """All of INPUTS, where those of images may be left out."""
    found = dict(inputs)
    if not found.keys() & {"slots", "features"}:
        found |= {"slots": np.full(found["ids"].shape, -1, np.int32), "features": no_features}
    assert found.keys() == set(INPUTS), sorted(found)
    return found


def _in_place(array: npt.NDArray[Any]) -> ov.Tensor:
    """A tensor on the array's own memory. OpenVINO refuses what may not be written to, though it only reads."""
    memory = memoryview((ctypes.c_byte * array.nbytes).from_address(array.ctypes.data))
    return ov.Tensor(np.frombuffer(memory, array.dtype).reshape(array.shape), shared_memory=True)


class VisionRuntime:
    """The vision tower and projector. Not thread-safe: one infer request."""

    def __init__(self, model: ov.Model | Path, *, precision: str) -> None:
        self._request = infer_request(model, precision=precision)

    @classmethod
    def load(cls, folder: Path, *, precision: str) -> VisionRuntime:
        """Raises BundleError for an unknown precision, or a graph that can't be read or compiled."""
        return cls(folder / VISION_GRAPH, precision=precision)

    def features(self, pixels: npt.NDArray[np.uint8]) -> FloatArray:
        """pixels [N, size, size, 3], RGB -> features [N, tokens per image, text hidden size], a copy."""
        self._request.infer({PIXELS: np.ascontiguousarray(pixels, np.uint8)})
        features: FloatArray = self._request.get_tensor(FEATURES).data.copy()
        return features
