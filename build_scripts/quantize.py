"""Quantize a checkpoint for one of the engines: `compile` makes a bundle of the result.

python -m build_scripts.quantize --target openvino --profile int8-dynamic --out build/quantized/int8-dynamic
python -m build_scripts.quantize --target tensorrt-llm --profile fp8-kv --checkpoint DOWNLOADED --out build/fp8-kv
"""

from __future__ import annotations

import sys

from build_scripts import targets


def main(argv: list[str] | None = None) -> int:
    return targets.run("quantize", str(__doc__), argv)


if __name__ == "__main__":
    sys.exit(main())
