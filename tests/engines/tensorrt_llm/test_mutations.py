"""Each trap handler taken out of the engine makes a case of the conformance suite fail."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conformance import DOUBLE
from conformance_suite import CASES
from mutation_list import MUTATIONS, Mutation
from mutations import PACKAGE, mutated, table


@pytest.mark.parametrize("mutation", [pytest.param(each, id=each.handler) for each in MUTATIONS])
def test_a_mutation_fits_the_engine_and_the_suite(mutation: Mutation) -> None:
    before = (PACKAGE / mutation.file).read_text()
    assert ast.dump(ast.parse(mutated(mutation))) != ast.dump(ast.parse(before))
    assert mutation.killed_by
    assert set(mutation.killed_by) <= {case.name for case in CASES if DOUBLE in case.on}


def test_no_handler_can_be_taken_out_unnoticed() -> None:
    script = Path(__file__).with_name("mutations.py")
    run = subprocess.run([sys.executable, str(script), "--json"], capture_output=True, text=True, timeout=1200)
    assert json.loads(run.stdout) == {}, run.stderr
    assert run.returncode == 0


def test_the_table_names_every_handler_its_source_and_what_notices() -> None:
    lines = table(MUTATIONS).splitlines()
    assert len(lines) == len(MUTATIONS) + 2
    assert len({each.handler for each in MUTATIONS}) == len(MUTATIONS)
