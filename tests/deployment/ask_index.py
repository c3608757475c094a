"""Asks the package index for every version that the GPU images get from here, as a wheel for Python 3.12.

    python tests/deployment/ask_index.py

pip's own configuration says which index. Not a test: tests ask no network. Exit code 1 where one can't be had.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

from dockerfile import constraints, pins, unpinned

PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
WHEELS = ("--python-version", "3.12", "--only-binary", ":all:", "--no-deps")


def main() -> int:
    wanted = {**{name: constraints()[name] for name in unpinned()}, **pins()}
    missing = [name for name, version in wanted.items() if not _can_be_had(f"{name}=={version}")]
    print(f"{len(wanted) - len(missing)} of {len(wanted)} can be had")
    return bool(missing)


def _can_be_had(requirement: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
        command = [sys.executable, "-m", "pip", "download", *WHEELS, *platforms, "--dest", folder, requirement]
        found = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    print(f"{requirement:28}{'yes' if found.returncode == 0 else 'NO'}", flush=True)
    return found.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
