"""The Dockerfile, read: its stages, what holds in an image, what is copied and pinned. Nothing is built."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"


@dataclass
class Stage:
    """base: what it is made from. lines: (instruction, rest), continuation lines joined."""

    base: str
    lines: list[tuple[str, str]] = field(default_factory=list)

    def rests(self, instruction: str) -> list[str]:
        return [rest for name, rest in self.lines if name == instruction]


def instructions() -> Iterator[tuple[str, str]]:
    text = re.sub(r"(?m)^\s*#.*\n", "", DOCKERFILE.read_text())
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.strip():
            name, rest = line.split(maxsplit=1)
            yield name, rest


def _read_stages() -> dict[str, Stage]:
    found: dict[str, Stage] = {}
    stage: Stage | None = None
    for name, rest in instructions():
        if name == "FROM":
            base, _, own = rest.partition(" AS ")
            stage = found[own] = Stage(base)
        elif stage is not None:
            stage.lines.append((name, rest))
    return found


STAGES = _read_stages()


def lineage(name: str) -> list[Stage]:
    """The stage and what it is made from, nearest first."""
    stages = [STAGES[name]]
    while stages[-1].base in STAGES:
        stages.append(STAGES[stages[-1].base])
    return stages


def last(name: str, instruction: str) -> str:
    """What holds in the image: the last such instruction of the stage, or of the nearest before it."""
    return next(rests[-1] for stage in lineage(name) if (rests := stage.rests(instruction)))


def commands(name: str) -> str:
    """Everything that is run to make the image."""
    return " && ".join(rest for stage in reversed(lineage(name)) for rest in stage.rests("RUN"))


def environment(name: str) -> dict[str, str]:
    pairs = [pair for stage in reversed(lineage(name)) for rest in stage.rests("ENV") for pair in rest.split()]
    return dict(pair.split("=", 1) for pair in pairs)


def copied() -> list[str]:
    """What is copied out of the repository."""
    rests = [rest for stage in STAGES.values() for rest in stage.rests("COPY") if not rest.startswith("--from=")]
    return sorted({source for rest in rests for source in rest.split()[:-1]})


def pins() -> dict[str, str]:
    """{package: version} of what is named with one."""
    found = re.findall(r"(?<![\w-])([A-Za-z][\w.-]*)==([\w.]+)", " ".join(rest for _, rest in instructions()))
    return {canonical(name): version for name, version in found}


def unpinned() -> list[str]:
    """What the GPU image is given at the version of constraints.txt, where it lacks it."""
    (words,) = re.findall(r"--constraint pins\.txt ([^&]*)", commands("gpu"))
    return [canonical(re.sub(r"[\"']|\[.*", "", word)) for word in words.split() if "==" not in word]


def constraints() -> dict[str, str]:
    """{package: version} of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {canonical(name): version for name, _, version in (line.partition("==") for line in lines) if version}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
