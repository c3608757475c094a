"""A program walked with drafts: the model writes ahead, the walk believes only what the program allows.

A request drafts as much of the answer as the program may still have, greedily. The walk goes through the program as a
decoder that forces would, one place after another, and says what stands there. It takes the next step of the draft as
long as all that it has said since is what the model wrote itself, so each distribution is read exactly where it
belongs: behind the prompt and everything said so far. From the first difference on, the rest of the draft belongs to
an answer that is not given; it is dropped, and the next request drafts anew behind what has been said.

So a draft saves requests and decides nothing. What it holds at a wrong place is never read; forced text is said
whatever it holds; a choice is safe only where P(safe) > P(unsafe) was read at its own place (`Step.read`); and each
request brings the walk on by a place at least, so it ends, whatever the model writes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from itertools import takewhile

from tritonguard.errors import InternalError

from engines.checkpoint import FloatArray
from engines.program import Choice, Forced, FreeText, NameList, Program, Segment
from engines.tensorrt_llm.draft import Draft, Step

FORWARD, THINK, CATEGORIES = "forward", "think", "categories"
"""What a request is for, in the names of `Answer.timings_ms`."""


@dataclass(frozen=True)
class Request:
    """Draft behind the prompt and the ids `said`: `most` tokens, or up to one of `stops` or the end of the turn."""

    said: tuple[int, ...]
    most: int
    phase: str
    stops: tuple[int, ...] = ()


@dataclass(frozen=True)
class Said:
    """The walked answer: ids, forced ones included, without the end of the turn; a row for each choice (`Step.read`).
    truncated: the reasoning was ended by its budget. bounded: a row is a bound."""

    ids: tuple[int, ...]
    rows: tuple[FloatArray, ...]
    truncated: bool
    bounded: bool


Walk = Generator[Request, Draft, Said]
_Looking = Generator[Request, Draft, Step]
_Writing = Generator[Request, Draft, None]


def walk(program: Program) -> Walk:
    """The program's answer: takes a Draft for each Request that it yields, and returns what was said.

    Raises InternalError for a draft without a token.
    """
    pen = _Pen()
    for at, segment in enumerate(program.segments):
        rest = program.segments[at + 1 :]
        if isinstance(segment, Forced):
            pen.say(*segment.ids)
        elif isinstance(segment, Choice):
            yield from _choose(pen, segment, longest(takewhile(_is_short, rest)))
        elif isinstance(segment, FreeText):
            yield from _write_text(pen, segment)
        elif pen.any_unsafe:
            write = _write_line if segment.items is None else _write_names
            yield from write(pen, segment)
    return Said(tuple(pen.said), tuple(pen.rows), pen.truncated, pen.bounded)


def longest(segments: Iterable[Segment]) -> int:
    """Tokens that an answer of these segments has at most, the end of the turn included."""
    return sum(map(_length, segments))


def _length(segment: Segment) -> int:
    if isinstance(segment, Forced):
        return len(segment.ids)
    if isinstance(segment, Choice):
        return 1
    if isinstance(segment, FreeText):
        return segment.max_tokens + len(segment.end)
    # A name that is longer than the budget is written all the same where it is the first.
    return len(segment.head) + max(segment.max_tokens, *map(len, segment.items or ()), 0) + 1


def _is_short(segment: Segment) -> bool:
    """Whether a draft goes on into this segment: not into free text, which has stops of its own."""
    return not isinstance(segment, FreeText)


@dataclass
class _Pen:
    """What has been said, and the part of the latest draft that is still ahead."""

    said: list[int] = field(default_factory=list)
    ahead: deque[Step] = field(default_factory=deque)
    rows: list[FloatArray] = field(default_factory=list)
    truncated: bool = False
    bounded: bool = False

    @property
    def any_unsafe(self) -> bool:
        """As in the local engine; a row that is NaN says nothing, and its label is indeterminate without a list."""
        return any(row[0] <= row[1] for row in self.rows)

    def say(self, *ids: int) -> None:
        for id in ids:
            self.said.append(id)
            if self.ahead and self.ahead.popleft().id != id:
                self.ahead.clear()

    def cut(self, length: int) -> None:
        """Unsay all but the first `length` ids."""
        del self.said[length:]
        self.ahead.clear()

    def look(self, most: int, phase: str, stops: tuple[int, ...] = ()) -> _Looking:
        """The step at this place: of the draft, or of a new one of `most` tokens."""
        if not self.ahead:
            self.ahead.extend((yield Request(tuple(self.said), most, phase, stops)))
        if not self.ahead:
            raise InternalError("a request was answered without a token")
        return self.ahead[0]


def _choose(pen: _Pen, choice: Choice, behind: int) -> _Writing:
    """Read a choice at its place and say it; `behind`: tokens that may follow it. A tie says unsafe, as in
    `label_from_choices`."""
    step = yield from pen.look(1 + behind, FORWARD)
    row, bounded = step.read(choice)
    pen.rows.append(row)
    pen.bounded |= bounded
    pen.say(choice.safe if row[0] > row[1] else choice.unsafe)


def _write_text(pen: _Pen, text: FreeText) -> _Writing:
    """Free text, as `engines.local.steps.write_text`, but that an id of `without` always ends it: to pass over one
    would cost a request, and a prompt could ask for hundreds."""
    ends = {text.stop, text.end[0], *text.without}
    for written in range(text.max_tokens):
        step = yield from pen.look(text.max_tokens - written, THINK, (text.end[0], text.stop))
        if step.id in ends:
            break
        pen.say(step.id)
    else:
        pen.truncated = True
    pen.say(*text.end)


def _write_names(pen: _Pen, names: NameList) -> _Writing:
    """As `engines.local.steps.write_names`: each allowed name at most once, by what is known of the likeliest.

    Where nothing allowed is known, the list ends if it may. If it may not, it is handed on as the model drafted it:
    no list of allowed names, which the parser refuses, so the label is indeterminate.
    """
    assert names.items is not None
    left = list(names.items)
    widest = max(map(len, left)) + len(names.separator)
    budget = len(pen.said) + len(names.head) + names.max_tokens
    last = len(pen.said) + _length(names)
    pen.say(*names.head)
    while True:
        node: tuple[int, ...] = ()
        while True:
            options = {item[len(node)] for item in left if item[: len(node)] == node and len(item) > len(node)}
            if done := node in left:
                options.add(names.end)
                if len(left) > 1 and len(pen.said) + widest <= budget:
                    options.add(names.separator[0])
            if len(options) == 1:
                (chosen,) = options
            else:
                step = yield from pen.look(last - len(pen.said), CATEGORIES)
                best = step.best(options)
                if best is None and not done:
                    pen.say(*(step.id for step in takewhile(lambda step: step.id != names.end, tuple(pen.ahead))))
                    return
                chosen = names.end if best is None else best
            if done and chosen == names.end:
                return
            if done and chosen == names.separator[0]:
                break
            node += (chosen,)
            pen.say(chosen)
        left.remove(node)
        pen.say(*names.separator)


def _write_line(pen: _Pen, names: NameList) -> _Writing:
    """As `engines.local.steps.write_line`: any one line; where the budget cuts it, the whole names of it."""
    began = len(pen.said)
    pen.say(*names.head)
    for written in range(names.max_tokens):
        step = yield from pen.look(names.max_tokens - written, CATEGORIES)
        if step.id == names.end:
            return
        pen.say(step.id)
    whole = [at for at in range(began, len(pen.said)) if pen.said[at] == names.separator[0]]
    pen.cut(whole[-1] if whole else began)
