"""Where a pass spends its time, by its runtime's own counters, and whether two at once would be faster than one.

    python -m benchmarks.forward_profile --bundle build/bundle --batches 1,8,32

A pass is one over short requests behind the built-in policy's prefix, as the engine runs it. Operations are counted for
the linear layers and for attention, so that their rate stands beside the share. The second table runs the same requests
as one pass on all threads, and cut in two that run at the same time on half of the threads each. The third has the
first pass of each size, the smallest first, and the same again: without and with memory that was asked for before.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from tritonguard.errors import BundleError

from benchmarks.peers.operations import attention_operations, linear_operations
from benchmarks.report import markdown, write_json
from build_scripts.openvino.pass_times import Form, halves_at_once, short_requests
from build_scripts.request_sizes import PREFIX, SUFFIX
from engines.checkpoint import Checkpoint, TextConfig
from engines.local.engine_config import ONNX_RUNTIME, EngineConfig
from engines.local.onnx_runtime import OnnxRuntime
from engines.local.passes import Passes
from engines.local.runtime import COUNTERS, Runtime, can_cut, cpu_name
from engines.local.text_runtime import TextRuntime, load_text_runtime

LINEAR, ATTENTION = "linear layers", "attention"
PRODUCTS = {
    "FullyConnected": LINEAR,
    "FullyConnectedCompressed": LINEAR,
    "LLMMLP": LINEAR,
    "MatMul": ATTENTION,
    "Subgraph": ATTENTION,
    "MatMulIntegerToFloat": LINEAR,
    "FusedMatMul": ATTENTION,
}
"""Of OpenVINO's kinds, and of ONNX Runtime's. LLMMLP has the activation between its products in it; Subgraph is the
whole of attention, or an elementwise chain where the plugin keeps the products of attention apart."""
REST = "less than 1 %"
WARM_UPS = 2


@dataclass(frozen=True)
class Part:
    """One kind of operation in a pass. ms: of all of them; share: of the pass's operations; gops: 10^9 operations a
    second, where they are counted."""

    kind: str
    count: int
    ms: float
    share: float
    gops: float


@dataclass(frozen=True)
class Profile:
    """pass_ms: wall time of a pass, the median."""

    batch: int
    pass_ms: float
    parts: Sequence[Part]

    @property
    def products(self) -> float:
        """Share of matrix products."""
        return sum(part.share for part in self.parts if part.kind.split()[0] in PRODUCTS)


@dataclass(frozen=True)
class Growth:
    """The first pass of a runtime that is as large as this, and the next one, ms. reserved: behind `Passes.reserve`."""

    batch: int
    reserved: bool
    first_ms: float
    again_ms: float


def parts_of(operations: Sequence[tuple[str, str, float]], counted: Mapping[str, float]) -> list[Part]:
    """By kind and kernel, the longest first; kinds below one hundredth as one. operations: see `Runtime.operations`.
    counted: 10^9 operations of a pass by LINEAR and ATTENTION, spread over their kernels by their time."""
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for kind, kernel, ms in operations:
        times[kind, kernel].append(ms)
    total = sum(ms for _, _, ms in operations)
    by_product = {name: sum(ms for kind, _, ms in operations if PRODUCTS.get(kind) == name) for name in counted}
    parts, rest = [], list[float]()
    for (kind, kernel), each in sorted(times.items(), key=lambda item: -sum(item[1])):
        ms = sum(each)
        if ms < total / 100:
            rest += each
            continue
        product = PRODUCTS.get(kind, "")
        gops = counted[product] / (by_product[product] / 1e3) if product in counted else float("nan")
        parts.append(Part(f"{kind} ({kernel})", len(each), ms, ms / total, gops))
    if rest:
        parts.append(Part(REST, len(rest), sum(rest), sum(rest) / total, float("nan")))
    return parts


def counted_operations(config: TextConfig, batch: int) -> dict[str, float]:
    """10^9 operations of a pass over `batch` short requests; of the last layer, keys and values are all it takes."""
    tokens = batch * SUFFIX
    whole = 1 - 1 / config.num_hidden_layers
    keys = 2 * tokens * config.hidden_size * 2 * config.num_key_value_heads * config.head_dim
    linear = linear_operations(config, tokens) * whole + keys
    attention = attention_operations(config, prefix=PREFIX, tokens=SUFFIX) * batch * whole
    return {LINEAR: linear / 1e9, ATTENTION: attention / 1e9}


def profile(folder: Path, how: EngineConfig, batches: Sequence[int], rounds: int) -> list[Profile]:
    config = Checkpoint.read_config(folder)
    found = []
    for batch in batches:
        # The counters are means over all passes of a runtime, so each batch has its own.
        with TemporaryDirectory() as counters:
            runtime = _counted(folder, how, Path(counters))
            inputs = short_requests(folder, batch)
            times = [_timed(runtime, inputs) for _ in range(rounds + WARM_UPS)][WARM_UPS:]
            parts = parts_of(runtime.operations(), counted_operations(config, batch))
        found.append(Profile(batch, median(times), parts))
        print(f"batch {batch}: {found[-1].pass_ms:.1f} ms, {found[-1].products:.0%} matrix products", flush=True)
    return found


def _counted(folder: Path, how: EngineConfig, counters: Path) -> Runtime | OnnxRuntime:
    if how.runtime == ONNX_RUNTIME:
        return OnnxRuntime.load(folder, counted=counters)
    group_size = how.dynamic_quantization_group_size
    return Runtime.load(folder, precision=how.arithmetic, group_size=group_size, other=COUNTERS)


def growth(folder: Path, how: EngineConfig, batches: Sequence[int]) -> list[Growth]:
    found = []
    for reserved in (False, True):
        runtime = load_text_runtime(folder, how)
        if reserved:
            Passes(runtime, Checkpoint.read_config(folder), image_token=-1).reserve()
        for batch in sorted(batches):
            inputs = short_requests(folder, batch)
            found.append(Growth(batch, reserved, _timed(runtime, inputs), _timed(runtime, inputs)))
    return found


def _timed(runtime: TextRuntime, inputs: Mapping[str, Any]) -> float:
    began = time.perf_counter()
    runtime.run(**inputs)
    return (time.perf_counter() - began) * 1e3


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.forward_profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, default=Path("build/bundle"))
    parser.add_argument("--batches", default="1,8,32", help="requests in a pass (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args(argv)
    try:
        batches = [int(each) for each in args.batches.split(",")]
        how = EngineConfig.read(args.bundle)
        profiles = profile(args.bundle, how, batches, args.rounds)
        even = [batch for batch in batches if batch % 2 == 0]
        grown = growth(args.bundle, how, batches)
        cut = (
            halves_at_once(Form(args.bundle, how), batches=even, rounds=args.rounds) if can_cut(how.arithmetic) else []
        )
    except (BundleError, ValueError) as error:
        parser.error(str(error))
    print(f"\n{cpu_name()}, {how.runtime}, arithmetic {how.arithmetic}")
    print(f"{PREFIX} tokens kept and {SUFFIX} new ones of each request\n")
    for each in profiles:
        print(f"batch {each.batch}: {each.pass_ms:.1f} ms, {each.products:.1%} of it matrix products\n")
        rows = [(part.kind, part.count, part.ms, f"{part.share:.1%}", part.gops) for part in each.parts]
        print(markdown(("operation (kernel)", "count", "ms", "share", "10^9 operations/s"), rows), "\n")
    rows_cut = [(each.batch, each.one_pass, each.two_halves, each.gain) for each in cut]
    if can_cut(how.arithmetic):
        print(markdown(("batch", "one pass, requests/s", "two halves at once", "ratio"), rows_cut))
    else:
        print(f"half of the threads can't compute {how.arithmetic} on this CPU: batches are not cut")
    rows_grown = [(each.batch, "yes" if each.reserved else "no", each.first_ms, each.again_ms) for each in grown]
    print("\n" + markdown(("batch", "memory asked for before", "first pass, ms", "again, ms"), rows_grown))
    if args.out:
        write_json(
            args.out,
            {"cpu": cpu_name(), "arithmetic": how.arithmetic, "profiles": profiles, "halves": cut, "growth": grown},
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
