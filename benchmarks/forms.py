"""From adapter and base to every form of the numbers, each judged against float32: `make build-demo`.

    python -m benchmarks.forms --pool ../shared/data/train_pool --rows 300

base + adapter -> merge -> quantize and compile each form -> held-out prompts of twelve languages through all of them
-> one table: bytes, milliseconds of a pass over 1 and 8 short requests, requests per second, verdicts that moved, drift
of the margin, KL at the choice, F1, and what the parity gate says. Times are medians of rounds in which the forms take
turns. Exit status 1 where the int8 form that ships misses a bar, or the gate lets everything through.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonguard.errors import GuardError

from benchmarks.held_out import load_split, parity_rows
from benchmarks.report import Bar, markdown, write_json
from build_scripts import embedded_checkpoint, merge_lora
from build_scripts.openvino.compile import compile_bundle
from build_scripts.openvino.pass_times import Form, pass_times
from build_scripts.openvino.profiles import PROFILES
from build_scripts.openvino.quantize import quantize
from build_scripts.parity_bootstrap import Interval, bootstrap
from build_scripts.parity_corpus import CorpusError, Row, read_corpus
from build_scripts.parity_figures import Figures, Pair, groups_of, pairs_of
from build_scripts.parity_gate import Finding, judge, load_profile, passed
from build_scripts.parity_plot import plot
from build_scripts.parity_reading import EXACT_MARGINS, Reading
from build_scripts.parity_run import followed, read_all
from build_scripts.parity_sides import BundleSide
from build_scripts.progress import Steps
from build_scripts.ship import INT8, REFERENCE
from engines.local.runtime import cpu_name, has_amx, multiplies_int8, native_precisions

_WHERE = {"int8-dynamic-gptq": False, "int8-mlp-smooth": has_amx(), "int8-rotated": not multiplies_int8()}
DEFAULT = [name for name in PROFILES if _WHERE.get(name, True)]
"""Rounding by inputs takes minutes and gained nothing on the embedded checkpoint; int8 in the MLPs alone is for AMX,
and rotated int8 for CPUs without VNNI."""
BATCHES = (1, 8)
ROUNDS = 7
LEAST_OVER_BF16, LEAST_OVER_F32 = 1.25, 2.2
LEAST_WITHOUT_VNNI = 1.2
"""Over float32, where products of int8 take half of the instructions at best and everything else stays."""
LEAST_REFUSED = 2
BF16 = "bf16"


@dataclass(frozen=True)
class Measured:
    """One form. pass_ms: by batch. findings: of the gate, against the reference; () for the reference itself."""

    name: str
    bundle: Path
    megabytes: float
    pass_ms: Mapping[int, float]
    figures: Figures
    findings: Sequence[Finding] = ()
    intervals: Mapping[str, Interval] | None = None

    @property
    def rate(self) -> float:
        """Requests per second, of batches of 8."""
        return 8e3 / self.pass_ms[8]

    @property
    def gate(self) -> str:
        if not self.findings:
            return "reference"
        missed = [finding.figure for finding in self.findings if finding.met is False]
        return "REFUSED: " + ", ".join(dict.fromkeys(missed)) if missed else "passed"


def build(adapter: Path, folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """{form: bundle} from the embedded base and the adapter. Each step is kept while its inputs are the same."""
    base, merged = folder / "base", folder / "merged"
    for main, arguments in (
        (embedded_checkpoint.main, ["--out", str(base)]),
        (merge_lora.main, ["--base", str(base), "--adapter", str(adapter), "--out", str(merged)]),
    ):
        if main(arguments):
            raise SystemExit(2)
    bundles = {}
    stored = quantize(merged, folder / "forms/graphs" / REFERENCE, PROFILES[REFERENCE])
    for name in names:
        profile = PROFILES[name]
        graph = stored if profile.weights == "stored" else quantize(merged, folder / "forms/graphs" / name, profile)
        bundles[name] = compile_bundle(merged, folder / "forms" / name, quantized=graph, precision=profile.arithmetic)
    return bundles


def read(bundle: Path, rows: Sequence[Row]) -> list[Reading]:
    """All rows on the bundle's own engine, in batches of 8."""
    with closing(BundleSide.load(bundle)) as side:
        return read_all(side, rows, 8, followed)


def table(measured: Sequence[Measured]) -> str:
    head = ("form", "MB", "pass of 1, ms", "pass of 8, ms", "req/s", "flips", "of low margin", "drift", "of sd", "KL")
    return markdown(
        (*head, "F1", "gate"),
        [
            (
                one.name,
                f"{one.megabytes:.0f}",
                f"{one.pass_ms[1]:.0f}",
                f"{one.pass_ms[8]:.0f}",
                f"{one.rate:.1f}",
                f"{one.figures.flips} ({100 * one.figures.flip_share:.2f} %)",
                f"{one.figures.low_flips}/{one.figures.low_rows}",
                one.figures.drift_mean,
                f"{100 * one.figures.drift_share:.1f} %",
                f"{one.figures.kl_mean:.4f}",
                one.figures.f1_b,
                one.gate,
            )
            for one in measured
        ],
    )


def interval_table(measured: Sequence[Measured]) -> str:
    names = ("flip_share", "low_flip_share", "drift_mean", "drift_share")
    return markdown(
        ("95 % intervals", *names),
        [
            (one.name, *(f"{one.intervals[name].low:.4f} to {one.intervals[name].high:.4f}" for name in names))
            for one in measured
            if one.intervals
        ],
    )


def bars(measured: Mapping[str, Measured], *, vnni: bool) -> list[Bar]:
    """Of the form that ships, and of the gate. As `ship` has it, that is the one whose pass of one request is fastest:
    not every CPU multiplies int8 faster than bfloat16, or bfloat16 at all. vnni: of this CPU (`multiplies_int8`)."""
    f32, bf16 = measured[REFERENCE], measured.get(BF16)
    ships = min((one for one in (measured[INT8], bf16, f32) if one), key=lambda one: one.pass_ms[1])
    found = [Bar(f"{ships.name}: limits missed", sum(one.met is False for one in ships.findings), most=0)]
    for other, least in ((f32, LEAST_OVER_F32 if vnni else LEAST_WITHOUT_VNNI), (bf16, LEAST_OVER_BF16)):
        if other and ships not in (f32, other):
            name = f"{ships.name}: times the throughput of {other.name}, batches of 8"
            found.append(Bar(name, ships.rate / other.rate, least=least))
    refused = sum(bool(one.findings) and not passed(list(one.findings)) for one in measured.values())
    return [*found, Bar("forms that the gate refuses", refused, least=LEAST_REFUSED)]


def _measured(
    bundles: Mapping[str, Path],
    readings: Mapping[str, Sequence[Reading]],
    times: Mapping[str, Mapping[int, float]],
    rows: Sequence[Row],
    draws: int,
) -> dict[str, tuple[Measured, list[Pair]]]:
    profile = load_profile("default")
    found = {}
    for name, bundle in bundles.items():
        pairs = pairs_of(rows, readings[REFERENCE], readings[name], limit=EXACT_MARGINS)
        groups = {key: Figures.of(group) for key, group in groups_of(pairs).items()}
        megabytes = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()) / 1e6
        is_reference = name == REFERENCE
        findings = () if is_reference else judge(profile, groups)
        intervals = None if is_reference else bootstrap(pairs, draws=draws, seed=0)
        one = Measured(name, bundle, megabytes, times[name], groups["all", "all"], findings, intervals)
        found[name] = (one, pairs)
    return found


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    if not {REFERENCE, INT8} <= set(args.forms):
        parser.error(f"--forms: {REFERENCE} and {INT8} are always among them")
    native = (None, *native_precisions())
    names = [name for name in args.forms if PROFILES[name].arithmetic in native]
    try:
        if args.pool.is_dir():
            rows, corpus = parity_rows(load_split(args.pool, args.adapter), args.rows), "held-out prompts of the pool"
        else:
            rows, corpus = read_corpus(), "prompts of this release"
            print(f"no pool at {args.pool}: the {len(rows)} {corpus} are too few for the gate of a release")
        bundles = build(args.adapter, args.build, names)
        steps = Steps("build-demo", total=2 + len(names))
        readings = {}
        for name in names:
            steps.next(f"{len(rows)} prompts through {name}")
            readings[name] = read(bundles[name], rows)
        steps.next(f"{ROUNDS} rounds of passes, {len(names)} forms in turn")
        forms = {name: Form.of(folder) for name, folder in bundles.items()}
        times = pass_times(forms, batches=BATCHES, rounds=ROUNDS)
    except (GuardError, CorpusError, ValueError, OSError) as error:
        print(f"build-demo: {error}", file=sys.stderr)
        return 2
    found = _measured(bundles, readings, times, rows, args.bootstrap)
    measured = {name: one for name, (one, _) in found.items()}
    languages = len({row.language for row in rows})
    print(
        f"\n{len(rows)} {corpus}, {languages} languages, against {REFERENCE}; {cpu_name()}, {datetime.date.today()}\n"
    )
    print(table(list(measured.values())))
    if args.bootstrap:
        print("\n" + interval_table(list(measured.values())))
    reached = bars(measured, vnni=multiplies_int8())
    print("\n" + "\n".join(f"- {bar}" for bar in reached))
    _write(args.out, measured, reached, corpus, len(rows))
    plot_path = args.out.with_suffix(".svg")
    plot_path.write_text(plot(found[INT8][1], a=REFERENCE, b=INT8), encoding="utf-8")
    print(f"\nwritten: {args.out}, {plot_path} (margins of {INT8} over those of {REFERENCE})")
    return 0 if all(bar.met for bar in reached) else 1


def _write(path: Path, measured: Mapping[str, Measured], reached: Sequence[Bar], corpus: str, rows: int) -> None:
    values: dict[str, Any] = {
        "cpu": cpu_name(),
        "date": str(datetime.date.today()),
        "corpus": corpus,
        "rows": rows,
        "bars": [str(bar) for bar in reached],
        "forms": {
            name: {
                "megabytes": one.megabytes,
                "pass_ms": one.pass_ms,
                "figures": one.figures,
                "gate": one.gate,
                "findings": [str(finding) for finding in one.findings],
                "intervals": one.intervals,
            }
            for name, one in measured.items()
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.forms", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--pool", type=Path, default=Path("../shared/data/train_pool"), help="folder of the training pool (%(default)s)"
    )
    add(
        "--adapter", type=Path, default=Path("adapters/embedded"), help="adapter, whose split is held out (%(default)s)"
    )
    add("--build", type=Path, default=Path("build"), help="folder for all that is built (%(default)s)")
    add("--rows", type=int, default=300, help="held-out prompts, alike of each language (%(default)s)")
    add("--forms", nargs="+", choices=tuple(PROFILES), default=DEFAULT, help="of them (all but gptq)")
    add("--bootstrap", type=int, default=0, metavar="N", help="draws for 95%% intervals of flips and drift (none)")
    add("--out", type=Path, default=Path("build/forms.json"), help="figures as JSON, a plot beside it (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
