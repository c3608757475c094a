"""One command, two targets: `--target` picks whose script reads the rest of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module

from engines.bundle import OPENVINO, TARGETS

PACKAGES = {target: target.replace("-", "_") for target in TARGETS}
"""{target: package of build_scripts}."""


def run(script: str, description: str, argv: Sequence[str] | None) -> int:
    """The `main` of `build_scripts.<package>.<script>`, with what follows `--target`. Returns its exit status.

    Only that target's script is imported: each needs packages that the other's environment doesn't have.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m build_scripts.{script}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Each target has options of its own: python -m build_scripts.{script} --target TARGET --help",
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("--target", choices=TARGETS, help=f"the engine that is to run the model ({OPENVINO})")
    parser.add_argument("-h", "--help", action="store_true", help="this text, or that of the target named")
    args, rest = parser.parse_known_args(argv)
    if args.help and args.target is None:
        parser.print_help()
        return 0
    module = import_module(f"build_scripts.{PACKAGES[args.target or OPENVINO]}.{script}")
    status: int = module.main([*rest, *(["--help"] if args.help else [])])
    return status
