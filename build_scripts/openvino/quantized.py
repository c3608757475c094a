"""The folder that `quantize` writes and `compile` reads: a text graph in one of the forms, and what made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openvino as ov
from tritonguard.errors import BundleError

from build_scripts.openvino import layer_inputs, pair_sums, rotation, rounding, smoothing, static_scales
from build_scripts.openvino.profiles import KIND
from build_scripts.sources import source_hashes
from engines.bundle import OPENVINO
from engines.local import attention_openvino, forward_openvino, graph_nodes
from engines.local.runtime import GRAPH
from engines.manifest import NAME, read_manifest, verify_files

FILES = (GRAPH, Path(GRAPH).with_suffix(".bin").name)
SOURCES = (
    attention_openvino,
    forward_openvino,
    graph_nodes,
    layer_inputs,
    pair_sums,
    rotation,
    rounding,
    smoothing,
    static_scales,
)


def made_by() -> dict[str, Any]:
    """Of a manifest's inputs: the tool and the code. Another of them may give the same checkpoint other numbers."""
    return {"openvino": ov.__version__, "source_sha256": source_hashes(SOURCES)}


@dataclass(frozen=True)
class QuantizedGraph:
    """folder: with FILES in it. revision: of those. precision: its profile's name; None: weights as stored, so that
    the arithmetic says all. arithmetic: one of PRECISIONS, where the profile asks for one. group_size, runtime: of the
    engine. calibration: what its manifest says of that.
    """

    folder: Path
    revision: str
    precision: str | None
    arithmetic: str | None
    group_size: int
    runtime: str
    calibration: Mapping[str, Any] | None

    @classmethod
    def open(cls, folder: Path, *, checkpoint_revision: str) -> QuantizedGraph:
        """Raises BundleError: none, not whole, of another checkpoint, or made by another OpenVINO or other code."""
        manifest = read_manifest(folder)
        if manifest["kind"] != KIND:
            raise BundleError(f"{folder.name} is a {manifest['kind']}, no quantized graph")
        try:
            verify_files(folder, manifest)
        except BundleError as error:
            raise BundleError(f"{error}: quantize again with --force") from error
        try:
            inputs = manifest["inputs"]
            _refuse_foreign(folder, inputs, checkpoint_revision)
            profile = inputs["profile"]
            return cls(
                folder,
                manifest["revision"],
                None if profile["weights"] == "stored" else profile["name"],
                profile["arithmetic"],
                manifest["engine"]["group_size"],
                profile["runtime"],
                inputs["calibration"],
            )
        except (LookupError, TypeError) as error:
            problem = f"{folder.name}/{NAME} does not say how it was made"
            raise BundleError(f"{problem}: quantize again with --force") from error


def _refuse_foreign(folder: Path, inputs: Mapping[str, Any], checkpoint_revision: str) -> None:
    """Raises BundleError for a graph that `quantize` would make another way today; LookupError."""
    now = made_by()
    if inputs["target"] != OPENVINO:
        raise BundleError(f"{folder.name} was quantized for {inputs['target']}")
    if inputs["checkpoint_revision"] != checkpoint_revision:
        raise BundleError(f"{folder.name} was quantized from another checkpoint: quantize this one again")
    if inputs["openvino"] != now["openvino"]:
        versions = f"OpenVINO {inputs['openvino']}, this is {now['openvino']}"
        raise BundleError(f"{folder.name} was quantized by {versions}: quantize again")
    if inputs["source_sha256"] != now["source_sha256"]:
        raise BundleError(f"{folder.name} was quantized by other code than this release's: quantize again")
