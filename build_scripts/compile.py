"""Compile a checkpoint into a bundle: the graphs, and everything else that a server needs to judge with it.

    python -m build_scripts.compile --checkpoint build/merged --out build/bundle

The graphs (text, vision tower where there is one, head) are built from the checkpoint with OpenVINO's own ops
(no torch). Their float precision is picked by a short measurement on this machine: bfloat16 where the CPU
multiplies it faster, float32 elsewhere.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from tritonguard.errors import BundleError
from tritonguard.taxonomy import TAXONOMY_VERSION

from build_scripts.folders import finished_folder
from build_scripts.progress import Steps
from engines.bundle import OPENVINO
from engines.checkpoint import Checkpoint
from engines.local import forward_openvino, graph_nodes, head_openvino, vision_openvino
from engines.local.context import Context
from engines.local.engine import SERVED_CHOICES, SERVED_SEGMENTS
from engines.local.runtime import GRAPH, PRECISIONS, VISION_GRAPH, Runtime, native_precisions
from engines.local.tree import Tree, pass_inputs
from engines.manifest import is_current, read_manifest, sha256_file, write_manifest
from engines.vision_config import VisionConfig

COPIED = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"
GRAPH_SOURCES = (forward_openvino, graph_nodes, head_openvino, vision_openvino)
VISION_STATES = ("none", "untrained", "trained")
NOTICES = "notices"
MAX_TOKENS = 4096  # as NVIDIA's examples serve the model (--max-model-len 4096)
_ROUNDS, _PREFIX, _SUFFIX = 3, 338, 154  # the shape of a short request under the built-in policy


def compile_bundle(
    checkpoint: Path,
    out: Path,
    *,
    precision: str | None = None,
    max_tokens: int = MAX_TOKENS,
    force: bool = False,
) -> Path:
    """Write the bundle to `out` (kept if its manifest still matches).

    precision: one of PRECISIONS; None measures. Raises BundleError: no checkpoint, or files missing in it.
    """
    manifest = read_manifest(checkpoint)
    inputs = {
        "checkpoint_revision": manifest["revision"],
        "reasoning_source": manifest.get("reasoning_source"),
        "vision": manifest.get("vision"),  # the revision covers files, not what the manifest says of them
        "precision": precision,
        "max_tokens": max_tokens,
        "openvino": ov.__version__,
        "graph_source_sha256": {
            source.__name__.rpartition(".")[2]: sha256_file(Path(str(source.__file__))) for source in GRAPH_SOURCES
        },
    }
    if not force and is_current(out, inputs):
        print(f"bundle: {out} is current")
        return out
    steps = Steps("bundle", total=4)
    with finished_folder(out) as folder:
        steps.next("building the graphs")
        opened = Checkpoint.open(checkpoint)
        vision = vision_state(opened, manifest)
        copied = [*COPIED]
        save_graph(forward_openvino.build_graph(opened), folder / GRAPH)
        save_graph(head_openvino.build_head_graph(opened), folder / head_openvino.HEAD_GRAPH)
        if opened.vision_config is not None:
            check_preprocessor(checkpoint, opened.vision_config)
            save_graph(vision_openvino.build_vision_graph(opened), folder / VISION_GRAPH)
            copied += [name for name in (PREPROCESSOR, PROCESSOR) if (checkpoint / name).is_file()]
        for name in copied:
            if not (checkpoint / name).is_file():
                raise BundleError(f"{checkpoint.name} has no {name}")
            shutil.copyfile(checkpoint / name, folder / name)
        if (checkpoint / NOTICES).is_dir():
            shutil.copytree(checkpoint / NOTICES, folder / NOTICES)
        steps.next("measuring precisions on this machine" if precision is None else f"precision {precision}")
        measured = {} if precision else measure_precisions(folder)
        chosen = precision or min(measured, key=lambda name: measured[name])
        if measured:
            print("  " + ", ".join(f"{name} {ms:.0f} ms" for name, ms in measured.items()) + f": {chosen}")
        steps.next("hashing")
        write_manifest(
            folder,
            kind="bundle",
            inputs=inputs,
            target=OPENVINO,
            precision=chosen,
            taxonomy=TAXONOMY_VERSION,
            reasoning_source=manifest.get("reasoning_source", "model"),
            measured_ms={name: round(ms, 1) for name, ms in measured.items()},
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
    ov.save_model(graph, path, compress_to_fp16=False)


def vision_state(checkpoint: Checkpoint, manifest: Mapping[str, Any]) -> str:
    """One of VISION_STATES: "none" without a tower, else what the checkpoint's manifest says, "trained" if nothing.

    Raises BundleError when the manifest says something else, or "none" of a tower that is there.
    """
    if checkpoint.vision_config is None:
        return "none"
    state = str(manifest.get("vision", "trained"))
    if state not in VISION_STATES[1:]:
        raise BundleError(f"{checkpoint.folder.name}: its manifest calls the vision tower {state!r}")
    return state


def check_preprocessor(folder: Path, config: VisionConfig) -> None:
    """Raises BundleError when preprocessor_config.json is missing, or asks for what the graph doesn't compute."""
    try:
        asked = json.loads((folder / PREPROCESSOR).read_text())
        size = [asked["size"]["height"], asked["size"]["width"]]
        scaled = [*asked["image_mean"], *asked["image_std"], asked["rescale_factor"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BundleError(f"{folder.name} has no readable {PREPROCESSOR}") from error
    if size != [config.image_size] * 2 or not np.allclose(scaled, [*[0.5] * 6, 1 / 255], rtol=1e-6):
        raise BundleError(f"{folder.name}: {PREPROCESSOR} does not fit the vision tower")


def measure_precisions(folder: Path) -> Mapping[str, float]:
    """Median milliseconds of one short request's pass in each precision this CPU has, rounds interleaved."""
    config = Checkpoint.read_config(folder)
    generator = np.random.default_rng(0)
    states = generator.standard_normal(
        (2, config.num_hidden_layers, config.num_key_value_heads, _PREFIX, config.head_dim), np.float32
    )
    tree = Tree(tuple(generator.integers(0, config.vocab_size, _SUFFIX).tolist()))
    inputs = pass_inputs(Context(_PREFIX, *states), [tree], candidates=[0, 1], image_token=-1)
    runtimes = {name: Runtime.load(folder, precision=name) for name in native_precisions()}
    times: dict[str, list[float]] = {name: [] for name in runtimes}
    for round_number in range(_ROUNDS + 1):
        for name, runtime in runtimes.items():
            began = time.perf_counter()
            runtime.run(**inputs)
            if round_number:  # the first one warms up
                times[name].append((time.perf_counter() - began) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m build_scripts.compile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path, default=Path("build/merged"), help="merged checkpoint")
    parser.add_argument("--out", type=Path, default=Path("build/bundle"), help="bundle to write")
    parser.add_argument("--precision", choices=PRECISIONS, help="skip the measurement")
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS, help="longest prompt served (%(default)s)")
    parser.add_argument("--force", action="store_true", help="build again even if the bundle is current")
    args = parser.parse_args(argv)
    try:
        compile_bundle(
            args.checkpoint, args.out, precision=args.precision, max_tokens=args.max_tokens, force=args.force
        )
    except BundleError as error:
        print(f"compile: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
