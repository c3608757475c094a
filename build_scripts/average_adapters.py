"""The mean of two checkpoints of one training run: A and B of each module, each averaged for itself.

    python -m build_scripts.average_adapters EARLIER LATER --out build/averaged

The product of the means is not the mean of the products, so this only makes sense for checkpoints that lie close
together (Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima"). Score the result like any adapter. The
config, the split and the training's record are the later one's.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
from tritonguard.errors import BundleError

from build_scripts.folders import finished_folder
from build_scripts.peft_adapter import CONFIG, WEIGHTS
from engines.checkpoint import TensorFile, write_tensors
from engines.manifest import read_manifest, write_manifest


def average(earlier: Path, later: Path, out: Path) -> Path:
    """Write the mean adapter, float32, to `out`. Raises BundleError where the two differ in anything but numbers."""
    first, second = (TensorFile.open(folder / WEIGHTS) for folder in (earlier, later))
    names = sorted(name for name in first.header if name != "__metadata__")
    shapes = [{name: file.header.get(name, {}).get("shape") for name in names} for file in (first, second)]
    same_config = (earlier / CONFIG).read_bytes() == (later / CONFIG).read_bytes()
    if shapes[0] != shapes[1] or len(first.header) != len(second.header) or not same_config:
        raise BundleError(f"{earlier.name} and {later.name} are not checkpoints of one adapter")
    manifests = [read_manifest(folder) for folder in (earlier, later)]
    with finished_folder(out) as folder:
        values = {name: (first.float32(name) + second.float32(name)) * np.float32(0.5) for name in names}
        write_tensors(folder / WEIGHTS, {name: ("F32", value.shape) for name, value in values.items()}, values.values())
        for name in (CONFIG, "split.json"):
            shutil.copy(later / name, folder / name)
        revisions = [manifest["revision"] for manifest in manifests]
        training = {**manifests[1]["training"], "average_of": revisions}
        write_manifest(folder, kind="adapter", inputs=manifests[1]["inputs"], training=training)
    return out


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m build_scripts.average_adapters",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("earlier", type=Path, help="adapter folder")
    parser.add_argument("later", type=Path, help="adapter folder")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new adapter")
    args = parser.parse_args(argv)
    try:
        print(f"adapter: {average(args.earlier, args.later, args.out)}")
    except (BundleError, OSError) as error:
        print(f"average_adapters: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
