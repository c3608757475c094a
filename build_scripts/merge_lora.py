"""Merge a LoRA adapter into its base: W' = W + (alpha / r) * B @ A, summed in float32 and rounded once.

    python -m build_scripts.merge_lora --base build/base --adapter adapters/embedded --out build/merged

Streams: one tensor is in memory at a time, so that a 4B checkpoint needs about 1 GB. Every file keeps its
header, so names, order, dtypes and shapes are the base's; tensors without an update are copied as bytes, as
are config.json, the tokenizer and the chat template. The adapter's notices go along, in notices/, and the
base's, in notices/base/. An interrupted merge goes on after the last weight file that it finished.
The adapter may have been trained with any transformers from 4.50 on. What can't be merged exactly is refused.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonguard import __version__
from tritonguard.errors import BundleError

from build_scripts.checkpoint_files import (
    copy_described,
    copy_notices,
    kept_notices,
    own_notices,
    refuse_overwriting,
)
from build_scripts.folders import plain_file_errors, remove_partial
from build_scripts.peft_adapter import CONFIG, WEIGHTS, Adapter, canonical_base_module
from build_scripts.progress import Steps
from build_scripts.resumable import ResumableFolder, resumable_folder
from build_scripts.revisions import revision_of
from build_scripts.tensor_checks import check_weight_files
from engines.checkpoint import Checkpoint, TensorFile, float32_to_bfloat16, rewrite_tensors
from engines.manifest import NAME, is_current, read_manifest, sha256_file, verify_files, write_manifest


@plain_file_errors()
def merge(*, base: Path, adapter: Path, out: Path, force: bool = False) -> Path:
    """Write the merged checkpoint to `out` (kept if its manifest still matches, unless `force`).

    base: a checkpoint folder in the published layout. adapter: a PEFT LoRA folder. Returns `out`.
    Raises BundleError, and leaves `out` as it was, when the two can't be merged exactly or a file can't be read or
    written. After a failed write or an interrupt the finished weight files are kept for the next call.
    """
    refuse_overwriting(out, base, adapter)
    inputs, tools = merge_inputs(base, adapter), {"python": platform.python_version(), "numpy": np.__version__}
    if not force and is_current(out, inputs):
        print(f"merge: {out} is current")
        remove_partial(out)
        return out
    steps = Steps("merge", total=3)
    steps.next("checking base and adapter")
    _verify(base, adapter)
    check_weight_files(base)
    checkpoint, update = Checkpoint.open(base), Adapter.open(adapter)
    _check_fit(checkpoint, update)
    made_from = {"inputs": inputs, "tools": tools, "tritonguard": __version__}
    with resumable_folder(out, made_from, fresh=force) as folder:
        kept = f" (finished before: {len(folder.finished)} files)" if folder.finished else ""
        steps.next(f"adding {len(update.modules)} updates to {len(checkpoint.files)} tensors{kept}")
        norms: dict[str, float] = {}
        for file in weight_files(checkpoint):
            norms |= _merge_file(file, update, folder, steps)
        copy_described(base, folder.path)
        copy_notices(_notices(base, adapter), folder.path)
        steps.next("hashing")
        declared = _declared(base, adapter)
        write_manifest(folder.path, kind="checkpoint", inputs=inputs, tools=tools, relative_update=norms, **declared)
    return out


def _merge_file(file: TensorFile, update: Adapter, folder: ResumableFolder, steps: Steps) -> dict[str, float]:
    """Write one weight file unless it is finished. Returns ||delta|| / ||W|| by module."""
    name = file.path.name
    finished = folder.facts(name)
    if finished is not None:
        return finished
    norms: dict[str, float] = {}
    names = steps.track(file.stored_order(), total=len(file.header))
    rewrite_tensors(file, folder.path / name, _merged(file, names, update, norms))
    folder.record(name, norms)
    return norms


def merge_inputs(base: Path, adapter: Path) -> dict[str, Any]:
    """What a merge is made from. Raises BundleError when the adapter was trained on another base."""
    for folder in (base, adapter):
        if not folder.is_dir():
            raise BundleError(f"there is no folder {folder}")
    base_revision = revision_of(base)
    adapter_revision = revision_of(adapter, kind="adapter")
    if (adapter / NAME).is_file():
        trained_on = read_manifest(adapter)["inputs"].get("base_revision")
        if trained_on and not (base / NAME).is_file():
            raise BundleError(f"the adapter names its base's revision, and {base} has no {NAME} to compare")
        if (base / NAME).is_file() and trained_on != base_revision:
            raise BundleError(
                f"the adapter was trained on base revision {str(trained_on)[:12]}, this base is {base_revision[:12]}"
            )
    return {
        "base_revision": base_revision,
        "adapter_revision": adapter_revision,
        # Notices are written after training: a changed one must reach the merged folder too.
        **_declared(base, adapter),
        "notices_sha256": {name: sha256_file(path) for name, path in _notices(base, adapter).items()},
    }


def weight_files(checkpoint: Checkpoint) -> list[TensorFile]:
    """The checkpoint's safetensors files, in the order of their names."""
    return sorted({file.path: file for file in checkpoint.files.values()}.values(), key=lambda file: file.path)


def _declared(base: Path, adapter: Path) -> dict[str, Any]:
    """What the manifests say of the model: whether its vision tower is trained (an adapter of the text model doesn't
    train one), and where its reasoning comes from."""
    own = read_manifest(base) if (base / NAME).is_file() else {}
    training = read_manifest(adapter).get("training", {}) if (adapter / NAME).is_file() else {}
    return {
        **({"vision": own["vision"]} if "vision" in own else {}),
        **({"reasoning_source": training["reasoning_source"]} if "reasoning_source" in training else {}),
    }


def _verify(base: Path, adapter: Path) -> None:
    """Raises BundleError where bytes differ from a manifest (notices may be younger than theirs)."""
    if (base / NAME).is_file():
        verify_files(base, read_manifest(base))
    if (adapter / NAME).is_file():
        listed = read_manifest(adapter)["files"]
        for name in (CONFIG, WEIGHTS):
            path = adapter / name
            if not path.is_file() or sha256_file(path) != listed.get(name, {}).get("sha256"):
                raise BundleError(f"{adapter.name}: {name} is not the file of the manifest")


def _check_fit(checkpoint: Checkpoint, update: Adapter) -> None:
    """Every update has a float weight of its shape, and the config is in the form that may be shipped."""
    _ = checkpoint.text_config
    modules = {canonical_base_module(key): key for key in checkpoint.files}
    for module in update.modules:
        key = modules.get(module)
        if key is None:
            raise BundleError(f"the adapter updates {module}, which the base doesn't have")
        spec = checkpoint.files[key].header[key]
        if tuple(spec["shape"]) != update.shape(module):
            raise BundleError(f"{module}: shape {spec['shape']}, but the adapter's is {update.shape(module)}")
        if spec["dtype"] not in ("BF16", "F32"):
            raise BundleError(f"{module}: dtype {spec['dtype']} can't be merged into (BF16 and F32 can)")


def _merged(
    file: TensorFile, names: Iterable[str], update: Adapter, norms: dict[str, float]
) -> Iterator[npt.NDArray[Any]]:
    """The tensors `names` of a base file after the merge; fills `norms` with ||delta|| / ||W|| by module."""
    for key in names:
        module = canonical_base_module(key)
        if module is None or module not in update.modules:
            yield file.stored_bytes(key)
            continue
        weight, delta = file.float32(key), update.delta(module)
        norms[module] = _relative_norm(module, delta, weight)
        weight = weight + delta
        yield float32_to_bfloat16(weight) if file.header[key]["dtype"] == "BF16" else weight


def _relative_norm(module: str, delta: npt.NDArray[np.float32], weight: npt.NDArray[np.float32]) -> float:
    ratio = float(np.linalg.norm(delta)) / max(float(np.linalg.norm(weight)), 1e-30)
    if not np.isfinite(ratio):
        raise BundleError(f"{module}: base or adapter holds values that are not finite")
    return float(f"{ratio:.6g}")


def _notices(base: Path, adapter: Path) -> dict[str, Path]:
    """{name below the merged checkpoint's notices/: file} of the adapter's notices, and the base's in base/."""
    of_base = {**own_notices(base), **kept_notices(base)}
    return {**own_notices(adapter), **{f"base/{name}": path for name, path in of_base.items()}}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m build_scripts.merge_lora",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit status: 0 merged or already current; 1 refused, or a file can't be read or written (the reason is "
        "on stderr); 2 wrong usage; 130 interrupted. After 1 and 130 the folder is as it was before.",
    )
    add = parser.add_argument
    add("--base", type=Path, required=True, help="checkpoint folder that the adapter was trained on")
    add("--adapter", type=Path, required=True, help=f"PEFT folder: {CONFIG}, {WEIGHTS}")
    add("--out", type=Path, required=True, help="folder to write; it appears whole or not at all")
    add("--force", action="store_true", help="merge again from the start, even if current")
    args = parser.parse_args(argv)
    try:
        merge(base=args.base, adapter=args.adapter, out=args.out, force=args.force)
    except BundleError as error:
        print(f"merge_lora: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("merge_lora: interrupted; run it again to go on after the last finished file", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
