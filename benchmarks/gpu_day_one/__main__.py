"""The first hour on a GPU, in one command.

    python -m benchmarks.gpu_day_one --bundle build/bundle --reference build/bundle-bf16

What this release assumes of TensorRT-LLM 1.2.1 stands in tests/tensorrt_llm_double/behaviour.json, with where it comes
from. Most of it was read in the package's source, some of it is a guess, and none of it was seen on a GPU. This command
asks the package itself, on your machine, and says for each assumption whether it holds and, where it does not, what to
do. It takes about half an hour, and less where kernels are compiled already:

  1  preflight: can this machine run this bundle at all? Every problem with its remedy, before anything is loaded
  2  the package as it is served: token ids and images, log-probabilities, limits, errors, abort
  3  a second start (are its kernels found?), with the overlap scheduler the other way round
  4  CUDA graphs: are the answers the same, in batches of 4 and more?
  5  guided decoding with xgrammar
  6  parity with --reference (a bf16 bundle) on the shipped prompts; the two are never loaded side by side
  7  latency: verdict, pair, image, categories and think, 1, 8 and 32 at once
  8  last, in a process of its own, what may end the executor: a batch where only some ask for log-probabilities

Each engine lives in a process of its own; one that dies or hangs is an answer, and the next one goes on. The prompts
are the examples of this release: no text of yours is read or written.

The recording (--record FOLDER) holds every answer, reply and error, with versions and hardware, and a report for people
beside it. Take it to a checkout of the source and run

    python -m benchmarks.gpu_day_one --apply FOLDER/recording.json

there: it replaces what the double assumes, and fills in the table of GPU statements in README.md and docs/gpu.md. Only
a recording of the real package on a GPU is taken. Then run the tests: what they say is what the engine has to learn.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tritonguard.errors import GuardError

from benchmarks.gpu_day_one import origin
from benchmarks.gpu_day_one.apart import Broken, apart
from benchmarks.gpu_day_one.apply import apply, render
from benchmarks.gpu_day_one.day import STEPS, Day, Run, run_day
from benchmarks.gpu_day_one.findings import SHIPPED, Behaviour, BehaviourError, Comparison, compare, read_behaviour
from benchmarks.gpu_day_one.recording import Recording, behaviours_of, observed_of
from benchmarks.gpu_day_one.report import report, summary, to_fix
from benchmarks.gpu_day_one.statements import ROOT
from build_scripts.parity_report import to_json
from build_scripts.progress import Steps
from engines.bundle import TENSORRT_LLM, Bundle
from engines.tensorrt_llm.engine_config import EngineConfig
from engines.tensorrt_llm.machine import Machine, read_machine
from engines.tensorrt_llm.preflight import Finding as Looked
from engines.tensorrt_llm.preflight import check_machine

AS_ASSUMED, DIFFERS, CANNOT_RUN, INTERRUPTED = 0, 1, 2, 130
RECORDING, REPORT = "recording.json", "report.md"


def main(argv: Sequence[str] | None = None, *, run: Run = apart) -> int:
    """run: how a process of the day is started."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        if args.apply is not None:
            print("\n".join(apply(args.apply, ROOT)))
            return AS_ASSUMED
        if args.render:
            print("\n".join(render(ROOT)))
            return AS_ASSUMED
        if args.bundle is None:
            parser.error("--bundle is needed")
        return _day(args, run)
    except (GuardError, BehaviourError, Broken, OSError) as error:
        print(f"gpu_day_one: {error}", file=sys.stderr)
        return CANNOT_RUN
    except KeyboardInterrupt:
        print("gpu_day_one: interrupted; nothing is recorded", file=sys.stderr)
        return INTERRUPTED


def _day(args: argparse.Namespace, run: Run) -> int:
    assumed = read_behaviour(args.behaviour)
    steps = Steps("gpu_day_one", total=1 + STEPS)
    steps.next(f"preflight: {args.bundle}")
    bundle, machine = _checked(args.bundle), read_machine()
    looked = check_machine(bundle.folder, bundle.manifest, EngineConfig.read(bundle.folder), machine)
    if args.reference is not None:
        _checked(args.reference)
    print(*map(_line, looked), sep="\n", file=sys.stderr)
    if not all(finding.ok for finding in looked):
        print("gpu_day_one: mend this first; nothing was loaded", file=sys.stderr)
        return CANNOT_RUN
    gpu = None if machine.gpu is None else machine.gpu.name
    day = run_day(
        bundle.folder,
        args.reference,
        gpu=gpu,
        precision=bundle.precision,
        seconds=args.seconds,
        steps=steps,
        run=run,
    )
    comparisons = compare(day.findings, assumed)
    recording = recorded(day, comparisons, assumed, bundle, machine, _command(args))
    recording.write(args.record / RECORDING)
    (args.record / REPORT).write_text(report(recording, comparisons, day), encoding="utf-8")
    print(f"\n{summary(comparisons)}\n")
    print("\n".join(line for one in comparisons for line in one.lines))
    print(f"\nwritten: {args.record / RECORDING}, {args.record / REPORT}")
    return AS_ASSUMED if all(one.is_as_assumed for one in comparisons) else DIFFERS


def recorded(
    day: Day,
    comparisons: Sequence[Comparison],
    assumed: Behaviour,
    bundle: Bundle,
    machine: Machine,
    command: str,
) -> Recording:
    """Everything that the day found; its evidence is that of the first start's package."""
    told = [one for one in day.findings if one.value is not None]
    head = Recording(
        evidence=day.start.evidence,
        date=datetime.date.today().isoformat(),
        command=command,
        hardware=origin.hardware(machine),
        versions=day.start.versions,
        bundle={"precision": bundle.precision, "revision": bundle.revision, "model_revision": bundle.model_revision},
    )
    return head.holding(
        behaviours=behaviours_of(told, assumed, evidence=head.evidence, source=head.source),
        observed=observed_of(day.findings),
        measured=_measured(day),
        statements={one.statement: one.says for one in told if one.statement is not None},
        differences=to_fix(comparisons),
    )


def _measured(day: Day) -> dict[str, Any]:
    ours = day.served
    return {
        "load_s": day.start.load_s,
        "first_request_s": day.start.first_s,
        "engine_load_s": None if ours is None else ours.load_s,
        "latency": [] if ours is None else [asdict(one) for one in ours.loads],
        "statistics": {} if ours is None else ours.statistics,
        "parity": None if ours is None or ours.report is None else to_json(ours.report),
    }


def _checked(folder: Path) -> Bundle:
    """Raises BundleError: damaged, or for another engine."""
    bundle = Bundle.open(folder)
    if bundle.target != TENSORRT_LLM:
        raise BehaviourError(f"{folder} is a bundle for {bundle.target}: compile one with --target {TENSORRT_LLM}")
    return bundle


def _line(finding: Looked) -> str:
    if finding.ok:
        return f"  ok  {finding.name}: {finding.found}"
    return f"  NO  {finding.name}: {finding.problem}\n      what to do: {finding.remedy}"


def _command(args: argparse.Namespace) -> str:
    """Without the folders of this machine: their names say what was asked."""
    reference = "" if args.reference is None else f" --reference {args.reference.name}"
    return f"python -m benchmarks.gpu_day_one --bundle {args.bundle.name}{reference}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_day_one",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit status: 0 all is as assumed, 1 something is not (recorded), 2 it could not be run (preflight).",
    )
    add = parser.add_argument
    add("--bundle", type=Path, help="bundle for tensorrt-llm that is to be served")
    add("--reference", type=Path, metavar="BUNDLE", help="bf16 bundle of the same checkpoint; without it no parity")
    add("--record", type=Path, default=Path("build/gpu_day_one"), metavar="FOLDER", help="to write to (%(default)s)")
    add("--seconds", type=float, default=12.0, help="for each row of the latency table (%(default)s)")
    add("--behaviour", type=Path, default=SHIPPED, metavar="FILE", help="what is assumed (this release's)")
    add("--apply", type=Path, metavar="RECORDING", help="take a recording up in this checkout; runs nothing")
    add("--render", action="store_true", help="write the tables from docs/gpu_statements.json; runs nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
