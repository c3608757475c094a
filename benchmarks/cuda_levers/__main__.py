"""What each lever of the decode program is worth on a GPU, at the shapes of the 4B guard.

    python -m benchmarks.cuda_levers --out build/cuda_levers.json

Random weights in the published shapes, the torch forward of the local engine, no server, no tokenizer: nothing here is
a verdict of the guard, and nothing is TensorRT-LLM. Each way to do the same work is captured as CUDA graphs, so that no
Python runs between kernels, and both are replayed in turn; the ratio is that of the medians, time without the lever
over time with it. Where an answer is decoded token by token, keys and values lie where each step needs them, for free.

Before that both ways are computed once in float32, where they must come to the same margins: exit 1 where they don't.
How far bfloat16 and FP8 are from float32 is printed beside it, and what a pass takes in both, with its share of the
largest rate of products that this GPU was seen to reach. Needs torch, 40 GB of the GPU's memory and some minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tritonguard.errors import BundleError

from benchmarks.cuda_levers.clock import SQUARE, medians_ms, on_gpu, peaks
from benchmarks.cuda_levers.figures import Measured, apart, passes, roundings, tables
from benchmarks.cuda_levers.guard import Fp8Linear, Guard
from benchmarks.cuda_levers.ways import Ways
from benchmarks.real_size import GEMMA_4B
from benchmarks.report import origin, write_json

APART = 1e-3
"""Of two ways' margins in float32."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cuda_levers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, help="a config.json with other shapes than the 4B guard's")
    parser.add_argument("--device", default="cuda", help="cpu: for a small --config, to see that it runs (%(default)s)")
    parser.add_argument("--batches", default="1,8,32", help="of the levers (%(default)s)")
    parser.add_argument("--passes", default="1,2,4,8,16,32,64", help="batches of the passes (%(default)s)")
    parser.add_argument("--rounds", type=int, default=21, help="(%(default)s)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(arguments)
    if args.rounds < 1:
        parser.error("--rounds: at least one")
    if args.device == "cuda" and not torch.cuda.is_available():
        print("cuda_levers: torch finds no GPU here", file=sys.stderr)
        return 2
    try:
        batches, of_passes = ([int(each) for each in some.split(",")] for some in (args.batches, args.passes))
        config = json.loads(args.config.read_text()) if args.config else GEMMA_4B
        exact = Guard.random(config, torch.device(args.device))
    except (BundleError, OSError, ValueError) as error:
        print(f"cuda_levers: {error}", file=sys.stderr)
        return 2
    about = origin(
        "benchmarks.cuda_levers", arguments, precision="random weights", revision=f"torch {torch.__version__}"
    )
    about["GPU"] = torch.cuda.get_device_name() if on_gpu(exact.device) else "no GPU"
    with torch.inference_mode():
        levers = _report(exact, batches, of_passes, args.rounds, about, args.out)
    wrong = [one for one in levers if not one.apart <= APART]
    for one in wrong:
        print(f"cuda_levers: {one.name}, {one.batch}: the two ways are {one.apart:.1e} apart", file=sys.stderr)
    return 1 if wrong else 0


def _report(
    exact: Guard,
    batches: Sequence[int],
    of_passes: Sequence[int],
    rounds: int,
    about: dict[str, str],
    out: Path | None,
) -> list[Measured]:
    most = max(*batches, *of_passes)
    _say("both ways of every lever, in float32")
    differences = [apart(lever) for lever in Ways(exact, max(batches)).levers(batches)]
    bf16 = exact.to(torch.bfloat16)
    ways = Ways(bf16, most)
    fp8 = replace(bf16, linear=Fp8Linear.observed(bf16, ways.texts, ways.behind_policy))
    _say("rounding")
    rounded = roundings(exact, {"bf16": bf16, "fp8": fp8, "fp8-kv": fp8}, ways.texts[: max(batches)], ways.policy)
    levers = []
    for lever, difference in zip(ways.levers(batches), differences, strict=True):
        _say(f"{lever.name}, {lever.batch}")
        without, having = medians_ms([lever.without(), lever.having()], rounds, exact.device)
        levers.append(Measured(lever.name, lever.batch, without, having, difference))
        if on_gpu(exact.device):
            torch.cuda.empty_cache()
    _say("passes")
    peak = peaks(rounds, exact.device)
    taken = passes(ways, Ways(fp8, most), exact.config, of_passes, rounds, peak)
    rates = ", ".join(f"{name} {value / 1e12:.0f}" for name, value in peak.items())
    print(", ".join(about.values()), f"10^12 operations/s of a product of {SQUARE} rows: {rates}", sep="\n")
    print("", tables(levers, taken, rounded), sep="\n")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        ratios = [{**vars(one), "ratio": one.ratio} for one in levers]
        write_json(out, {**about, "peaks": peak, "levers": ratios, "passes": taken, "roundings": rounded})
    return levers


def _say(what: str) -> None:
    print(f"cuda_levers: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
