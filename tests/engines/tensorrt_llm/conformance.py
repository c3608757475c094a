"""One suite for every engine: what `engines/protocol.py` promises, and what TensorRT-LLM makes hard to promise.

A case is a function of a Subject, with the source of what it states. The local engine, the engine on the double and, on
a machine with a GPU, the real engine run it. An answer is compared with the definition (`definition.py`) where the
checkpoint is small enough for it, and with the program's grammar everywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from definition import Definition
from tritonguard.errors import GuardError

from engines.program import Choice, Forced, FreeText, NameList, Program
from engines.protocol import Answer, Engine, Job

LOCAL, DOUBLE, GPU = ENGINES = ("local", "double", "gpu")
TOLERANCE = 1e-3
"""Of a log-probability, between two ways to the same float32 arithmetic."""


class Words(Protocol):
    """Prompts and programs in the tokens of one checkpoint."""

    @property
    def verdict(self) -> Program: ...
    @property
    def pair(self) -> Program: ...
    def names(self, shape: str, *, most: int = 24, pair: bool = False) -> Program: ...
    def line(self, most: int) -> Program: ...
    def thinking(self, budget: int, *, pair: bool = False, without: frozenset[int] = frozenset()) -> Program: ...
    def ids(
        self, length: int, *, seed: int = 0, images: int = 0, program: Program | None = None
    ) -> npt.NDArray[np.int32]: ...
    def pixels(self, images: int, *, seed: int = 0) -> npt.NDArray[np.uint8]: ...


@dataclass
class Subject:
    """An engine under the suite. fresh: another one of it, which the case may end or break.

    definition: None where the checkpoint is too large for it. controls: of the double; None: there are none.
    """

    name: str
    engine: Engine
    words: Words
    fresh: Callable[[], AbstractContextManager[Subject]]
    definition: Definition | None = None
    controls: Any = None

    def job(self, program: Program, length: int = 24, *, seed: int = 0, images: int = 0, **values: Any) -> Job:
        ids = self.words.ids(length, seed=seed, images=images, program=program)
        pixels = self.words.pixels(images, seed=seed) if images else None
        return Job(ids, values.pop("prefix_length", 0), program, pixels, **values)

    def result(self, job: Job) -> Answer | GuardError:
        (result,) = self.engine.run([job])
        return result

    def answer(self, job: Job) -> Answer:
        result = self.result(job)
        assert isinstance(result, Answer), result
        return result

    def at_once(self, jobs: Sequence[Job]) -> list[Answer | GuardError]:
        """Each from a thread of its own, as the scheduler calls an engine of several lanes."""
        with ThreadPoolExecutor(len(jobs)) as pool:
            return list(pool.map(self.result, jobs))

    def agrees(self, job: Job) -> Answer:
        """The engine's answer, held to the program's grammar and to the definition."""
        answer = self.answer(job)
        well_formed(job.program, answer, all_known=self.definition is not None)
        if self.definition is not None:
            same(answer, self.definition.answer(job))
        return answer


def same(answer: Answer, expected: Answer) -> None:
    """Equal ids, and log-probabilities within TOLERANCE."""
    assert answer.ids == expected.ids
    np.testing.assert_allclose(answer.choice_logprobs, expected.choice_logprobs, atol=TOLERANCE)
    assert answer.truncated == expected.truncated


def well_formed(program: Program, answer: Answer, *, all_known: bool = True) -> None:
    """What the program's grammar and the protocol say of any answer: raises AssertionError where it breaks them.

    all_known: False where the engine may not learn how likely an option is. Then a choice may be no verdict (NaN, and
    never safe), and a list one that the parser refuses.
    """
    logprobs = answer.choice_logprobs
    assert logprobs.dtype == np.float32
    assert logprobs.shape == (len(program.choices), 2)
    read = np.isfinite(logprobs).all(axis=1)
    assert read.all() or not all_known
    np.testing.assert_allclose(np.exp(logprobs[read].astype(float)).sum(axis=1), 1.0, atol=1e-5)
    left, rows = list(answer.ids), list(logprobs)
    for segment in program.segments:
        if isinstance(segment, Forced):
            assert _taken(left, len(segment.ids)) == segment.ids
        elif isinstance(segment, Choice):
            safe, unsafe = rows.pop(0)
            assert _taken(left, 1) == ((segment.safe if safe > unsafe else segment.unsafe),)
        elif isinstance(segment, FreeText):
            at = next(at for at in range(len(left)) if tuple(left[at : at + len(segment.end)]) == segment.end)
            text = _taken(left, at)
            assert len(text) <= segment.max_tokens
            assert answer.truncated == (len(text) == segment.max_tokens)
            assert not set(text) & {segment.stop, segment.end[0], *segment.without}
            _taken(left, len(segment.end))
        elif (logprobs[:, 0] <= logprobs[:, 1]).any():
            if not all_known:
                return
            _list_is_well_formed(segment, left)
    assert not left


def _list_is_well_formed(names: NameList, left: list[int]) -> None:
    """Takes what is left as the list."""
    if names.items is None and not left:
        return
    assert _taken(left, len(names.head)) == names.head
    said = _taken(left, len(left))
    if names.items is None:
        assert names.end not in said
        assert len(said) <= names.max_tokens
        return
    groups = itertools.groupby(said, key=lambda id: id == names.separator[0])
    listed = [tuple(group) for is_separator, group in groups if not is_separator]
    assert listed
    assert set(listed) <= set(names.items)
    assert len(set(listed)) == len(listed)


def _taken(ids: list[int], count: int) -> tuple[int, ...]:
    taken = tuple(ids[:count])
    del ids[:count]
    return taken


@dataclass(frozen=True)
class Case:
    """source: where what it states is from. on: the engines that it is about."""

    name: str
    source: str
    on: frozenset[str]
    check: Callable[[Subject], None]


CASES: list[Case] = []


def case(source: str, *, on: Iterable[str] = ENGINES, **rows: Sequence[Any]) -> Callable[[Any], Any]:
    """Add a function of a subject to the suite: once, or once for each of `rows` (all of one length, by argument)."""

    def add(function: Any) -> Any:
        values = list(zip(*rows.values(), strict=True)) if rows else [()]
        for row in values:
            arguments = dict(zip(rows, row, strict=True))
            label = f"[{'-'.join(getattr(value, '__name__', str(value)) for value in row)}]" if row else ""
            name = function.__name__.removeprefix("_") + label

            def check(subject: Subject, arguments: dict[str, Any] = arguments) -> None:
                function(subject, **arguments)

            CASES.append(Case(name, source, frozenset(on), check))
        return function

    return add
