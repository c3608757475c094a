from __future__ import annotations

import json
from pathlib import Path

from make_prompt_golden import GOLDEN, golden_rows


def test_the_installed_transformers_reproduces_the_golden_prompts(base_folder: Path) -> None:
    committed = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
    made = golden_rows(base_folder)
    assert len(made) == len(committed) >= 40
    for number, (row, golden) in enumerate(zip(made, committed, strict=True)):
        assert row == golden, f"row {number}"
