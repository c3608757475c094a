"""What a manifest says of the code that made a folder: a folder of other code is made again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from engines.manifest import sha256_file


def source_hashes(modules: Iterable[ModuleType]) -> dict[str, str]:
    """{last part of the module's name: SHA-256 of its file}."""
    return {module.__name__.rpartition(".")[2]: sha256_file(Path(str(module.__file__))) for module in modules}
