"""Many rows through a guard, in their order, into an output that a later run can go on with."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from tritonguard import bulk_file, cli_input
from tritonguard.bulk_file import RETRY_SUFFIX, Writer, held, keep, line_of, read_line
from tritonguard.cli_input import Item, Row
from tritonguard.cli_output import Answer
from tritonguard.cli_tally import Fate, Tally
from tritonguard.errors import GuardError, InvalidRequest
from tritonguard.guard import Guard
from tritonguard.policy import Policy
from tritonguard.request import GuardRequest, Mode

_MOST_WAITING = 10_000
_HASH_CHARACTERS = 16


@dataclass(frozen=True)
class Question:
    """What is asked of every row that does not say otherwise. deadline_s: seconds per row."""

    policy: Policy
    policy_name: str | None
    mode: str
    think_budget: int | None
    deadline_s: float

    @property
    def sha256(self) -> str:
        """The first 16 hex characters of a SHA-256 of all that can change an answer; not the deadline."""
        asked = [self.policy.sha256, self.policy_name, self.mode, self.think_budget]
        return hashlib.sha256(json.dumps(asked).encode("utf-8")).hexdigest()[:_HASH_CHARACTERS]

    def request(self, item: Item) -> GuardRequest:
        """Raises InvalidRequest and ImageTooLarge; reads the item's images."""
        if item.error is not None:
            raise item.error
        mode = self.mode if item.mode is None else item.mode
        budget = self.think_budget if mode == Mode.THINK.value else None
        name = self.policy_name if item.policy_name is None else item.policy_name
        return GuardRequest.create(
            prompt=item.prompt or "",
            response=item.response,
            images=cli_input.read_images(item),
            policy=self.policy if name is None else Policy(),
            policy_name=name,
            mode=mode,
            think_budget=budget if item.think_budget is None else item.think_budget,
            deadline_s=self.deadline_s,
        )


@dataclass(frozen=True)
class Line:
    """One line of an output, ready to be written."""

    raw: bytes
    fate: Fate


def answers(
    work: Iterable[Item | Line], guard: Guard, question: Question, *, concurrency: int
) -> Iterator[Answer | Line]:
    """The answer to each item, in order; lines pass in their place."""
    source = iter(work)
    waiting: deque[tuple[Item | Line, GuardError | None]] = deque()
    ended = False

    def requests() -> Iterator[GuardRequest]:
        nonlocal ended
        # Bounded: a file without one good row must not gather in memory until its end.
        while len(waiting) < _MOST_WAITING:
            item = next(source, None)
            if item is None:
                ended = True
                return
            if isinstance(item, Line):
                waiting.append((item, None))
                continue
            try:
                request = question.request(item)
            except GuardError as error:
                waiting.append((item, error))
            else:
                waiting.append((item, None))
                yield request

    def settled() -> Iterator[Answer | Line]:
        """What waits in front of the next item that was sent."""
        while waiting and (isinstance(waiting[0][0], Line) or waiting[0][1] is not None):
            item, error = waiting.popleft()
            yield item if isinstance(item, Line) else Answer(item, error=error)

    while not ended:
        for result in guard.check_many(requests(), concurrency=concurrency):
            yield from settled()
            item, _ = waiting.popleft()
            assert isinstance(item, Item)
            if isinstance(result, GuardError):
                yield Answer(item, error=result)
            else:
                yield Answer(item, verdict=result)
        yield from settled()


def rows_to_file(
    rows: Iterator[Row],
    out: Path,
    judge: Callable[[Iterable[Row | Line]], Iterator[Answer | Line]],
    question: str,
    tally: Tally,
    *,
    restart: bool,
    retry: bool,
) -> Generator[Fate, None, None]:
    """Bring `out` to one line per row and yield the fate of each line that is written; `tally` counts them all.

    judge: from rows to their answers, in order. question: the hash of what is asked. restart: discard what is
    there. retry: judge again the rows that the server's side failed, in a file beside `out` that takes its place
    when it is whole; interrupted, the next run with `retry` goes on with it.
    Raises InvalidRequest where `out` does not belong to the rows and the question, or another run holds it, and
    OSError.
    """
    beside = out.with_name(out.name + RETRY_SUFFIX)
    with held(out) as stream:
        if restart:
            beside.unlink(missing_ok=True)
            stream.truncate()
        if not retry:
            yield from _fill(stream, rows, judge, question, tally, name=str(out), before=iter(()))
            return
        with held(beside) as new:
            yield from _fill(new, rows, judge, question, tally, name=str(beside), before=stream, old=str(out))
        bulk_file.replace(beside, out)


def _fill(
    stream: BinaryIO,
    rows: Iterator[Row],
    judge: Callable[[Iterable[Row | Line]], Iterator[Answer | Line]],
    question: str,
    tally: Tally,
    *,
    name: str,
    before: Iterable[bytes],
    old: str = "",
) -> Generator[Fate, None, None]:
    """before: lines of an older output, called `old`, for all rows from the first; its failed ones are judged."""
    left = keep(stream, rows, question, lambda fate: tally.add(fate, kept=True), name=name)
    older = islice(before, tally.rows, None)

    def work() -> Iterator[Row | Line]:
        for row in left:
            line = next(older, b"")
            if line.endswith(b"\n"):
                fate = read_line(line, row, question, name=old)
                if not fate.failed:
                    yield Line(line, fate)
                    continue
            yield row
        if next(older, b"").endswith(b"\n"):
            raise InvalidRequest(f"{old}: has more lines than the input has rows", field="out")

    with Writer(stream) as writer:
        for answer in judge(work()):
            if isinstance(answer, Line):
                writer.write(answer.raw)
                tally.add(answer.fate, kept=True)
                yield answer.fate
                continue
            assert answer.item.row is not None
            writer.write(line_of(answer.item.row, question, answer.to_dict()))
            tally.add(answer.fate)
            yield answer.fate
