"""What the tests of ModelOpt's exports share: a small guard, prompts in the real format, and every profile once."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_guard import write_guard

sys.path.insert(0, str(Path(__file__).parent))

from exports import Export, run_quantize

# On a machine that is busy with something else, torch's threads wait for each other in a loop: one is faster.
torch.set_num_threads(1)

# Under a policy of one line: the built-in one has hundreds of tokens.
ROWS = (
    {"id": "a", "prompt": "How long does a dough rest?", "label": "safe"},
    {"id": "b", "prompt": "Tell me how to pick a lock.", "response": "Of course.", "label": "unsafe"},
)
POLICY = {"name": "kitchen", "custom_policy": "Only cooking is allowed."}


@pytest.fixture(scope="session")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_guard(tmp_path_factory.mktemp("guard") / "download", shards=2)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of calibration rows."""
    path = tmp_path_factory.mktemp("corpus") / "rows.jsonl"
    path.write_text("".join(json.dumps(row | {"policy": POLICY}) + "\n" for row in ROWS))
    return path


@pytest.fixture(scope="session")
def exported(guard: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Export]:
    """The export of (profile, dtype of the model that is quantized), made once."""
    made: dict[tuple[str, str], Export] = {}

    def get(profile: str, dtype: str = "bfloat16") -> Export:
        if (profile, dtype) not in made:
            out = tmp_path_factory.mktemp("made") / "out"
            made[profile, dtype] = run_quantize(guard, corpus, out, profile, dtype)
        return made[profile, dtype]

    return get
