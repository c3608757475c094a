"""Quantize a checkpoint for OpenVINO: its text graph in one of the forms below, which `compile` makes a bundle of.

    python -m build_scripts.quantize --profile int8-dynamic --out build/quantized/int8-dynamic
    python -m build_scripts.quantize --profile int8-sq --calibration prompts.jsonl --seed 1 ...

The forms that smooth, round by inputs or fix scales are calibrated: on guard prompts in the format that the server
renders, from the examples of this release or a file of yours (JSONL as `build_scripts.parity` reads it; texts like your
traffic's are better than many). Whether a form's verdicts are the checkpoint's is for `build_scripts.parity` to say.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from pathlib import Path

import openvino as ov
from tritonguard.errors import BundleError

from build_scripts import calibration
from build_scripts.answers import MAX_TOKENS
from build_scripts.calibration import DEFAULT_ROWS, CalibrationSet
from build_scripts.exit_status import exit_status
from build_scripts.folders import finished_folder, plain_file_errors, remove_partial
from build_scripts.openvino.calibration_inputs import Inputs, graph_inputs
from build_scripts.openvino.compile import save_graph
from build_scripts.openvino.pair_sums import exact_int8_matrix
from build_scripts.openvino.profiles import KIND, PROFILES, Profile
from build_scripts.openvino.quantized import made_by
from build_scripts.openvino.rotation import rotate_inputs, rotated
from build_scripts.openvino.rounding import rounded, second_moments
from build_scripts.openvino.smoothing import Smoothing, input_sizes
from build_scripts.openvino.static_scales import smooth_quantized
from build_scripts.parity_corpus import CorpusError
from build_scripts.progress import Steps
from engines.bundle import OPENVINO
from engines.checkpoint import TEXT_PREFIX, Checkpoint, FloatArray
from engines.local import forward_openvino
from engines.local.graph_nodes import Node, Stored, int8_matrix, weight
from engines.local.passes import Passes
from engines.local.runtime import GRAPH, Runtime
from engines.manifest import is_current, read_manifest, verify_files, write_manifest
from preprocessing.prompt import PromptBuilder


@plain_file_errors()
def quantize(
    checkpoint: Path,
    out: Path,
    profile: Profile,
    *,
    calibrated_on: CalibrationSet | None = None,
    keep_last: int | None = None,
    force: bool = False,
) -> Path:
    """Write the checkpoint's text graph in the profile's form to `out` (kept if its manifest still matches).

    calibrated_on: for a form that is calibrated; None draws from the examples of this release. keep_last: of each
    calibration row only so many last tokens, which spoils the scales: for tests of the gate. Raises BundleError, and
    leaves `out` as it was: no checkpoint, files missing or changed in it, float layers that it hasn't got, NNCF
    missing, a file that can't be read or written; CorpusError and GuardError: calibration rows that can't be read or
    are too long.
    """
    manifest = read_manifest(checkpoint)
    chosen = (calibrated_on or calibration.draw(count=DEFAULT_ROWS)) if profile.is_calibrated else None
    described = None if chosen is None else {**chosen.describe(), "keep_last": keep_last}
    inputs = {
        "checkpoint_revision": manifest["revision"],
        "target": OPENVINO,
        "profile": asdict(profile) | {"float_layers": list(profile.float_layers)},
        "calibration": described,
        **made_by(),
    }
    if not force and is_current(out, inputs):
        print(f"quantize: {out} is current")
        remove_partial(out)
        return out
    verify_files(checkpoint, manifest)
    steps = Steps("quantize", total=3 if chosen is None else 4)
    with finished_folder(out) as folder:
        opened = Checkpoint.open(checkpoint)
        _check_patterns(profile.float_layers, linear_layers(opened))
        asked: Sequence[Inputs] = ()
        if chosen is not None:
            steps.next(f"calibration: {len(chosen.rows)} prompts of {chosen.file} through the float graph")
            asked = calibration_inputs(checkpoint, opened, chosen, keep_last)
        steps.next(f"{profile.name}: {profile.summary}")
        graph = (
            _static(opened, profile, asked)
            if profile.activations == "static"
            else _rounded(opened, profile, steps.track(asked, total=len(asked)))
        )
        steps.next("saving")
        save_graph(graph, folder / GRAPH)
        write_manifest(folder, kind=KIND, inputs=inputs, target=OPENVINO, engine={"group_size": profile.group_size})
        steps.next(f"done: {out}")
    return out


def linear_layers(opened: Checkpoint) -> list[str]:
    """Of the text model: "layers.0.mlp.down_proj" for one."""
    matrix = re.compile(re.escape(TEXT_PREFIX) + r"(layers\..+_proj)\.weight")
    return [found[1] for key in opened.files if (found := matrix.fullmatch(key))]


def _check_patterns(patterns: Iterable[str], layers: Collection[str]) -> None:
    """Raises BundleError for one that matches none of the layers: all would be quantized as if it weren't there."""
    for pattern in patterns:
        if not any(fnmatchcase(layer, pattern) for layer in layers):
            kinds = ", ".join(sorted({layer.split(".", 2)[2] for layer in layers}))
            raise BundleError(f"no layer is called {pattern}: they are called layers.N. and one of {kinds}")


def _static(opened: Checkpoint, profile: Profile, asked: Sequence[Inputs]) -> ov.Model:
    return smooth_quantized(
        forward_openvino.build_graph(opened),
        asked,
        alpha=profile.alpha,
        linear_in_float=lambda name: not profile.is_int8(name),
    )


def _rounded(opened: Checkpoint, profile: Profile, asked: Iterable[Inputs]) -> ov.Model:
    """Weights as stored or int8, and inputs that the engine quantizes, if at all."""
    layers = [name for name in linear_layers(opened) if profile.is_int8(name)]
    moments: Mapping[str, FloatArray] = {}
    smoothing = Smoothing()
    if profile.rounding == "by inputs":
        moments = second_moments(forward_openvino.build_graph(opened), layers, asked)
    if profile.smooth:
        sizes = input_sizes(forward_openvino.build_graph(opened), layers, asked)
        smoothing = Smoothing.of(opened, sizes, profile.alpha)

    def weights(name: str, stored: Stored) -> Node:
        if name not in layers:
            return weight(stored)
        if name in moments:
            return rounded(stored, moments[name]).node
        matrix = smoothing.matrix(name, stored)
        if profile.rotate:
            return exact_int8_matrix(rotated(matrix)).node
        return int8_matrix(matrix, symmetric=profile.symmetric).node

    graph = forward_openvino.build_graph(replace(opened, values=smoothing.norms), weights)
    if profile.rotate:
        rotate_inputs(graph, layers)
    return graph


def calibration_inputs(
    folder: Path, opened: Checkpoint, chosen: CalibrationSet, keep_last: int | None = None
) -> Sequence[Inputs]:
    """What the float graph would be run on."""
    runtime = Runtime(forward_openvino.build_graph(opened), precision="f32")
    passes = Passes(runtime, opened.text_config, image_token=Checkpoint.read_image_token(folder))
    builder = PromptBuilder(folder, max_tokens=MAX_TOKENS)
    return list(graph_inputs(chosen.rows, passes, builder, keep_last=keep_last))


def main(argv: list[str] | None = None) -> int:
    profiles = "\n".join(f"  {profile.name:18}{profile.summary}" for profile in PROFILES.values())
    parser = argparse.ArgumentParser(
        prog="python -m build_scripts.quantize --target openvino",
        description=f"{__doc__}\nprofiles:\n{profiles}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--profile", choices=tuple(PROFILES), required=True, help="form of the numbers, see above")
    parser.add_argument("--checkpoint", type=Path, default=Path("build/merged"), help="merged checkpoint")
    parser.add_argument("--out", type=Path, help="folder to write (build/quantized/PROFILE)")
    parser.add_argument("--calibration", type=Path, default=calibration.SHIPPED, help="JSONL of prompts for the scales")
    parser.add_argument("--rows", type=int, default=DEFAULT_ROWS, help="drawn from them (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (%(default)s)")
    parser.add_argument("--alpha", type=float, help="of SmoothQuant, 0 to 1 (the profile's)")
    parser.add_argument("--keep-float", action="append", default=[], metavar="PATTERN", help="layers, *.mlp.down_proj")
    parser.add_argument("--force", action="store_true", help="build again even if the folder is current")
    args = parser.parse_args(argv)
    profile = PROFILES[args.profile]
    if args.alpha is not None:
        if not 0 <= args.alpha <= 1:
            parser.error("--alpha is between 0 and 1")
        profile = replace(profile, alpha=args.alpha)
    profile = replace(profile, float_layers=(*profile.float_layers, *args.keep_float))

    def build() -> None:
        drawn = None
        if profile.is_calibrated:
            drawn = calibration.draw(args.calibration, count=args.rows, seed=args.seed)
        out = args.out or Path("build/quantized") / profile.name
        quantize(args.checkpoint, out, profile, calibrated_on=drawn, force=args.force)

    return exit_status("quantize", build, CorpusError)
