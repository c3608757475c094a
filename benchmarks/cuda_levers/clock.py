"""How long ways take, replayed in turn; and the largest rate of products that the GPU shows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.cuda_levers.guard import quantized
from benchmarks.cuda_levers.ways import Step, Way

SQUARE = 8192
"""Rows, columns and depth of the product that stands for the GPU's peak."""
_WARM_UPS = 2


def medians_ms(ways: Sequence[Way], rounds: int, device: torch.device) -> list[float]:
    """Wall time of each way, all in turn in each round."""
    runs = [replace(way, steps=[replayed(step) for step in way.steps]) for way in ways] if on_gpu(device) else ways
    taken: list[list[float]] = [[] for _ in runs]
    for number in range(rounds + _WARM_UPS):
        for run, times in zip(runs, taken, strict=True):
            _wait(device)
            began = time.perf_counter()
            for step in run.steps:
                step()
            _wait(device)
            if number >= _WARM_UPS:
                times.append((time.perf_counter() - began) * 1e3)
    return [statistics.median(times) for times in taken]


def replayed(step: Step) -> Step:
    """The step as a CUDA graph, behind runs that warm it up. Its output is overwritten by the next replay."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = step()

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay


def peaks(rounds: int, device: torch.device) -> dict[str, float]:
    """Operations a second of one large product, by arithmetic; NaN without a GPU."""
    if not on_gpu(device):
        return {"bf16": float("nan"), "fp8": float("nan")}
    x = torch.randn(SQUARE, SQUARE, device=device, dtype=torch.bfloat16)
    one = torch.ones((), device=device)
    small = quantized(x, one)
    products: Mapping[str, Callable[[], Tensor]] = {
        "bf16": lambda: x @ x,
        "fp8": lambda: torch._scaled_mm(small, small.t(), scale_a=one, scale_b=one, out_dtype=x.dtype),
    }
    taken = medians_ms([Way([product], lambda read: read[0]) for product in products.values()], rounds, device)
    return {name: 2 * SQUARE**3 / ms * 1e3 for name, ms in zip(products, taken, strict=True)}


def on_gpu(device: torch.device) -> bool:
    return str(device.type) == "cuda"


def _wait(device: torch.device) -> None:
    if on_gpu(device):
        torch.cuda.synchronize()
