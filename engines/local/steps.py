"""A program's answer as steps: what to read next, and what the model said behind it.

Each part is a generator: it yields a `Step`, is sent what was `Seen` at its ends, and returns what was said. Whoever
runs the steps holds the keys and values; here is only what is decided. Tokens that are forced ride along with the
next step.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from engines.checkpoint import FloatArray
from engines.local.tree import Tree
from engines.program import FreeText, NameList


@dataclass(frozen=True)
class Step:
    """Read `tree` behind all that was said so far.

    candidates: ids whose logits are wanted at each end of the tree. without: the likeliest id of the whole vocabulary
    behind the trunk is wanted, these passed over; None: it is not. kept: indices of the step before that were said.
    phase: what its time is counted as.
    """

    tree: Tree
    phase: str
    kept: Sequence[int] = ()
    candidates: tuple[int, ...] = ()
    without: frozenset[int] | None = None


@dataclass(frozen=True)
class Seen:
    """logits: float32 [ends, candidates]. best: the likeliest id, where it was asked for."""

    logits: FloatArray
    best: int = -1


@dataclass(frozen=True)
class Written:
    """ids: what was written, in order. unread: its last ids, which no step has read. kept: see `Step`."""

    ids: tuple[int, ...]
    unread: tuple[int, ...] = ()
    kept: Sequence[int] = ()
    truncated: bool = False


@dataclass(frozen=True)
class Ahead:
    """Logits float32 [C] of these ids in front of a name, seen before it was known that one comes."""

    ids: tuple[int, ...]
    logits: FloatArray

    def best(self, options: Sequence[int]) -> int:
        return best_of(options, self.ids, self.logits)


Writing = Generator[Step, Seen, Written]


def write_names(
    unread: Sequence[int], names: NameList, *, kept: Sequence[int] = (), ahead: Ahead | None = None
) -> Writing:
    """At least one of the allowed names, each at most once, ended within the budget.

    unread: said in front of the list's head, if `ahead` is None; otherwise the head is among what was kept. Where a
    name may be the last one, the step looks behind the separator too: one step for each name.
    """
    assert names.items is not None
    left = list(names.items)
    longest = max(map(len, left)) + len(names.separator)
    pending, written = [] if ahead else [*unread, *names.head], [*names.head]
    budget = names.max_tokens + len(names.head)
    while True:
        node: tuple[int, ...] = ()
        while True:
            options = next_ids(left, node)
            done = node in left
            if done:
                room = len(written) + longest <= budget and len(left) > 1
                options += [names.end, *([names.separator[0]] if room else [])]
            if len(options) == 1:
                chosen = options[0]
            elif ahead:
                chosen, ahead = ahead.best(options), None
            else:
                follow = next_ids((item for item in left if item != node), ()) if names.separator[0] in options else []
                tree = Tree(tuple(pending), (names.separator,) if len(follow) > 1 else ())
                asked = tuple(sorted({*options, *follow}))
                seen = yield Step(tree, "categories", kept, asked)
                chosen = best_of(options, asked, seen.logits[0])
                goes_on = done and chosen == names.separator[0] and len(follow) > 1
                kept = tree.path(0) if goes_on else range(len(pending))
                ahead, pending = Ahead(asked, seen.logits[1]) if goes_on else None, []
            if done and chosen == names.end:
                return Written(tuple(written))
            if done and chosen == names.separator[0]:
                break
            node += (chosen,)
            pending.append(chosen)
            written.append(chosen)
        left.remove(node)
        pending += () if ahead else names.separator
        written += names.separator


def write_line(unread: Sequence[int], names: NameList, *, kept: Sequence[int] = ()) -> Writing:
    """Any one line of text (a free-text policy has no list of names).

    Where the budget cuts it, the last whole names are kept; not even the head, where there is none.
    """
    pending, written = [*unread, *names.head], [*names.head]
    for _ in range(names.max_tokens):
        seen = yield Step(Tree(tuple(pending)), "categories", kept, without=frozenset())
        if seen.best == names.end:
            return Written(tuple(written))
        kept, pending = range(len(pending)), [seen.best]
        written.append(seen.best)
    whole = [at for at, id in enumerate(written) if id == names.separator[0]]
    return Written(tuple(written[: whole[-1]] if whole else ()), truncated=True)


def write_text(unread: Sequence[int], text: FreeText, features: FloatArray | None = None) -> Writing:
    """Free text and its end: the end that the model began, or one put there when the budget was spent.

    unread: the whole prompt behind its prefix, with the features of its images.
    """
    kept: Sequence[int] = ()
    pending, written = list(unread), list[int]()
    for _ in range(text.max_tokens):
        seen = yield Step(Tree(tuple(pending), features=features), "think", kept, without=text.without)
        kept, features = range(len(pending)), None
        if seen.best in (text.stop, text.end[0]) or seen.best in text.without:
            return Written((*written, *text.end), text.end, kept)
        pending = [seen.best]
        written.append(seen.best)
    return Written((*written, *text.end), (*pending, *text.end), kept, truncated=True)


def next_ids(items: Iterable[tuple[int, ...]], node: tuple[int, ...]) -> list[int]:
    """What may follow `node` in a trie of these, in ascending order."""
    return sorted({item[len(node)] for item in items if item[: len(node)] == node and len(item) > len(node)})


def best_of(options: Sequence[int], ids: Sequence[int], logits: FloatArray) -> int:
    """The likeliest of these options; logits float32 [C]: of ids. Of equal ones the first."""
    return options[int(np.argmax(logits[[ids.index(option) for option in options]]))]
