"""The decode program: a guard's answer as forced text, choices, a category list and bounded free text.

The published answer is almost all forced:

    <think>\\n ... </think>             only in think mode
    User Safety: safe|unsafe
    Response Safety: safe|unsafe        only with a response
    Safety Categories: A, B             only in categories mode, and only if a side is unsafe

`program_for` writes it down once, as segments; every engine executes the same segments and says in its
capabilities which of them it can. Forced text is part of the prefill; a choice is read from the logits
behind it, so a verdict costs one pass and comes with its probability.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tritonguard.errors import BundleError
from tritonguard.policy_parts import CATEGORY_NAMES
from tritonguard.request import DEFAULT_THINK_BUDGET, Mode

Encode = Callable[[str], list[int]]

USER_HEAD = "User Safety:"
RESPONSE_HEAD = "\nResponse Safety:"
CATEGORIES_HEAD = "\nSafety Categories:"
THINK_HEAD, THINK_END = "<think>\n", "</think>"
SAFE_WORD, UNSAFE_WORD = " safe", " unsafe"
SEPARATOR = ","
END_OF_TURN = "<end_of_turn>"
MAX_LIST_TOKENS = 64


@dataclass(frozen=True)
class Forced:
    """Token ids that the answer holds whatever the model says."""

    ids: tuple[int, ...]


@dataclass(frozen=True)
class Choice:
    """One of two single tokens, read from the logits of the position before it. `side`: "user" or "response".

    What follows a choice is conditional on it: an engine may run both continuations in the same pass, as
    branches that don't see each other, and keep the one behind the likelier option.
    """

    side: str
    safe: int
    unsafe: int


@dataclass(frozen=True)
class NameList:
    """A separated list over a trie of allowed names, ended by the token `end`; skipped where no choice is unsafe.

    head: forced ids before it. items: the token ids of each allowed name, None: any one line of text (a
    free-text policy has no list of names). separator: ids between two names. max_tokens: of the list.
    """

    head: tuple[int, ...]
    items: tuple[tuple[int, ...], ...] | None
    separator: tuple[int, ...]
    end: int
    max_tokens: int


@dataclass(frozen=True)
class FreeText:
    """Free text of at most `max_tokens`, with the token ids of `end` behind it, whatever ended it.

    The first id of `end` ends the text: the rest is forced. stop: a token that ends it too (the end of the turn),
    and is no part of it. without: ids that it may not hold, since with them it could spell a mark of its own.
    """

    max_tokens: int
    end: tuple[int, ...]
    stop: int
    without: frozenset[int] = frozenset()


Segment = Forced | Choice | NameList | FreeText


@dataclass(frozen=True)
class Program:
    segments: tuple[Segment, ...]

    @property
    def kinds(self) -> frozenset[str]:
        """Names of the segment types used, for checking against an engine's capabilities."""
        return frozenset(type(segment).__name__ for segment in self.segments)

    @property
    def candidates(self) -> tuple[int, ...]:
        """Token ids of all choices, in ascending order."""
        return tuple(sorted({id for choice in self.choices for id in (choice.safe, choice.unsafe)}))

    @property
    def choices(self) -> tuple[Choice, ...]:
        return tuple(segment for segment in self.segments if isinstance(segment, Choice))


def program_for(
    mode: Mode,
    *,
    has_response: bool,
    encode: Encode,
    end: int,
    names: Sequence[str] | None = CATEGORY_NAMES,
    think_budget: int = DEFAULT_THINK_BUDGET,
    marks: frozenset[int] = frozenset(),
) -> Program:
    """The answer's program. `encode`: plain text -> token ids, without `<bos>`; end: id of the end of a turn.

    names: what a category list may hold; None: free text. think_budget: most tokens of reasoning. marks: ids that
    could spell a mark such as `<think>`, kept out of the reasoning. Raises BundleError when the tokenizer splits
    " safe" or " unsafe" (then no choice is one token).
    """
    segments: list[Segment] = []
    if mode is Mode.THINK:
        think_end = tuple(encode(THINK_END))
        text = FreeText(think_budget, think_end, end, marks - {think_end[0]})
        segments += [Forced(tuple(encode(THINK_HEAD))), text]
    safe, unsafe = (_single(encode, word) for word in (SAFE_WORD, UNSAFE_WORD))
    segments += [Forced(tuple(encode(USER_HEAD))), Choice("user", safe, unsafe)]
    if has_response:
        segments += [Forced(tuple(encode(RESPONSE_HEAD))), Choice("response", safe, unsafe)]
    if mode is Mode.CATEGORIES:
        items = None if names is None else tuple(tuple(encode(f" {name}")) for name in names)
        head, separator = tuple(encode(CATEGORIES_HEAD)), tuple(encode(SEPARATOR))
        segments.append(NameList(head, items, separator, end, MAX_LIST_TOKENS))
    return Program(tuple(segments))


def _single(encode: Encode, word: str) -> int:
    ids = encode(word)
    if len(ids) != 1:
        raise BundleError(f"the tokenizer splits {word!r} into {len(ids)} tokens; a choice needs one")
    return ids[0]
