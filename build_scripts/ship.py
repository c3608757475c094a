"""The bundle that is served: the fastest form of the checkpoint on this machine whose verdicts are still its own.

    python -m build_scripts.ship --checkpoint build/merged --out build/bundle

Every form (int8-dynamic-smooth, or int8-rotated on a CPU without VNNI; bf16 where the CPU multiplies it; f32) is
compiled under build/forms and timed here, in turn. The fastest goes through the smoke gate: the 64 prompts of this
release against f32, with the limits of build_scripts/parity_thresholds.yaml. One that the gate refuses is not served;
the next is tried, down to f32.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from tritonguard.errors import BundleError

from build_scripts import parity_corpus, parity_gate
from build_scripts.answers import MAX_TOKENS
from build_scripts.exit_status import exit_status
from build_scripts.folders import finished_folder, link_or_copy, plain_file_errors, remove_partial
from build_scripts.openvino.compile import compile_bundle
from build_scripts.openvino.pass_times import Form, pass_times
from build_scripts.openvino.profiles import PROFILES
from build_scripts.openvino.quantize import quantize
from build_scripts.parity import SHIPPED_PROFILE, compare
from build_scripts.parity_corpus import CorpusError, read_corpus
from build_scripts.parity_gate import ThresholdsError, load_profile
from build_scripts.parity_reading import SideError
from build_scripts.parity_report import Report
from build_scripts.parity_sides import BundleSide
from build_scripts.progress import Steps
from engines.local.runtime import multiplies_int8, native_precisions
from engines.manifest import NAME, extra_of, is_current, read_manifest, sha256_file, write_manifest

REFERENCE = "f32"
INT8 = "int8-dynamic-smooth" if multiplies_int8() else "int8-rotated"
"""For this CPU: without VNNI, OpenVINO leaves the inputs of int8 weights float."""


@plain_file_errors()
def ship(checkpoint: Path, out: Path, *, forms: Path, max_tokens: int = MAX_TOKENS, force: bool = False) -> Path:
    """Write the bundle to `out` (kept if its manifest still matches). forms: folder for every form's own bundle.

    Raises BundleError, and leaves `out` as it was: `quantize` or `compile` refuses, not even float32 gives a verdict on
    every prompt, or a file can't be read or written. Forms that were finished are kept.
    """
    bundles = compile_forms(checkpoint, forms, max_tokens=max_tokens, force=force)
    inputs = {
        "checkpoint_revision": read_manifest(checkpoint)["revision"],
        # Their manifests, not their revisions: limits and machine are in no file that a revision covers.
        "forms": {name: sha256_file(folder / NAME) for name, folder in bundles.items()},
        "corpus_sha256": sha256_file(parity_corpus.SHIPPED),
        "thresholds_sha256": sha256_file(parity_gate.SHIPPED),
    }
    if not force and is_current(out, inputs):
        print(f"bundle: {out} is current ({read_manifest(out)['precision']})")
        remove_partial(out)
        return out
    steps = Steps("ship", total=3)
    steps.next(f"timing {', '.join(bundles)}, in turn")
    times = pass_times({name: Form.of(folder) for name, folder in bundles.items()}, batches=(1,))
    ms = {name: found[1] for name, found in times.items()}
    print("  a short request's pass: " + ", ".join(f"{name} {ms[name]:.0f} ms" for name in bundles))
    steps.next(f"smoke gate: the prompts of this release against {REFERENCE}")
    tried: dict[str, Report] = {}
    for name in sorted(bundles, key=lambda name: ms[name]):
        tried[name] = smoke(bundles[REFERENCE], bundles[name])
        print(f"  {name}: {verdict(tried[name])}")
        if tried[name].passed:
            break
    else:
        raise BundleError("no form passes the gate, float32 among them: its verdicts are not finite or not there")
    if name != next(iter(tried)):
        print(f"  {name} is served instead of {', '.join(list(tried)[:-1])}")
    steps.next(f"writing {out}: {name}")
    _write(bundles[name], out, inputs, tried, ms)
    return out


def compile_forms(checkpoint: Path, forms: Path, *, max_tokens: int, force: bool = False) -> dict[str, Path]:
    """{name: bundle} of every form that this CPU can run, the reference among them."""
    stored = quantize(checkpoint, forms / "graphs" / REFERENCE, PROFILES[REFERENCE], force=force)
    int8 = quantize(checkpoint, forms / "graphs" / INT8, PROFILES[INT8], force=force)
    wanted: dict[str, tuple[Path, str | None]] = {name: (stored, name) for name in native_precisions()}
    wanted[INT8] = (int8, None)
    return {
        name: compile_bundle(
            checkpoint,
            forms / name,
            quantized=graph,
            precision=precision,
            streams=None,
            max_tokens=max_tokens,
            force=force,
        )
        for name, (graph, precision) in wanted.items()
    }


def smoke(reference: Path, candidate: Path) -> Report:
    """The prompts of this release on both, with the limits of the profile `smoke`."""
    corpus, profile = parity_corpus.SHIPPED, load_profile(SHIPPED_PROFILE)
    rows, sha256 = read_corpus(corpus), sha256_file(corpus)
    with closing(BundleSide.load(reference)) as a, closing(BundleSide.load(candidate)) as b:
        try:
            return compare(a, b, rows, profile, corpus=corpus.name, sha256=sha256)
        except SideError as error:
            # A form that answers nothing is refused like one that answers something else.
            about = {"name": corpus.name, "sha256": sha256, "rows": len(rows)}
            return Report((a.describe(), b.describe()), about, profile, 0, {}, {}, (), incomparable=str(error))


def verdict(report: Report) -> str:
    """One line for a person."""
    if not report.passed:
        return "REFUSED by the gate: " + "; ".join(report.refusals)
    whole = report.groups["all", "all"]
    drift = f"drift {100 * whole.drift_share:.1f} % of the margins' spread"
    return f"passes: {whole.flips} of {whole.compared} verdicts moved, {drift}"


def _write(
    bundle: Path, out: Path, inputs: Mapping[str, Any], tried: Mapping[str, Report], ms: Mapping[str, float]
) -> None:
    """The bundle's own files under the name that is served, with what the gate said in the manifest."""
    manifest = read_manifest(bundle)
    with finished_folder(out) as folder:
        for name in manifest["files"]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(bundle / name, folder / name)
        extra = extra_of(manifest)
        extra["parity"] = {name: _result(report) for name, report in tried.items()}
        extra["measured_ms"] = {name: round(value, 1) for name, value in ms.items()}
        write_manifest(folder, kind="bundle", inputs=inputs, **extra)


def _result(report: Report) -> dict[str, Any]:
    """What a manifest says of a comparison."""
    result: dict[str, Any] = {
        "passed": report.passed,
        "against": report.sides[0].get("precision"),
        "corpus": dict(report.corpus),
        "profile": report.profile.name,
    }
    if not report.passed:
        return result | {"refusals": report.refusals}
    whole = report.groups["all", "all"]
    return result | {
        "flips": whole.flips,
        "drift_share": round(whole.drift_share, 5),
        "kl_mean": round(whole.kl_mean, 6),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m build_scripts.ship", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=Path("build/merged"), help="merged checkpoint (%(default)s)")
    parser.add_argument("--forms", type=Path, default=Path("build/forms"), help="every form's bundle (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/bundle"), help="bundle to serve (%(default)s)")
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS, help="longest prompt served (%(default)s)")
    parser.add_argument("--force", action="store_true", help="build and judge again even if the bundle is current")
    args = parser.parse_args(argv)

    def build() -> None:
        ship(args.checkpoint, args.out, forms=args.forms, max_tokens=args.max_tokens, force=args.force)

    return exit_status("ship", build, CorpusError, ThresholdsError, SideError)


if __name__ == "__main__":
    sys.exit(main())
