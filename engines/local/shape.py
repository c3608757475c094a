"""A program's parts, taken apart into the one order that the local engine runs: reasoning, choices, list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from tritonguard.errors import Unimplemented

from engines.checkpoint import FloatArray
from engines.local.tree import Tree
from engines.program import Choice, Forced, FreeText, NameList, Program, Segment

Kind = TypeVar("Kind", Forced, Choice, FreeText, NameList)


@dataclass(frozen=True)
class Shape:
    """head: forced ids behind the prompt. text: reasoning, then the ids of `user_head`; None: none. user: the
    first choice. response: a second one behind `response_head`. names: a list at the end."""

    head: tuple[int, ...]
    user: Choice
    text: FreeText | None
    user_head: tuple[int, ...]
    response_head: tuple[int, ...]
    response: Choice | None
    names: NameList | None

    @classmethod
    def of(cls, program: Program) -> Shape:
        """Raises Unimplemented for a program of any other order."""
        left = list(program.segments)
        head = _take(left, Forced)
        text = _take(left, FreeText)
        user_head = _take(left, Forced) if text else None
        user = _take(left, Choice)
        response_head = _take(left, Forced)
        response = _take(left, Choice) if response_head else None
        names = _take(left, NameList)
        if head is None or user is None or left or (text and not user_head) or (response_head and not response):
            raise Unimplemented("the local engine runs reasoning, choices and a list, in this order", field="mode")
        return cls(head.ids, user, text, _ids(user_head), _ids(response_head), response, names)

    @property
    def candidates(self) -> tuple[int, ...]:
        """Token ids of all choices."""
        choices = (self.user,) if self.response is None else (self.user, self.response)
        return tuple(id for choice in choices for id in (choice.safe, choice.unsafe))

    def branches(self, *, with_list: bool = False) -> tuple[tuple[int, ...], ...]:
        """What follows the first choice: the second's head behind either answer; without a second one, and with_list,
        the list's head behind "unsafe"."""
        if self.response is not None:
            return tuple((id, *self.response_head) for id in (self.user.safe, self.user.unsafe))
        return ((self.user.unsafe, *self.names.head),) if with_list and self.names is not None else ()

    def tree(
        self,
        unread: Sequence[int],
        features: FloatArray | None = None,
        branches: tuple[tuple[int, ...], ...] | None = None,
    ) -> Tree:
        """The pass that reads every choice: unread ids, and behind them these branches; None: `branches()`."""
        branches = self.branches() if branches is None else branches
        return Tree(tuple(unread), branches, features, last=self.names is None)


def _take(segments: list[Segment], kind: type[Kind]) -> Kind | None:
    """The first segment, if it is of this kind."""
    if segments and isinstance(segments[0], kind):
        taken = segments.pop(0)
        assert isinstance(taken, kind)
        return taken
    return None


def _ids(forced: Forced | None) -> tuple[int, ...]:
    return forced.ids if forced else ()
