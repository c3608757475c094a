"""What a checkpoint folder says of its vision tower: how images become its pixels, and whether it is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tritonguard.errors import BundleError

from engines.checkpoint import Checkpoint
from engines.vision_config import VisionConfig

PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
VISION_STATES = ("none", "untrained", "trained")


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
    """Raises BundleError when preprocessor_config.json is missing, or asks for what the tower doesn't read."""
    try:
        asked = json.loads((folder / PREPROCESSOR).read_text())
        size = [asked["size"]["height"], asked["size"]["width"]]
        scaled = [*asked["image_mean"], *asked["image_std"], asked["rescale_factor"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BundleError(f"{folder.name} has no readable {PREPROCESSOR}") from error
    if size != [config.image_size] * 2 or not np.allclose(scaled, [*[0.5] * 6, 1 / 255], rtol=1e-6):
        raise BundleError(f"{folder.name}: {PREPROCESSOR} does not fit the vision tower")
