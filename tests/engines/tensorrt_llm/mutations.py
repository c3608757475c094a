"""The mutation test of the conformance suite: each trap handler of engines/tensorrt_llm taken out, and what notices.

    python tests/engines/tensorrt_llm/mutations.py            runs all and prints the table
    python tests/engines/tensorrt_llm/mutations.py --list     prints the table without running

A process that has imported what does not change makes a child for each mutation. The child imports a changed copy of
the package and runs the cases that must fail. Exit code 1: one of them passed, or the unchanged package fails some.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PACKAGE = ROOT / "engines" / "tensorrt_llm"
if __name__ == "__main__":  # not where a test imports it: another's `import torch` would find the stand-in
    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(HERE), str(ROOT / "tests" / "tensorrt_llm_double")]
    sys.path.append(str(ROOT / "tests" / "tensorrt_llm_double" / "torch_stand_in"))

from mutation_list import MUTATIONS, Mutation  # noqa: E402

UNCHANGED = "the package as it is"


def mutated(mutation: Mutation) -> str:
    """The file's text without the handler. Raises ValueError unless `old` stands there exactly once."""
    text = (PACKAGE / mutation.file).read_text()
    if text.count(mutation.old) != 1:
        raise ValueError(f"{mutation.handler}: {text.count(mutation.old)} times in {mutation.file}: {mutation.old!r}")
    return text.replace(mutation.old, mutation.new)


def _begin(mutation: Mutation | None, cases: Sequence[str], folder: Path) -> int:
    """A child of this process that runs the cases on a copy of the package without the handler. Returns its id."""
    shutil.copytree(PACKAGE, folder / "engines" / "tensorrt_llm")
    if mutation is not None:
        (folder / "engines" / "tensorrt_llm" / mutation.file).write_text(mutated(mutation))
    child = os.fork()
    if not child:
        _run_in_child(folder, cases)
    return child


def _run_in_child(folder: Path, cases: Sequence[str]) -> None:
    """Writes the names of the cases that pass, and ends the process, whatever its threads do."""
    passed: list[str] = []
    try:
        with open(folder / "log", "w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        import engines

        engines.__path__ = [str(folder / "engines"), *engines.__path__]
        passed = _passed(folder, cases)
    except BaseException:
        traceback.print_exc()
    finally:
        (folder / "passed").write_text(json.dumps(passed))
        os._exit(0)


def _passed(folder: Path, cases: Sequence[str]) -> list[str]:
    """Imports the suite, and with it the package. Where that does not even load, no case passes."""
    from conformance_suite import CASES
    from definition import Definition
    from subjects import double_subject
    from tiny_bundle import NARROW, write_tiny

    passed = []
    with mock.patch.object(os, "sched_getaffinity", return_value={0}):
        tiny = write_tiny(folder / "bundle", NARROW)
        with double_subject(tiny, Definition(tiny.folder, NARROW)) as subject:
            for case in CASES:
                if case.name in cases:
                    try:
                        case.check(subject)
                        passed.append(case.name)
                    except BaseException:
                        traceback.print_exc()
    return passed


def failures(mutations: Sequence[Mutation]) -> dict[str, list[str]]:
    """{handler: cases that should have failed and passed}; and of the unchanged package those that failed."""
    import numpy  # noqa: F401 - once, for every child
    import openvino  # noqa: F401
    import tokenizers  # noqa: F401

    import engines.local.engine  # noqa: F401
    import preprocessing.answer_text  # noqa: F401

    needed = sorted({case for mutation in mutations for case in mutation.killed_by})
    with TemporaryDirectory() as name:
        folders = {mutation: Path(name) / str(index) for index, mutation in enumerate((None, *mutations))}
        running: set[int] = set()
        for mutation, folder in folders.items():
            while len(running) >= (os.cpu_count() or 1):
                running.remove(os.wait()[0])
            running.add(_begin(mutation, needed if mutation is None else mutation.killed_by, folder))
        for child in running:
            os.waitpid(child, 0)
        passed = {mutation: json.loads((folder / "passed").read_text()) for mutation, folder in folders.items()}
    found = {UNCHANGED: sorted(set(needed) - set(passed[None]))}
    found |= {mutation.handler: passed[mutation] for mutation in mutations}
    return {handler: cases for handler, cases in found.items() if cases}


def table(mutations: Sequence[Mutation]) -> str:
    rows: list[tuple[str, str, str]] = [("handler", "source", "killed by")]
    rows += [(each.handler, each.trap, ", ".join(each.killed_by)) for each in mutations]
    return "\n".join(f"| {handler} | {trap} | {cases} |" for handler, trap, cases in (rows[0], ("---",) * 3, *rows[1:]))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the table, run nothing")
    parser.add_argument("--json", action="store_true", help="print what was not noticed as JSON, not the table")
    parser.add_argument("handlers", nargs="*", help="only those whose name holds one of these texts")
    asked: Any = parser.parse_args(argv)
    chosen = [each for each in MUTATIONS if not asked.handlers or any(text in each.handler for text in asked.handlers)]
    if asked.list:
        print(table(chosen))
        return 0
    found = failures(chosen)
    if asked.json:
        print(json.dumps(found))
        return int(bool(found))
    print(table(chosen))
    for handler, cases in found.items():
        print(f"NOT NOTICED: {handler}: {', '.join(cases)}")
    print(f"{len(chosen)} handlers, {len(chosen) - len(found.keys() - {UNCHANGED})} of them noticed when taken out")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
