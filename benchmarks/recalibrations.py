"""What calibration alone moves: one form, calibrated again and again with other seeds, each against float32.

    python -m benchmarks.recalibrations --form int8-dynamic-gptq --count 5 --pool ../shared/data/train_pool

Each recalibration draws other rows of the calibration file. The reports are written in the form of
`build_scripts.parity --json`, of held-out prompts and of the prompts of this release, and the limits that
`build_scripts.parity_limits` sets from them are printed: this is where the figures of
build_scripts/parity_thresholds.yaml come from, `default` and `smoke`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from tritonguard.errors import GuardError

from benchmarks.held_out import load_split, parity_rows
from benchmarks.report import markdown
from build_scripts import calibration, parity_corpus, parity_limits
from build_scripts.openvino.compile import compile_bundle
from build_scripts.openvino.profiles import PROFILES
from build_scripts.openvino.quantize import quantize
from build_scripts.parity import compare
from build_scripts.parity_corpus import CorpusError, Row, read_corpus
from build_scripts.parity_gate import load_profile
from build_scripts.parity_limits import CeilingError, LimitsError, Recalibration, limits_of
from build_scripts.parity_reading import Reading, Side
from build_scripts.parity_report import to_json
from build_scripts.parity_sides import BundleSide
from build_scripts.progress import Steps
from engines.manifest import sha256_file

LEAST_ROWS, LEAST_GROUP_ROWS = 300, 80
"""Of a held-out corpus that may be judged, and of a language in it; of the prompts of this release, all."""
CEILINGS = {"flip_share": 0.01, "low_flip_share": 0.10, "drift_share": 0.04, "f1_distance": 0.005}
"""The bars of what ships: no recalibration may pass them, and no limit is looser."""


class Remembered:
    """A side that runs each row once: the reference is the same for every recalibration."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._known: dict[str, Reading] = {}
        self.margin_limit = side.margin_limit
        self.name, self.taxonomy, self.describe = side.name, side.taxonomy, side.describe
        self.prompt_ids, self.close = side.prompt_ids, side.close

    def read(self, rows: Sequence[Row]) -> list[Reading]:
        new = [row for row in rows if row.id not in self._known]
        self._known.update(zip((row.id for row in new), self._side.read(new) if new else [], strict=True))
        return [self._known[row.id] for row in rows]


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    form = PROFILES[args.form]
    steps = Steps("recalibrations", total=1 + args.count)
    try:
        rows = parity_rows(load_split(args.pool, args.adapter), args.rows)
        sha256 = hashlib.sha256(json.dumps([[row.id, row.request.prompt] for row in rows]).encode()).hexdigest()
        corpora = {
            "default": (rows, "held-out prompts", sha256),
            "smoke": (read_corpus(), parity_corpus.SHIPPED.name, sha256_file(parity_corpus.SHIPPED)),
        }
        args.out.mkdir(parents=True, exist_ok=True)
        reports: dict[str, list[Recalibration]] = {name: [] for name in corpora}
        steps.next(f"{len(rows)} held-out prompts, {args.reference} against {args.count} recalibrations")
        with closing(Remembered(BundleSide.load(args.reference))) as reference:
            a: Side = reference
            for seed in range(args.first_seed, args.first_seed + args.count):
                steps.next(f"{form.name}, seed {seed}")
                drawn = calibration.draw(args.calibration, count=args.calibration_rows, seed=seed)
                graph = quantize(args.checkpoint, args.out / "graph", form, calibrated_on=drawn)
                bundle = compile_bundle(args.checkpoint, args.out / "bundle", quantized=graph, precision=args.precision)
                with closing(BundleSide.load(bundle)) as b:
                    for name, (asked, corpus, digest) in corpora.items():
                        report = compare(a, b, asked, load_profile(name), corpus=corpus, sha256=digest)
                        path = args.out / f"{form.name}-{seed}-{name}.json"
                        path.write_text(to_json(report), encoding="utf-8")
                        reports[name].append(Recalibration.parse(path.read_text(encoding="utf-8"), path.name))
                        whole = reports[name][-1].whole
                        drift = f"drift {100 * whole.drift_share:.2f} % of the spread"
                        print(f"  seed {seed}, {corpus}: {whole.flips} flips, {drift}", flush=True)
    except (GuardError, CorpusError, LimitsError, ValueError, OSError) as error:
        print(f"recalibrations: {error}", file=sys.stderr)
        return 2
    figures = tuple(parity_limits.JUDGED)
    for name, found in reports.items():
        told = [(one.name, *(getattr(one.whole, figure) for figure in figures)) for one in found]
        print(f"\n{markdown((name, *figures), told)}")
    try:
        default = limits_of(
            reports["default"],
            "default",
            ceilings=CEILINGS,
            least_rows=LEAST_ROWS,
            least_group_rows=LEAST_GROUP_ROWS,
        )
        smoke = limits_of(reports["smoke"], "smoke", least_group_rows=len(corpora["smoke"][0]))
    except (LimitsError, CeilingError) as error:
        print(f"recalibrations: {error}", file=sys.stderr)
        return 1
    for profile in (default, smoke):
        print("\n" + parity_limits.to_yaml(profile, reports[profile.name]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recalibrations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--form", choices=[name for name, form in PROFILES.items() if form.is_calibrated], default="int8-dynamic-gptq")
    add("--count", type=int, default=5, help="recalibrations (%(default)s)")
    add("--first-seed", type=int, default=0, help="of the first; the others follow it (%(default)s)")
    add("--pool", type=Path, required=True, help="folder of the training pool")
    add("--adapter", type=Path, default=Path("adapters/embedded"), help="whose split is held out (%(default)s)")
    add("--checkpoint", type=Path, default=Path("build/merged"), help="merged checkpoint (%(default)s)")
    add("--reference", type=Path, default=Path("build/forms/f32"), help="its float32 bundle (%(default)s)")
    add("--precision", help="of the arithmetic: f32 or bf16 (measured)")
    add("--rows", type=int, default=300, help="held-out prompts (%(default)s)")
    add("--calibration", type=Path, default=calibration.SHIPPED, help="JSONL of prompts (those of this release)")
    add("--calibration-rows", type=int, default=48, help="drawn for each recalibration (%(default)s)")
    add("--out", type=Path, default=Path("build/recalibrations"), help="folder for reports and bundles (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
