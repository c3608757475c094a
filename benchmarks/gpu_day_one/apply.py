"""What is written into a checkout: a recording, taken up, and the tables of GPU statements."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from benchmarks.gpu_day_one.findings import read_behaviour
from benchmarks.gpu_day_one.recording import Recording, merge_recording
from benchmarks.gpu_day_one.statements import documents, read_statements, statements_text, with_results

ASSUMED, STATEMENTS = "tests/tensorrt_llm_double/behaviour.json", "docs/gpu_statements.json"


def apply(path: Path, root: Path) -> list[str]:
    """Take the recording `path` up: assumptions, statements, tables. Returns a line for each file that changed.

    Raises BehaviourError, before anything is written: no recording of the real package, or a file that it does not fit.
    """
    recording = Recording.read(path)
    assumed = merge_recording(read_behaviour(root / ASSUMED), recording)
    statements = with_results(read_statements(root / STATEMENTS), recording)
    texts = {
        root / ASSUMED: json.dumps(assumed, indent=1, ensure_ascii=False) + "\n",
        root / STATEMENTS: statements_text(statements),
    }
    return _written(root, {**texts, **documents(root, statements)})


def render(root: Path) -> list[str]:
    """The tables anew, where the statements were changed by hand. Returns and raises as `apply`."""
    statements = read_statements(root / STATEMENTS)
    return _written(root, {root / STATEMENTS: statements_text(statements), **documents(root, statements)})


def _written(root: Path, texts: Mapping[Path, str]) -> list[str]:
    changed = {file: text for file, text in texts.items() if file.read_text(encoding="utf-8") != text}
    for file, text in changed.items():
        file.write_text(text, encoding="utf-8")
    return [f"written: {file.relative_to(root)}" for file in changed] or ["nothing changed"]
