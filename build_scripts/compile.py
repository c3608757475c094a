"""Compile a checkpoint into a bundle: the one folder that a server needs to judge with it.

python -m build_scripts.compile --target openvino --checkpoint build/merged --out build/bundle
python -m build_scripts.compile --target tensorrt-llm --checkpoint build/fp8-kv --out build/bundle
"""

from __future__ import annotations

import sys

from build_scripts import targets


def main(argv: list[str] | None = None) -> int:
    return targets.run("compile", str(__doc__), argv)


if __name__ == "__main__":
    sys.exit(main())
