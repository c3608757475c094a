"""What this double assumes of TensorRT-LLM 1.2.1: `behaviour.json`, with the evidence and source of each assumption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TABLE: dict[str, dict[str, Any]] = json.loads((Path(__file__).parents[1] / "behaviour.json").read_text())


def behaviour(name: str) -> Any:
    """The value that is assumed, or was recorded. Raises KeyError for a name that the table does not have."""
    return TABLE[name]["value"]
