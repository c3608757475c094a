from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import tritonguard


def imported_names() -> set[str]:
    tree = ast.parse(Path(str(tritonguard.__file__)).read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name for node in imports for alias in node.names}


def test_everything_imported_is_exported() -> None:
    assert set(tritonguard.__all__) == imported_names() | {"__version__"}


def test_exports_are_sorted_constants_first() -> None:
    assert tritonguard.__all__ == sorted(tritonguard.__all__, key=lambda name: (not name.isupper(), name))


def test_every_error_of_the_table_is_exported() -> None:
    assert {spec.error.__name__ for spec in tritonguard.ERRORS.values()} <= set(tritonguard.__all__)


def test_the_package_is_typed() -> None:
    assert (Path(str(tritonguard.__file__)).parent / "py.typed").exists()


def test_importing_the_contract_needs_no_network_client_and_no_terminal() -> None:
    code = "import sys, tritonguard; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"tritonclient", "grpc", "rich", "torch"}.isdisjoint(ran.stdout.split())
    assert "tritonguard.guard" in ran.stdout.split()
