"""Quantize a checkpoint for TensorRT-LLM: its text model in one of the forms below, which `compile` makes a bundle of.

    python -m build_scripts.quantize --target tensorrt-llm --profile fp8-kv --checkpoint DOWNLOADED --out build/fp8-kv
    python -m build_scripts.quantize --target tensorrt-llm --profile bf16 --checkpoint DOWNLOADED --out build/bf16

DOWNLOADED is the published, already merged checkpoint as `hf download` writes it, or one that `merge_lora` made. FP8's
scales come from guard prompts in the format that the server renders (a file of yours, or the examples of this release)
and from images; they hold for what was seen, so texts and images like your traffic's are better than many. Runs on a
GPU where there is one, else on the CPU, where the 4B guard takes about 18 GB of memory, mapped files among it.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from tritonguard.errors import BundleError

from build_scripts import calibration
from build_scripts.calibration import DEFAULT_ROWS
from build_scripts.checkpoint_files import copy_described, copy_notices, kept_notices, own_notices, refuse_overwriting
from build_scripts.exit_status import exit_status
from build_scripts.folders import finished_folder, link_or_copy, plain_file_errors, remove_partial
from build_scripts.parity_corpus import CorpusError
from build_scripts.progress import Steps
from build_scripts.revisions import revision_of
from build_scripts.sources import source_hashes
from build_scripts.tensor_checks import INDEX
from build_scripts.tensorrt_llm import calibration_inputs, modelopt_export
from build_scripts.tensorrt_llm.calibration_inputs import Calibration, images_of, model_prompts, shipped_images
from build_scripts.tensorrt_llm.export_checks import check_export
from build_scripts.tensorrt_llm.layout import data_bytes, quantized_layout
from build_scripts.tensorrt_llm.profiles import KIND, PROFILES, Profile, choose
from build_scripts.tensorrt_llm.source import CONFIG, HF_QUANT_CONFIG, QUANTIZATION_CONFIG, Source
from engines.bundle import TENSORRT_LLM
from engines.manifest import NAME, is_current, read_manifest, write_manifest

SOURCES = (calibration_inputs, modelopt_export)
_SPARE_BYTES = 100_000_000


@plain_file_errors()
def quantize(
    checkpoint: Path, out: Path, profile: Profile, *, calibrated_on: Calibration | None = None, force: bool = False
) -> Path:
    """Write the checkpoint in the profile's form to `out` (kept if its manifest still matches, unless `force`).

    calibrated_on: for a profile that is calibrated; None: DEFAULT_ROWS of the shipped prompts, and the example images.
    Raises BundleError, and leaves `out` as it was: a checkpoint that can't be served, no build environment, too little
    disk, an export that is not what was asked for; GuardError: calibration rows that are too long.
    """
    refuse_overwriting(out, checkpoint)
    steps = Steps("quantize", total=4)
    steps.next(f"hashing and checking {checkpoint}")
    chosen = None
    if profile.is_calibrated:
        chosen = calibrated_on or Calibration(calibration.draw(count=DEFAULT_ROWS), shipped_images())
    declared = read_manifest(checkpoint) if (checkpoint / NAME).is_file() else {}
    inputs = {
        "checkpoint_revision": revision_of(checkpoint),
        "target": TENSORRT_LLM,
        "profile": profile.describe(),
        "calibration": chosen and chosen.describe(),
        "tools": modelopt_export.tools() if profile.is_quantized else {},
        # The revision covers files, not what a manifest says of them.
        "vision": declared.get("vision"),
        "reasoning_source": declared.get("reasoning_source"),
        "source_sha256": source_hashes(SOURCES),
    }
    if not force and is_current(out, inputs):
        print(f"quantize: {out} is current")
        remove_partial(out)
        return out
    source = Source.open(checkpoint)
    with finished_folder(out) as folder:
        steps.next(f"{profile.name}: {profile.summary}")
        if profile.is_quantized:
            _quantize_weights(source, folder, profile, chosen, steps)
        else:
            for path in {file.path for file in source.checkpoint.files.values()}:
                link_or_copy(path.resolve(), folder / path.name)  # a download may be links into a cache
        _copy_files(source.folder, folder, profile)
        steps.next("checking every tensor against the source, and hashing")
        write_manifest(
            folder,
            kind=KIND,
            inputs=inputs,
            target=TENSORRT_LLM,
            precision=profile.name,
            tensor_bytes=check_export(folder, source, profile),
            vision=source.vision,
            reasoning_source=source.reasoning_source,
        )
        steps.next(f"done: {out}")
    return out


def _quantize_weights(source: Source, folder: Path, profile: Profile, chosen: Calibration | None, steps: Steps) -> None:
    """ModelOpt's weights into `folder`, and the source's config.json with what ModelOpt says of them."""
    _check_disk(folder, data_bytes(quantized_layout(source.checkpoint.config, profile)))
    prompts = model_prompts(chosen, source.folder, image_size=source.vision_config.image_size) if chosen else []
    model = modelopt_export.load_model(source.folder)
    text = source.checkpoint.text_config
    modelopt_export.quantize_text(model, text, profile, steps.track(prompts, total=len(prompts)))
    exported = folder / "export"
    modelopt_export.export(model, exported)
    for path in (*exported.glob("*.safetensors"), exported / INDEX, exported / HF_QUANT_CONFIG):
        if path.exists():
            path.rename(folder / path.name).chmod(0o644)  # safetensors leaves its files to their owner alone
    # transformers writes the rest of its config in the form of its own version; the source's is the one to serve.
    quantization = json.loads((exported / CONFIG).read_text())[QUANTIZATION_CONFIG]
    config = {**source.checkpoint.config, QUANTIZATION_CONFIG: quantization}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    shutil.rmtree(exported)


def _copy_files(source: Path, folder: Path, profile: Profile) -> None:
    """What goes along with the weights: tokenizer, template, processor, notices."""
    copy_described(source, folder, but=(CONFIG, INDEX) if profile.is_quantized else ())
    copy_notices({**own_notices(source), **kept_notices(source)}, folder)


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE_BYTES:
        raise BundleError(f"{needed / 1e9:.1f} GB of disk are needed for the weights, and {free / 1e9:.1f} GB are free")


def _parser() -> argparse.ArgumentParser:
    profiles = "\n".join(f"  {profile.name:18}{profile.summary}" for profile in PROFILES.values())
    parser = argparse.ArgumentParser(
        prog="python -m build_scripts.quantize --target tensorrt-llm",
        description=f"{__doc__}\nprofiles:\n{profiles}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit status: 0 written or current; 2 refused, with the reason on stderr; 130 interrupted. After 2 and "
        "130 the folder is as it was before.",
    )
    add = parser.add_argument
    add("--profile", required=True, metavar="NAME", help="form of the numbers, see above")
    add("--checkpoint", type=Path, required=True, help="folder of the downloaded or merged checkpoint")
    add("--out", type=Path, required=True, help="folder to write; it appears whole or not at all")
    add("--calibration", type=Path, default=calibration.SHIPPED, help="JSONL of prompts for the scales")
    add("--images", type=Path, help="folder of images for the scales (those of the example requests)")
    add("--rows", type=int, default=DEFAULT_ROWS, help="drawn from the prompts (%(default)s)")
    add("--seed", type=int, default=0, help="of the draw (%(default)s)")
    add("--force", action="store_true", help="quantize again even if the folder is current")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)

    def build() -> None:
        profile = choose(args.profile)
        drawn = None
        if profile.is_calibrated:
            images = images_of(args.images) if args.images else shipped_images()
            drawn = Calibration(calibration.draw(args.calibration, count=args.rows, seed=args.seed), images)
        quantize(args.checkpoint, args.out, profile, calibrated_on=drawn, force=args.force)

    return exit_status("quantize", build, CorpusError)
