"""What tests of several folders share; `tests/` comes on the path for `tiny_checkpoint`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from engines.manifest import NAME

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def base_folder() -> Path:
    """The embedded checkpoint: $TRITONGUARD_BASE, else build/base. Without it the tests fail, they don't skip."""
    folder = Path(os.environ.get("TRITONGUARD_BASE") or Path(__file__).parents[1] / "build" / "base")
    if not (folder / NAME).is_file():
        pytest.fail(
            f"no embedded checkpoint in {folder}: run `python -m build_scripts.embedded_checkpoint` first, "
            "or set TRITONGUARD_BASE",
            pytrace=False,
        )
    return folder
