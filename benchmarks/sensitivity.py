"""Which layers pay for int8: one group of layers at a time is quantized, the rest stays float.

    python -m benchmarks.sensitivity --pool ../shared/data/train_pool --adapter adapters/embedded --rows 240

For each group (the seven kinds of linear layers, and each third of the depth) and each form of the numbers: drift of
the margin against float32, flips, and KL at the choice, on held-out prompts of twelve languages. A group whose drift
is far above its share of the weights is a candidate for `float_layers` of `build_scripts/openvino/profiles.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from tritonguard.errors import GuardError

from benchmarks.held_out import load_split, parity_rows
from benchmarks.report import markdown, write_json
from build_scripts.parity_corpus import Row
from build_scripts.parity_figures import Figures, pairs_of
from build_scripts.parity_reading import EXACT_MARGINS, Reading
from build_scripts.parity_run import read_all
from build_scripts.parity_sides import BundleSide
from build_scripts.progress import Steps
from engines.bundle import Bundle
from engines.checkpoint import Checkpoint
from engines.local.engine import LocalEngine
from engines.local.forward_openvino import build_graph
from engines.local.graph_nodes import Node, Stored, int8_matrix, weight
from engines.local.passes import Passes
from engines.local.runtime import Runtime

BATCH = 8
KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def groups(layers: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(name of the group, patterns of its layers): all, by kind, by depth."""
    yield "all", ("*",)
    for kind in KINDS:
        yield kind, (f"*.{kind}",)
    third = -(-layers // 3)
    for first in range(0, layers, third):
        numbers = range(first, min(first + third, layers))
        yield f"layers {numbers[0]}-{numbers[-1]}", tuple(f"layers.{number}.*" for number in numbers)


def read(
    bundle: Bundle,
    checkpoint: Checkpoint,
    rows: Sequence[Row],
    patterns: Sequence[str],
    *,
    symmetric: bool,
    group_size: int,
    arithmetic: str,
) -> list[Reading]:
    """The readings of a graph whose layers of these patterns have int8 weights."""

    def weights(name: str, stored: Stored) -> Node:
        chosen = any(fnmatchcase(name, pattern) for pattern in patterns)
        return int8_matrix(stored, symmetric=symmetric).node if chosen else weight(stored)

    runtime = Runtime(build_graph(checkpoint, weights), precision=arithmetic, group_size=group_size)
    image_token = Checkpoint.read_image_token(checkpoint.folder)
    passes = Passes(runtime, checkpoint.text_config, image_token=image_token)
    side = BundleSide(bundle, LocalEngine(passes, bundle.capabilities))
    return read_all(side, rows, BATCH)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sensitivity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pool", type=Path, required=True, help="folder of the training pool")
    parser.add_argument("--adapter", type=Path, default=Path("adapters/embedded"), help="whose split is held out")
    parser.add_argument("--checkpoint", type=Path, default=Path("build/merged"), help="merged checkpoint")
    parser.add_argument("--bundle", type=Path, default=Path("build/bundle"), help="for tokenizer and template")
    parser.add_argument("--rows", type=int, default=240, help="held-out prompts (%(default)s)")
    parser.add_argument("--group-sizes", type=int, nargs="+", default=[0, 64], help="0: inputs stay float (0 64)")
    parser.add_argument("--arithmetic", default="f32", help="of the rest (%(default)s: nothing else moves)")
    parser.add_argument("--symmetric", action="store_true", help="weights without a zero point")
    parser.add_argument("--only", nargs="+", metavar="GROUP", help="of: all, q_proj, .., 'layers 0-5', ..")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args(argv)
    try:
        rows = parity_rows(load_split(args.pool, args.adapter), args.rows)
        checkpoint, bundle = Checkpoint.open(args.checkpoint), Bundle.open(args.bundle)
    except (GuardError, ValueError, OSError) as error:
        print(f"sensitivity: {error}", file=sys.stderr)
        return 2
    every = list(groups(checkpoint.text_config.num_hidden_layers))
    all_names = [name for name, _ in every]
    named = [group for group in every if group[0] in (args.only or all_names)]
    if not named:
        parser.error(f"--only: no such group; there are {', '.join(all_names)}")
    steps = Steps("sensitivity", total=1 + len(named) * len(args.group_sizes))
    steps.next(f"{len(rows)} prompts in float32")
    reference = read(bundle, checkpoint, rows, (), symmetric=True, group_size=0, arithmetic="f32")
    table, figures = [], {}
    for name, patterns in named:
        for group_size in args.group_sizes:
            steps.next(f"int8 in {name}, inputs " + (f"in groups of {group_size}" if group_size else "float"))
            readings = read(
                bundle,
                checkpoint,
                rows,
                patterns,
                symmetric=args.symmetric,
                group_size=group_size,
                arithmetic=args.arithmetic,
            )
            one = Figures.of(pairs_of(rows, reference, readings, limit=EXACT_MARGINS))
            figures[f"{name}/{group_size}"] = one
            table.append((name, group_size, one.flips, one.low_flips, one.drift_mean, one.drift_p99, one.drift_share))
            print(f"  {table[-1]}", file=sys.stderr)
    print(markdown(("int8 in", "input group", "flips", "low flips", "drift mean", "p99", "drift / std"), table))
    if args.out:
        write_json(args.out, {"rows": len(rows), "symmetric": args.symmetric, "figures": figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
