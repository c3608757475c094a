"""How far inputs are to be moved into the weights before both are rounded to int8, and by which size of a channel.

    python -m benchmarks.smoothing --profile int8-mlp-smooth

For each kind of linear layer of a form, each alpha of SmoothQuant's formula and each size of a channel (its largest
value, as in the paper, and its root mean square): how far the products of rounded inputs and rounded weights are from
the exact ones, as a share of their size. Tokens are of the shipped calibration prompts, one half for the sizes and the
other to be judged by. The rounding is that of the form: a scale a row of weights, and one for each group of a token's
inputs.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tritonguard.errors import GuardError

from benchmarks.report import markdown, write_json
from build_scripts import calibration
from build_scripts.openvino.layer_inputs import folded
from build_scripts.openvino.profiles import PROFILES, Profile
from build_scripts.openvino.quantize import calibration_inputs, linear_layers
from build_scripts.openvino.smoothing import Smoothing
from build_scripts.progress import Steps
from engines.checkpoint import Checkpoint, FloatArray
from engines.local.forward_openvino import build_graph
from engines.local.graph_nodes import float_rows, int8_matrix
from engines.local.runtime import cpu_name

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
TOKENS = 48
"""Of each prompt, drawn at random."""
_NOT = "none"
SIZES: dict[str, Callable[[FloatArray], FloatArray]] = {
    "largest": lambda inputs: np.abs(inputs).max(0),
    "rms": lambda inputs: np.sqrt(np.square(inputs).mean(0)),
}


def in_groups(values: FloatArray, group: int) -> FloatArray:
    """[rows, columns] to 255 steps, symmetric, a scale for each `group` columns of a row; the end of a row is one as
    well."""
    found = np.empty_like(values)
    for start in range(0, values.shape[1], group):
        part = values[:, start : start + group]
        scale = np.maximum(np.abs(part).max(1, keepdims=True), 1e-30) / 127
        found[:, start : start + group] = np.rint(part / scale) * scale
    return found


def moved(exact: FloatArray, inputs: FloatArray, weights: FloatArray, group: int, *, symmetric: bool) -> float:
    """Root mean square of what rounding does to the products, over that of the products. symmetric: the weights have no
    zero points."""
    matrix = int8_matrix(weights, symmetric=symmetric)
    zeros = 0 if matrix.zeros is None else matrix.zeros.astype(np.float32)
    products = in_groups(inputs, min(group, inputs.shape[1])) @ ((matrix.values - zeros) * matrix.scales).T
    return float(np.sqrt(np.square(products - exact).mean() / np.square(exact).mean()))


def measure(checkpoint: Path, profile: Profile, alphas: Sequence[float], prompts: int) -> dict[str, dict[str, float]]:
    """{"down_proj, rms": {alpha as text: mean over the layers}}; _NOT: not smoothed."""
    opened = Checkpoint.open(checkpoint)
    layers = [name for name in linear_layers(opened) if profile.is_int8(name)]
    generator = np.random.default_rng(0)

    def drawn(before: FloatArray | None, seen: FloatArray) -> FloatArray:
        some = seen[generator.choice(len(seen), min(TOKENS, len(seen)), replace=False)]
        return some if before is None else np.concatenate([before, some])

    steps = Steps("smoothing", total=2)
    steps.next(f"{prompts} calibration prompts through the float graph")
    asked = calibration_inputs(checkpoint, opened, calibration.draw(count=prompts))
    inputs, _ = folded(build_graph(opened), layers, asked, drawn)
    steps.next(f"rounding {len(layers)} layers, {len(SIZES) * len(alphas)} ways and not smoothed")
    ways = {(size, _NOT): Smoothing() for size in SIZES}
    for size, of in SIZES.items():
        sizes = {name: of(each[: len(each) // 2]) for name, each in inputs.items()}
        ways |= {(size, f"{alpha:g}"): Smoothing.of(opened, sizes, alpha) for alpha in alphas}
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name in steps.track(layers, total=len(layers)):
        judged = inputs[name][len(inputs[name]) // 2 :]
        weights = float_rows(opened.stored(f"{name}.weight"))
        exact = judged @ weights.T
        for (size, way), smoothing in ways.items():
            factors = smoothing.columns.get(name, np.ones(weights.shape[1], np.float32))
            rounded = judged / factors, weights * factors, profile.dynamic_group
            share = moved(exact, *rounded, symmetric=profile.symmetric)
            found[f"{name.rsplit('.', 1)[1]}, {size}"][way].append(share)
    return {kind: {alpha: float(np.mean(each)) for alpha, each in row.items()} for kind, row in sorted(found.items())}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.smoothing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    smooth = tuple(name for name, profile in PROFILES.items() if profile.smooth)
    parser.add_argument("--profile", choices=smooth, default=smooth[0], help="form, whose layers and groups count")
    parser.add_argument("--checkpoint", type=Path, default=Path("build/merged"), help="merged checkpoint (%(default)s)")
    parser.add_argument("--alphas", type=float, nargs="+", default=ALPHAS, help="0 to 1 (0.3 to 0.9)")
    parser.add_argument("--prompts", type=int, default=calibration.DEFAULT_ROWS, help="of calibration (%(default)s)")
    parser.add_argument("--keep-float", action="append", default=None, metavar="PATTERN", help="in the form's place")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args(argv)
    profile = PROFILES[args.profile]
    if args.keep_float is not None:
        profile = replace(profile, float_layers=tuple(args.keep_float))
    try:
        found = measure(args.checkpoint, profile, args.alphas, args.prompts)
    except (GuardError, ValueError, OSError) as error:
        print(f"smoothing: {error}", file=sys.stderr)
        return 2
    alphas = list(next(iter(found.values())))
    print(f"\n{args.profile}, {args.prompts} prompts; {cpu_name()}, {datetime.date.today()}\n")
    print(
        markdown(
            ("products moved by", *alphas), [(kind, *(f"{row[a]:.2%}" for a in alphas)) for kind, row in found.items()]
        )
    )
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.out, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
