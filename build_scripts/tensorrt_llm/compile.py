"""Compile a quantized checkpoint into a bundle for TensorRT-LLM: weights, engine.yaml, kernels, and their manifest.

    python -m build_scripts.compile --target tensorrt-llm --checkpoint build/fp8-kv --out build/bundle
    python -m build_scripts.compile --target tensorrt-llm --checkpoint build/fp8-kv --no-warm-up ...

The checkpoint is a folder that `quantize --target tensorrt-llm` wrote. There is no engine file: TensorRT-LLM loads the
checkpoint itself, and what it compiles are kernels, at the first requests. So the engine is started here once, asked an
example of each form, and the kernels go into the bundle: that takes the GPU that will serve, or one of its kind, in
Triton's image 26.07-trtllm-python-py3. Before, the machine is looked at; what is in the way is told all at once. With
--no-warm-up the bundle can be compiled on any machine, and the first start on a GPU takes minutes longer.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tritonguard.errors import BundleError
from tritonguard.taxonomy import TAXONOMY_VERSION

from build_scripts import answers
from build_scripts.answers import MAX_TOKENS
from build_scripts.exit_status import exit_status
from build_scripts.folders import finished_folder, link_or_copy, plain_file_errors, remove_partial
from build_scripts.progress import Steps
from build_scripts.sources import source_hashes
from build_scripts.tensor_checks import check_weight_files
from build_scripts.tensorrt_llm.layout import check_layout, layout_of, quantized_layout
from build_scripts.tensorrt_llm.profiles import KIND, PROFILES
from build_scripts.vision_files import check_preprocessor, vision_state
from engines.bundle import TENSORRT_LLM
from engines.checkpoint import Checkpoint
from engines.manifest import is_current, read_manifest, verify_files, write_manifest
from engines.tensorrt_llm import engine_config
from engines.tensorrt_llm.engine import SERVED_CHOICES, SERVED_SEGMENTS
from engines.tensorrt_llm.engine_config import MAX_BATCH_SIZE, MEMORY_FRACTION, EngineConfig
from engines.tensorrt_llm.jit_cache import capture
from engines.tensorrt_llm.machine import Machine, read_machine
from engines.tensorrt_llm.preflight import IMAGE, LOADED, check_machine, require

SOURCES = (answers, *answers.SOURCES, engine_config)
NEEDED = (*LOADED, "chat_template.jinja")
WARM_UP_S = 3600.0
"""Kernels for a head of 256 values take nvcc minutes; what takes an hour hangs."""


@dataclass(frozen=True)
class Quantized:
    """A folder that `quantize` wrote for this target, with all that its manifest and its profile promise."""

    folder: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Quantized:
        """By its manifest alone. Raises BundleError: not such a folder."""
        manifest = read_manifest(folder)
        if manifest["kind"] != KIND:
            raise BundleError(f"{folder.name} is a {manifest['kind']}: quantize it first, --profile bf16 as it is")
        if manifest.get("target") != TENSORRT_LLM:
            raise BundleError(f"{folder.name} was quantized for {manifest['inputs'].get('target')}: quantize it again")
        if manifest.get("precision") not in PROFILES:
            raise BundleError(f"{folder.name} has precision {manifest.get('precision')!r}, which this release lacks")
        return cls(folder, manifest)

    @property
    def precision(self) -> str:
        return str(self.manifest["precision"])

    def verify(self) -> str:
        """The state of its vision tower. Raises BundleError: a file or tensor missing, cut, changed or unexpected."""
        verify_files(self.folder, self.manifest)
        for name in NEEDED:
            if name not in self.manifest["files"]:
                raise BundleError(f"{self.folder.name} has no {name}")
        check_weight_files(self.folder)
        opened = Checkpoint.open(self.folder)
        expected = quantized_layout(opened.config, PROFILES[self.precision])
        check_layout(layout_of(opened.files), expected, whose=self.folder.name)
        if opened.vision_config is not None:
            check_preprocessor(self.folder, opened.vision_config)
        return vision_state(opened, self.manifest)


@plain_file_errors()
def compile_bundle(
    checkpoint: Path,
    out: Path,
    *,
    max_tokens: int = MAX_TOKENS,
    chosen: Mapping[str, Any] = MappingProxyType({}),
    warmed: bool = True,
    force: bool = False,
) -> Path:
    """Write the bundle to `out` (kept if its manifest still matches).

    max_tokens: longest prompt. chosen: fields of EngineConfig. warmed: start the engine here. Raises BundleError, and
    leaves `out` as it was: no checkpoint that `quantize` made for this target, or not whole; a machine that can't run
    it, where it is to be warmed; a warm-up that fails; a file that can't be read or written.
    """
    source = Quantized.open(checkpoint)
    config = EngineConfig.for_profile(source.precision, max_tokens, **chosen)
    machine = read_machine() if warmed else None
    inputs = {
        "checkpoint_revision": source.manifest["inputs"]["checkpoint_revision"],
        "quantized_revision": source.manifest["revision"],
        "reasoning_source": source.manifest.get("reasoning_source"),
        "vision": source.manifest.get("vision"),  # the revision covers files, not what the manifest says of them
        "max_tokens": max_tokens,
        "engine": asdict(config),
        "warmed_on": machine and warmed_on(machine),
        "source_sha256": source_hashes(SOURCES),
    }
    if not force and is_current(out, inputs):
        print(f"bundle: {out} is current")
        remove_partial(out)
        return out
    steps = Steps("bundle", total=5 if machine else 4)
    steps.next(f"checking {checkpoint}")
    vision = source.verify()
    described = {
        "target": TENSORRT_LLM,
        "precision": source.precision,
        "hardware": None,
        "warmed": False,
        "jit": None,
        "calibration": source.manifest["inputs"].get("calibration"),
        "parity": None,
        "taxonomy": TAXONOMY_VERSION,
        "reasoning_source": source.manifest.get("reasoning_source", "model"),
        "measured": None,
        "capabilities": {
            "segments": sorted(SERVED_SEGMENTS),
            "choices": SERVED_CHOICES,
            "vision": vision,
            "max_tokens": max_tokens,
        },
    }
    if machine is not None:
        preflight(checkpoint, {**source.manifest, **described}, config, machine)
    with finished_folder(out) as folder:
        steps.next("weights, engine.yaml, answers")
        for name in source.manifest["files"]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(checkpoint / name, folder / name)
        config.write(folder)
        answers.write_answers(folder, max_tokens=max_tokens)
        steps.next("hashing")
        write_manifest(folder, kind="bundle", inputs=inputs, **described)
        if machine is not None:
            steps.next(f"warming up on {machine.gpu and machine.gpu.name}")
            measured = warm(folder)
            kernels = capture(machine.jit_folder, folder)
            described |= {
                "hardware": warmed_on(machine),
                "warmed": True,
                "jit": {"folder": str(machine.jit_folder), "files": kernels} if kernels else None,
                "measured": measured,
            }
            write_manifest(folder, kind="bundle", inputs=inputs, **described)
        steps.next(f"done: {out}" + ("" if machine else ", not warmed: its first start compiles kernels"))
    return out


def warmed_on(machine: Machine) -> dict[str, Any] | None:
    """What the kernels of a bundle depend on, and who made them; None: no GPU."""
    if machine.gpu is None:
        return None
    gpu = machine.gpu
    return {"gpu": gpu.name, "sm": gpu.sm, "driver": gpu.driver, "packages": dict(machine.versions)}


def preflight(folder: Path, manifest: Mapping[str, Any], config: EngineConfig, machine: Machine) -> None:
    """Raises BundleError where the machine can't warm the bundle, with all that is in the way."""
    if machine.gpu is None or machine.versions["tensorrt_llm"] is None:
        lacking = f"no GPU ({machine.gpu_problem})" if machine.gpu is None else "no TensorRT-LLM"
        raise BundleError(
            f"a bundle is warmed where it is compiled, and here is {lacking}: compile it on the machine that will "
            f"serve it, in {IMAGE}, or with --no-warm-up"
        )
    findings = check_machine(folder, manifest, config, machine)
    for finding in findings:
        print(f"  {'ok' if finding.ok else 'NO'}  {finding.name}: {finding.found}", file=sys.stderr)
    require(findings)


def warm(folder: Path) -> dict[str, Any]:
    """Start the bundle's engine in a process of its own and ask it the examples. Returns what `warm_up` measured.

    Raises BundleError where it fails; what it said is on stderr.
    """
    with tempfile.TemporaryDirectory() as workspace:
        measured = Path(workspace) / "measured.json"
        command = [sys.executable, "-m", "build_scripts.tensorrt_llm.warm_up", str(folder), str(measured)]
        try:
            status = subprocess.run(command, timeout=WARM_UP_S, check=False).returncode
        except subprocess.TimeoutExpired as error:
            raise BundleError(f"the warm-up was ended after {WARM_UP_S:.0f} s") from error
        if status:
            raise BundleError(f"the warm-up failed with exit status {status}; the reason stands above")
        result: dict[str, Any] = json.loads(measured.read_text())
        return result


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m build_scripts.compile --target tensorrt-llm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder that `quantize` wrote for this target")
    parser.add_argument("--out", type=Path, default=Path("build/bundle"), help="bundle to write (%(default)s)")
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS, help="longest prompt served (%(default)s)")
    parser.add_argument(
        "--max-batch-size", type=int, default=MAX_BATCH_SIZE, help="requests in one step of the engine (%(default)s)"
    )
    parser.add_argument(
        "--memory-fraction",
        type=float,
        default=MEMORY_FRACTION,
        help="of the GPU memory that the weights leave free, for keys and values (%(default)s)",
    )
    parser.add_argument(
        "--no-overlap", action="store_true", help="prepare no step while one runs: try both, neither is measured yet"
    )
    parser.add_argument(
        "--no-warm-up", action="store_true", help="don't start the engine: a bundle without kernels, for any GPU"
    )
    parser.add_argument("--force", action="store_true", help="compile again even if the bundle is current")
    args = parser.parse_args(argv)

    def build() -> None:
        compile_bundle(
            args.checkpoint,
            args.out,
            max_tokens=args.max_tokens,
            chosen={
                "max_batch_size": args.max_batch_size,
                "memory_fraction": args.memory_fraction,
                "disable_overlap_scheduler": args.no_overlap,
            },
            warmed=not args.no_warm_up,
            force=args.force,
        )

    return exit_status("compile", build)
