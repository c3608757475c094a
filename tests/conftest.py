"""What tests of several folders share; `tests/` comes on the path for `tiny_checkpoint`.

Property tests leave nothing on the disk and have no time limit: a loaded machine must not fail them.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from engines.manifest import NAME

sys.path.insert(0, str(Path(__file__).parent))

with suppress(ModuleNotFoundError):  # the environment with ModelOpt has no property tests
    from hypothesis import HealthCheck, settings

    settings.register_profile("tests", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("tests")


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
