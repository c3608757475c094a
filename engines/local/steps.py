"""The parts of a program that take more than one pass: category lists over a trie, and free text.

Both read one token after another behind a context; tokens that are forced ride along with the next pass. Each
loop asks `check` between passes, which raises when the job's time is over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from engines.checkpoint import FloatArray
from engines.local.context import Context
from engines.program import FreeText, NameList

Check = Callable[[], None]


class Reader(Protocol):
    """One row's passes. `read` appends ids to the context and returns it with the last token's state."""

    def read(self, context: Context, ids: Sequence[int], candidates: Sequence[int]) -> tuple[Context, FloatArray]:
        """Returns the longer context and logits float32 [C] of the candidates behind the last id."""
        ...

    def best(self, context: Context, ids: Sequence[int], without: frozenset[int] = frozenset()) -> tuple[Context, int]:
        """Returns the longer context and the likeliest id of the whole vocabulary behind the last id.

        without: ids passed over; one of them comes back only where nothing else is likely at all.
        """
        ...


@dataclass(frozen=True)
class Written:
    """ids: what was written, in order. unread: its last ids, which are not in the context yet."""

    context: Context
    ids: tuple[int, ...]
    unread: tuple[int, ...]
    truncated: bool = False


def write_names(reader: Reader, context: Context, unread: Sequence[int], names: NameList, check: Check) -> Written:
    """At least one of the allowed names, each at most once, ended within the budget. `unread` precedes them."""
    assert names.items is not None
    left = list(names.items)
    longest = max(map(len, left)) + len(names.separator)
    pending, written = [*unread, *names.head], [*names.head]
    budget = names.max_tokens + len(names.head)
    while True:
        node: tuple[int, ...] = ()
        while True:
            options = sorted({item[len(node)] for item in left if item[: len(node)] == node and len(item) > len(node)})
            done = node in left
            if done:
                room = len(written) + longest <= budget and len(left) > 1
                options += [names.end, *([names.separator[0]] if room else [])]
            if len(options) == 1:
                chosen = options[0]
            else:
                check()
                context, logits = reader.read(context, pending, options)
                pending = []
                chosen = options[int(np.argmax(logits))]
            if done and chosen == names.end:
                return Written(context, tuple(written), tuple(pending))
            if done and chosen == names.separator[0]:
                break
            node += (chosen,)
            pending.append(chosen)
            written.append(chosen)
        left.remove(node)
        pending += names.separator
        written += names.separator


def write_line(reader: Reader, context: Context, unread: Sequence[int], names: NameList, check: Check) -> Written:
    """Any one line of text (a free-text policy has no list of names).

    Where the budget cuts it, the last whole names are kept; not even the head, where there is none.
    """
    pending, written = [*unread, *names.head], [*names.head]
    for _ in range(names.max_tokens):
        check()
        context, chosen = reader.best(context, pending)
        pending = [chosen]
        if chosen == names.end:
            return Written(context, tuple(written), ())
        written.append(chosen)
    whole = [at for at, id in enumerate(written) if id == names.separator[0]]
    return Written(context, tuple(written[: whole[-1]] if whole else ()), (), truncated=True)


def write_text(reader: Reader, context: Context, unread: Sequence[int], text: FreeText, check: Check) -> Written:
    """Free text and its end: the end that the model began, or one put there when the budget was spent."""
    pending, written = list(unread), list[int]()
    for _ in range(text.max_tokens):
        check()
        context, chosen = reader.best(context, pending, text.without)
        if chosen in (text.stop, text.end[0]) or chosen in text.without:
            return Written(context, (*written, *text.end), text.end)
        pending = [chosen]
        written.append(chosen)
    return Written(context, (*written, *text.end), (*pending, *text.end), truncated=True)
