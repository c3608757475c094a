"""Compile a checkpoint into a bundle for OpenVINO: the graphs, and everything else that a server needs to judge.

    python -m build_scripts.compile --checkpoint build/merged --out build/bundle
    python -m build_scripts.compile --quantized build/quantized/int8-dynamic --out build/int8-dynamic

The graphs (text, vision tower where there is one, head) are built from the checkpoint with OpenVINO's own ops
(no torch); a quantized text graph is taken as `quantize` made it, and written down for ONNX Runtime where its form is
for that. The arithmetic of what is not int8 is picked by a short measurement on this machine: bfloat16 where the CPU
multiplies it faster, float32 elsewhere. The bundle is for this kind of machine: a CPU without that arithmetic refuses
it.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import openvino as ov
from tritonguard.errors import BundleError
from tritonguard.taxonomy import TAXONOMY_VERSION

from build_scripts import answers
from build_scripts.answers import MAX_TOKENS
from build_scripts.checkpoint_files import copy_notices, kept_notices
from build_scripts.exit_status import exit_status
from build_scripts.folders import finished_folder, link_or_copy, plain_file_errors, remove_partial
from build_scripts.openvino import onnx_graph
from build_scripts.openvino.onnx_graph import save_onnx
from build_scripts.openvino.pass_times import Form, halves_at_once, pass_times
from build_scripts.openvino.quantized import FILES, QuantizedGraph
from build_scripts.progress import Steps
from build_scripts.sources import source_hashes
from build_scripts.vision_files import PREPROCESSOR, PROCESSOR, check_preprocessor, vision_state
from engines.bundle import OPENVINO
from engines.checkpoint import Checkpoint
from engines.local import (
    attention_openvino,
    float_products,
    forward_openvino,
    graph_nodes,
    head_openvino,
    onnx_runtime,
    runtime,
    vision_openvino,
)
from engines.local.engine import SERVED_CHOICES, SERVED_SEGMENTS
from engines.local.engine_config import ONNX_RUNTIME, OPENVINO_RUNTIME, PRECISIONS, EngineConfig
from engines.local.grouping import MOST_ROWS
from engines.local.runtime import GRAPH, VISION_GRAPH, can_cut, cpu_name, native_precisions, save_compiled
from engines.manifest import is_current, read_manifest, verify_files, write_manifest

COPIED = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
GRAPH_SOURCES = (
    attention_openvino,
    float_products,
    forward_openvino,
    graph_nodes,
    head_openvino,
    vision_openvino,
    onnx_graph,
    onnx_runtime,
    runtime,
)
LEAST_GAIN = 1.05
"""Requests/s with batches cut in two that run at once, over those of whole ones, that a second runtime is worth."""


@plain_file_errors()
def compile_bundle(
    checkpoint: Path,
    out: Path,
    *,
    quantized: Path | None = None,
    precision: str | None = None,
    streams: int | None = 2,
    max_tokens: int = MAX_TOKENS,
    force: bool = False,
) -> Path:
    """Write the bundle to `out` (kept if its manifest still matches).

    quantized: the folder of the text graph that `quantize` made of this checkpoint; None: the checkpoint's as it is.
    precision: one of PRECISIONS, of the arithmetic; None: the quantized form's, or else measured. streams: see
    `EngineConfig`; None: 2 where that is faster by LEAST_GAIN on this machine, else 1. Always 1 where half of the
    threads can't compute it (`can_cut`).

    Raises BundleError, and leaves `out` as it was: no checkpoint, files missing or changed in it, a text graph that is
    not whole, of another checkpoint or made by other code, or a file that can't be read or written.
    """
    manifest = read_manifest(checkpoint)
    form = None
    if quantized is not None:
        form = QuantizedGraph.open(quantized, checkpoint_revision=manifest["revision"])
    precision = precision or (form.arithmetic if form else None)
    inputs = {
        "checkpoint_revision": manifest["revision"],
        "reasoning_source": manifest.get("reasoning_source"),
        "vision": manifest.get("vision"),  # the revision covers files, not what the manifest says of them
        "quantized_revision": form and form.revision,
        "precision": precision,
        "streams": streams,
        "max_tokens": max_tokens,
        "cpu": cpu_name(),
        "openvino": ov.__version__,
        "graph_source_sha256": source_hashes(GRAPH_SOURCES),
        "answers_source_sha256": source_hashes((answers, *answers.SOURCES)),
    }
    if not force and is_current(out, inputs):
        print(f"bundle: {out} is current")
        remove_partial(out)
        return out
    verify_files(checkpoint, manifest)
    steps = Steps("bundle", total=4)
    with finished_folder(out) as folder:
        steps.next("building the graphs")
        opened = Checkpoint.open(checkpoint)
        vision = vision_state(opened, manifest)
        copied = [*COPIED]
        if form is None:
            save_graph(forward_openvino.build_graph(opened), folder / GRAPH)
        else:
            for name in FILES:
                link_or_copy(form.folder / name, folder / name)
        save_graph(head_openvino.build_head_graph(opened), folder / head_openvino.HEAD_GRAPH)
        if opened.vision_config is not None:
            check_preprocessor(checkpoint, opened.vision_config)
            save_graph(vision_openvino.build_vision_graph(opened), folder / VISION_GRAPH)
            copied += [name for name in (PREPROCESSOR, PROCESSOR) if (checkpoint / name).is_file()]
        for name in copied:
            if not (checkpoint / name).is_file():
                raise BundleError(f"{checkpoint.name} has no {name}")
            shutil.copyfile(checkpoint / name, folder / name)
        copy_notices(kept_notices(checkpoint), folder)
        answers.write_answers(folder, max_tokens=max_tokens)
        steps.next("measuring precisions on this machine" if precision is None else f"precision {precision}")
        group_size = form.group_size if form else 0
        measured = {} if precision else measure_precisions(folder, group_size=group_size)
        chosen = precision or min(measured, key=lambda name: measured[name])
        if measured:
            print("  " + ", ".join(f"{name} {ms:.0f} ms" for name, ms in measured.items()) + f": {chosen}")
        how = EngineConfig(chosen, group_size, runtime=form.runtime if form else OPENVINO_RUNTIME)
        if how.runtime == ONNX_RUNTIME:
            save_onnx(folder)
        wanted = streams if can_cut(chosen) else 1
        gain = None if wanted else measure_halves(folder, how)
        how = replace(how, streams=wanted or (2 if gain is not None and gain >= LEAST_GAIN else 1))
        how.write(folder)
        if how.runtime == OPENVINO_RUNTIME:
            for each in range(1, how.streams + 1):
                save_compiled(folder / GRAPH, precision=chosen, group_size=group_size, streams=each)
        steps.next("hashing")
        write_manifest(
            folder,
            kind="bundle",
            inputs=inputs,
            target=OPENVINO,
            precision=(form and form.precision) or chosen,
            arithmetic=chosen,
            hardware={"cpu": cpu_name(), "multiplies": list(native_precisions())},
            calibration=form and form.calibration,
            parity=None,
            taxonomy=TAXONOMY_VERSION,
            reasoning_source=manifest.get("reasoning_source", "model"),
            measured_ms={name: round(ms, 1) for name, ms in measured.items()},
            halves_gain=gain and round(gain, 3),
            capabilities={
                "segments": sorted(SERVED_SEGMENTS),
                "choices": SERVED_CHOICES,
                "vision": vision,
                "max_tokens": max_tokens,
            },
        )
        steps.next(f"done: {out}")
    return out


def save_graph(graph: ov.Model, path: Path) -> None:
    """Raises BundleError where it can't be written."""
    try:
        ov.save_model(graph, path, compress_to_fp16=False)
    except RuntimeError as error:
        # All that OpenVINO says is "iostream error".
        raise BundleError(f"writing failed, is the disk full?: {path}") from error


def measure_precisions(folder: Path, *, group_size: int = 0) -> Mapping[str, float]:
    """Median milliseconds of one short request's pass in each precision this CPU has, rounds interleaved."""
    forms = {name: Form(folder, EngineConfig(name, group_size)) for name in native_precisions()}
    return {name: found[1] for name, found in pass_times(forms, batches=(1,)).items()}


def measure_halves(folder: Path, how: EngineConfig) -> float:
    """How much faster a full batch is as two passes at once (`Halves.gain`)."""
    [found] = halves_at_once(Form(folder, how), batches=(MOST_ROWS,))
    print(f"  batches cut in two that run at once: {found.gain:.2f} of the requests/s")
    return found.gain


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m build_scripts.compile --target openvino",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path, default=Path("build/merged"), help="merged checkpoint")
    parser.add_argument("--quantized", type=Path, help="folder of its text graph in another form, by `quantize`")
    parser.add_argument("--out", type=Path, default=Path("build/bundle"), help="bundle to write")
    parser.add_argument("--precision", choices=PRECISIONS, help="skip the measurement")
    parser.add_argument("--streams", type=int, choices=(1, 2), help="of engine.yaml (measured)")
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS, help="longest prompt served (%(default)s)")
    parser.add_argument("--force", action="store_true", help="build again even if the bundle is current")
    args = parser.parse_args(argv)

    def build() -> None:
        compile_bundle(
            args.checkpoint,
            args.out,
            quantized=args.quantized,
            precision=args.precision,
            streams=args.streams,
            max_tokens=args.max_tokens,
            force=args.force,
        )

    return exit_status("compile", build)
