"""Damaged answers by the million, read and judged.

    python tests/client/fuzz_answers.py --count 1000000 --seed 0

Prints a table, a row for each way of damaging: how many were made, how many were still read, how many were read as
safe though the oracle does not grant it, and how many broke another promise (a valid answer refused or misread, a
broken one read). Ends with 1 if a count of the last two is not 0.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from answer_mutations import MUTATIONS, Effect
from answer_oracle import Reading, reading
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tritonguard.answer import ParsedAnswer, UnreadableAnswer, parse_answer
from valid_answers import Answer, build


@dataclass
class Tally:
    """Counts for one way of damaging. seconds: spent in the parser. example: the first text that broke a promise."""

    made: int = 0
    read: int = 0
    wrongly_safe: int = 0
    other_faults: int = 0
    seconds: float = 0.0
    example: str | None = None


def parse(answer: Answer, text: str) -> ParsedAnswer | None:
    """`text` in the place of `answer`; None where it is refused."""
    try:
        return parse_answer(text, mode=answer.mode, has_response=answer.response is not None, names=answer.names)
    except UnreadableAnswer:
        return None


def grant(answer: Answer, text: str) -> Reading | None:
    """What the oracle lets `text` say in the place of `answer`."""
    return reading(text, mode=answer.mode.value, has_response=answer.response is not None, names=answer.names)


def sides(parsed: ParsedAnswer | Answer) -> Reading:
    return Reading(parsed.user.value, parsed.response.value if parsed.response else None)


def is_wrongly_safe(answer: Answer, effect: Effect, parsed: ParsedAnswer | None, granted: Reading | None) -> bool:
    """Whether a side was read as safe that the oracle, or the way of damaging, does not let be safe."""
    if parsed is None:
        return False
    if effect is Effect.BREAKS or granted is None:
        return "safe" in sides(parsed)
    may = [granted, granted if effect is Effect.JUDGED else sides(answer)]
    return any(said == "safe" and set(let) != {"safe"} for said, *let in zip(sides(parsed), *may, strict=True))


def breaks_a_promise(answer: Answer, effect: Effect, parsed: ParsedAnswer | None, granted: Reading | None) -> bool:
    """Whether the reading is not what the oracle and the way of damaging say it must be."""
    if granted != (sides(parsed) if parsed else None):
        return True
    if effect is Effect.BREAKS:
        return parsed is not None
    if effect is Effect.KEEPS:
        return parsed is None or sides(parsed) != sides(answer) or not _same_names(answer, parsed)
    return False


def _same_names(answer: Answer, parsed: ParsedAnswer) -> bool:
    if parsed.categories is None:
        return not answer.categories
    # Free names come back as they were written, and the case of the text may have been changed.
    free = answer.names is None
    return [name.casefold() if free else name for name in parsed.categories] == [
        name.casefold() if free else name for name in answer.categories
    ]


def fuzz(count: int, seed: int, *, watched: Callable[[range], Iterable[int]] = iter) -> dict[str, Tally]:
    """`count` damaged answers, evenly over the ways; those that do not apply are made from another answer."""
    rng = random.Random(seed)
    names = list(MUTATIONS)
    tallies = {name: Tally() for name in names}
    for number in watched(range(count)):
        name = names[number % len(names)]
        effect, change = MUTATIONS[name]
        text = None
        while text is None:
            answer = build(rng)
            text = change(answer, rng)
        begun = time.perf_counter()
        parsed = parse(answer, text)
        tally = tallies[name]
        tally.seconds += time.perf_counter() - begun
        granted = grant(answer, text)
        tally.made += 1
        tally.read += parsed is not None
        wrongly_safe = is_wrongly_safe(answer, effect, parsed, granted)
        fault = breaks_a_promise(answer, effect, parsed, granted)
        tally.wrongly_safe += wrongly_safe
        tally.other_faults += fault and not wrongly_safe
        if (wrongly_safe or fault) and tally.example is None:
            tally.example = f"{answer.mode.value}, {sides(answer)}: {text!r}"
    return tallies


def table_of(tallies: dict[str, Tally]) -> Table:
    table = Table(title="damaged answers")
    for column in ("way", "must", "made", "still read", "wrongly safe", "other faults", "parser s"):
        table.add_column(column, justify="left" if column in ("way", "must") else "right")
    for name, tally in tallies.items():
        counts = (tally.made, tally.read, tally.wrongly_safe, tally.other_faults)
        table.add_row(name, MUTATIONS[name][0].value, *(f"{number:,}" for number in counts), f"{tally.seconds:.2f}")
    total = [sum(getattr(tally, key) for tally in tallies.values()) for key in ("made", "read")]
    faults = [sum(getattr(tally, key) for tally in tallies.values()) for key in ("wrongly_safe", "other_faults")]
    seconds = sum(tally.seconds for tally in tallies.values())
    table.add_section()
    table.add_row("all", "", *(f"{number:,}" for number in total + faults), f"{seconds:.2f}")
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=1_000_000, help="how many damaged answers (default 1,000,000)")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    progress = Console(stderr=True)
    begun = time.perf_counter()
    tallies = fuzz(asked.count, asked.seed, watched=lambda numbers: track(numbers, "reading", console=progress))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table_of(tallies))
    console.print(f"seed {asked.seed}, {time.perf_counter() - begun:.0f} s in all")
    for name, tally in tallies.items():
        if tally.example is not None:
            console.print(f"{name}: {tally.example}", markup=False, highlight=False)
    return int(any(tally.wrongly_safe or tally.other_faults for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
