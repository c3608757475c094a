"""Both sides over one corpus, in turn; and what can't be compared at all."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from build_scripts.parity_corpus import Row
from build_scripts.parity_reading import Reading, Side, SideError

Blocks = Iterable[list[int]]
MOST_WARM_UPS = 16
"""A corpus with a policy a row would otherwise be run twice."""


class Incomparable(Exception):
    """The two sides are not asked the same thing. The text says what differs; a reason to refuse, no crash."""


@dataclass(frozen=True)
class Run:
    """readings: of A and of B, in the corpus' order. wall_s: seconds that each side was busy."""

    a: tuple[Reading, ...]
    b: tuple[Reading, ...]
    wall_s: tuple[float, float]


def check_comparable(a: Side, b: Side, rows: Sequence[Row]) -> None:
    """Raises Incomparable: another taxonomy, or other token ids for a row where both sides show theirs."""
    if a.taxonomy is not None and b.taxonomy is not None and a.taxonomy != b.taxonomy:
        raise Incomparable(f"taxonomy: A has {a.taxonomy!r}, B has {b.taxonomy!r}")
    for row in rows:
        ours, theirs = a.prompt_ids(row), b.prompt_ids(row)
        if ours is None or theirs is None:
            continue
        prefix = max(ours[1], theirs[1])
        if ours[0][:prefix] != theirs[0][:prefix]:
            raise Incomparable(
                f"policy prefix: the first {prefix} prompt tokens differ for row {row.id}; "
                "the chat template, its policy text or the tokenizer is another"
            )
        if ours[0] != theirs[0]:
            raise Incomparable(f"prompt: the token ids behind the policy prefix differ for row {row.id}")


def check_counted(rows: Sequence[Row], a: Sequence[Reading], b: Sequence[Reading]) -> None:
    """Raises Incomparable where both sides counted a row's prompt tokens and came to different numbers."""
    for row, one, other in zip(rows, a, b, strict=True):
        counts = one.prompt_tokens, other.prompt_tokens
        if None not in counts and counts[0] != counts[1]:
            raise Incomparable(
                f"prompt: row {row.id} has {counts[0]} tokens on A and {counts[1]} on B; "
                "the chat template, its policy text or the tokenizer is another"
            )


def blocks(rows: Sequence[Row], size: int) -> list[list[int]]:
    """Indices in blocks of at most `size` rows that ask for the same kind of answer, of one kind by length.

    A block is one batch: rows of different kinds in one would charge a long answer's time to a short one, and all
    are padded to the longest.
    """
    kinds: dict[tuple[object, ...], list[int]] = {}
    for index, row in enumerate(rows):
        kinds.setdefault((row.mode, row.has_response, row.part.custom_policy, row.part.custom_taxonomy), []).append(
            index
        )
    ordered = [sorted(found, key=lambda index: _length(rows[index])) for found in kinds.values()]
    return [found[start : start + size] for found in ordered for start in range(0, len(found), size)]


def _length(row: Row) -> int:
    """Bytes of its texts, which stand for the tokens that no policy shares."""
    return len(f"{row.request.prompt}{row.request.response or ''}".encode())


def warm_up(side: Side, rows: Sequence[Row], size: int) -> None:
    """A block of each shape and a row of each policy, unmeasured: the prefix's keys and values. Raises SideError.

    A side that gives no answer at all to its first block is not a side that disagrees.
    """
    shapes: set[tuple[object, ...]] = set()
    policies: set[tuple[object, ...]] = set()
    first: list[list[int]] = []
    for block in blocks(rows, size):
        row = rows[block[0]]
        shape, policy = (row.mode, row.has_response), (row.part.custom_policy, row.part.custom_taxonomy)
        if shape not in shapes:
            first.append(block)
        elif policy not in policies:
            first.append(block[:1])
        shapes.add(shape)
        policies.add(policy)
    for number, block in enumerate(first[:MOST_WARM_UPS]):
        readings = side.read([rows[index] for index in block])
        if number == 0 and all(reading.error for reading in readings):
            raise SideError(f"{side.name} answers nothing: {readings[0].error}")


def read_all(
    side: Side, rows: Sequence[Row], size: int, follow: Callable[[Blocks, int], Blocks] = lambda items, total: items
) -> list[Reading]:
    """One side's readings of all rows, a block at a time, in the corpus' order."""
    found: dict[int, Reading] = {}
    queue = blocks(rows, size)
    for block in follow(queue, len(queue)):
        found.update(zip(block, side.read([rows[index] for index in block]), strict=True))
    return [found[index] for index in range(len(rows))]


def run(
    a: Side,
    b: Side,
    rows: Sequence[Row],
    *,
    size: int,
    follow: Callable[[Blocks, int], Blocks] = lambda items, total: items,
) -> Run:
    """Every block on both sides, the order changing from block to block, so that noise falls on both alike."""
    sides = (a, b)
    found: tuple[dict[int, Reading], dict[int, Reading]] = ({}, {})
    wall = [0.0, 0.0]
    queue = blocks(rows, size)
    for number, block in enumerate(follow(queue, len(queue))):
        asked = [rows[index] for index in block]
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            began = time.perf_counter()
            found[which].update(zip(block, sides[which].read(asked), strict=True))
            wall[which] += time.perf_counter() - began
    first, second = (tuple(one[index] for index in range(len(rows))) for one in found)
    return Run(first, second, (wall[0], wall[1]))


def followed(items: Blocks, total: int) -> Iterator[list[int]]:
    """A bar with rate and time left on stderr; a line every tenth of the way where it is no terminal."""
    console = Console(file=sys.stderr)
    columns = (TextColumn("  parity"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    began = time.monotonic()
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("", total=total)
        for number, item in enumerate(items, 1):
            yield item
            progress.advance(task)
            if not sys.stderr.isatty() and (number * 10 // total) > ((number - 1) * 10 // total):
                console.print(f"  parity {number}/{total} blocks, {time.monotonic() - began:.0f} s", highlight=False)
