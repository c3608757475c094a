"""What the log-probabilities mean: observations in, an answer and its words out. Pure; nothing here asks anybody."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.gpu_day_one.package import Failure, Reply, Result

SAME_NATS = 2e-3
"""Between two readings of one log-probability. The same request, alone each time, has the same logits: what is left is
the float32 of the log-softmax."""
SURE = 0.999
"""Probability of the two likeliest tokens from which on two normalisations can't be told apart."""
Row = Mapping[int, float]
"""{token: log-probability} of one place."""
Judged = tuple[Any, str]
"""The value (None: could not be told) and what it means, in words."""


def most_accepted(results: Mapping[int, Result]) -> Judged:
    """{K asked for: result} -> the largest K that came back whole; None where not even the least did."""
    whole = [k for k, one in results.items() if isinstance(one, Reply) and one.logprobs and len(one.logprobs[0]) >= k]
    refused = {k: one for k, one in results.items() if isinstance(one, Failure)}
    if not whole:
        return None, f"none of {sorted(results)} log-probabilities came back"
    says = f"up to {max(whole)} came back"
    if refused:
        least = min(refused)
        says += f"; {least} was refused ({refused[least].error}: {refused[least].message})"
    return max(whole), says


def over_the_whole_vocabulary(few: Result, many: Result) -> Judged:
    """The same position with 2 log-probabilities and with 20: a log-softmax over the top K alone changes with K."""
    if not isinstance(few, Reply) or not isinstance(many, Reply) or not few.logprobs or not many.logprobs:
        return None, _unread(few, many)
    one, other = few.logprobs[0], many.logprobs[0]
    shared = one.keys() & other.keys()
    if not shared:
        return None, "the two replies share no token"
    apart = max(abs(one[id] - other[id]) for id in shared)
    if _mass(other.values()) > 1 + SAME_NATS:
        return False, "the probabilities of the likeliest tokens sum to more than 1: they are no log-probabilities"
    if _mass(one.values()) > SURE and _mass(value for id, value in other.items() if id not in one) < 1 - SURE:
        return None, "the model is too sure at this position to tell"
    if apart > SAME_NATS:
        return False, f"a token's value changes by {apart:.3g} nats with the number asked for"
    return True, f"a token's value is the same with 2 and with {len(other)} of them (within {apart:.1g} nats)"


def changes_with(plain: Result, other: Result, what: str) -> Judged:
    """Whether `what` changes the values of the tokens that both replies list at their first position."""
    if not isinstance(plain, Reply) or not isinstance(other, Reply) or not plain.logprobs or not other.logprobs:
        return None, _unread(plain, other)
    one, two = plain.logprobs[0], other.logprobs[0]
    shared = [id for id in one.keys() & two.keys() if math.isfinite(one[id]) and math.isfinite(two[id])]
    if not shared:
        return None, f"the two replies share no token: {what} left nothing to compare"
    apart = max(abs(one[id] - two[id]) for id in shared)
    if apart > SAME_NATS:
        return True, f"{what} changes a token's value by up to {apart:.3g} nats"
    return False, f"{what} leaves the values as they are (within {apart:.1g} nats)"


def chosen_is_listed(replies: Sequence[Result]) -> Judged:
    """Whether each generated token is among the log-probabilities of its own position."""
    positions = [
        (id, row) for one in replies if isinstance(one, Reply) for id, row in zip(one.ids, one.logprobs, strict=False)
    ]
    if not positions:
        return None, "no reply had a token with log-probabilities"
    missing = sum(id not in row for id, row in positions)
    if missing:
        return False, f"{missing} of {len(positions)} generated tokens are not in their own list"
    likeliest = sum(row[id] >= max(row.values()) for id, row in positions)
    return True, f"all {len(positions)} generated tokens are in their list, {likeliest} of them as the likeliest"


def both_listed(replies: Sequence[Result], safe: int, unsafe: int) -> Judged:
    """Whether both options of a choice are among the log-probabilities of the first generated token."""
    rows = [row for one in replies if (row := row_at(one, 0))]
    if len(rows) < len(replies):
        return None, next(told(one) for one in replies if not row_at(one, 0))
    listed = sum(safe in row and unsafe in row for row in rows)
    return listed == len(rows), f"for {listed} of {len(rows)} examples both options are among the likeliest"


def row_at(result: Result, at: int) -> Row:
    """The log-probabilities of a generated position; {}: there are none."""
    return result.logprobs[at] if isinstance(result, Reply) and at < len(result.logprobs) else {}


def same_rows(pairs: Sequence[tuple[Row, Row]], most: float) -> Judged:
    """Two readings of the same places: the gap between the two likeliest tokens of the first, equal within `most` nats
    in the second. Where the second does not list the likeliest at all, they are as far apart as can be."""
    apart = []
    for one, other in pairs:
        if len(one) < 2 or not other:
            return None, "a place has no log-probabilities to compare"
        first, second = sorted(one, key=lambda id: -one[id])[:2]
        # What is not listed is less likely than all that is.
        there = other.get(first, -math.inf) - other.get(second, min(other.values()))
        apart.append(abs(one[first] - one[second] - there))
    if not apart:
        return None, "there is no place to compare"
    return max(apart) <= most, f"{len(apart)} places compared, the margins at most {max(apart):.3g} nats apart"


def same_drafts(one: Sequence[Result], other: Sequence[Result], most: float) -> Judged:
    """Two runs of the same requests, each up to the first token that is another one."""
    pairs = []
    for a, b in zip(one, other, strict=True):
        if not isinstance(a, Reply) or not isinstance(b, Reply):
            return None, "; ".join(told(each) for each in (a, b))
        same = next((n for n, (x, y) in enumerate(zip(a.ids, b.ids, strict=False)) if x != y), len(a.ids))
        pairs += list(zip(a.logprobs, b.logprobs, strict=False))[: same + 1]
    return same_rows(pairs, most)


def _mass(values: Iterable[float]) -> float:
    """The probability of these log-probabilities together."""
    return math.fsum(map(math.exp, values))


def _unread(*results: Result) -> str:
    return "; ".join(told(one) for one in results)


def told(one: Result) -> str:
    """A result in a few words, for a person."""
    if isinstance(one, Failure):
        return "it never came back" if one.hung else f"{one.error}: {one.message}"
    return f"{len(one.ids)} token(s), {len(one.logprobs)} with log-probabilities, {one.finish_reason}"
