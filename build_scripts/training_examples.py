"""Rows as token ids: one trunk (policy, text, format) and a branch for each mode, answered with the labels.

The prompts of the three modes differ only in their last tokens, so a row pays for its text once: the trunk is what
they share, and each branch is the rest of one mode's prompt with its answer behind it. Branches don't see each
other. Answers are built from the decode program itself, so what is trained is what is served, token for token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tritonguard.policy_parts import BUILT_IN, PolicyPart
from tritonguard.request import Mode

from build_scripts.training_traces import trace
from engines.program import END_OF_TURN, USER_HEAD, Choice, Forced, FreeText, NameList, Program, program_for
from preprocessing.prompt import PromptBuilder, common_prefix, template_arguments

TRACE_TOKENS = 96


@dataclass(frozen=True)
class Task:
    """What is asked and the right answer. unsafe, response_unsafe None: that side's label is unknown.

    names: the categories that apply, in order; None: unknown. modes: which branches the row trains.
    misread: put the wrong user label before the response's, as happens when the guard misreads a prompt.
    condensed: the policy and the text, then at once `User Safety:`. A fifth of the tokens: many policies can be seen
    that way, beside the whole form, without which it would not carry over.
    """

    prompt: str
    unsafe: bool | None
    response: str | None = None
    response_unsafe: bool | None = None
    names: tuple[str, ...] | None = ()
    part: PolicyPart = BUILT_IN
    modes: tuple[Mode, ...] = (Mode.VERDICT,)
    misread: bool = False
    condensed: bool = False


@dataclass
class Branch:
    """ids: the rest of a mode's prompt and its answer. choices: (index, unsafe?) read at ids[index].

    texts: (index, next id) for cross-entropy over the vocabulary.
    """

    ids: list[int]
    choices: list[tuple[int, bool]] = field(default_factory=list)
    texts: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Example:
    prefix: tuple[int, ...]
    trunk: list[int]
    branches: tuple[Branch, ...]

    @property
    def length(self) -> int:
        """Tokens behind the prefix."""
        return len(self.trunk) + sum(len(branch.ids) for branch in self.branches)


class Encoder:
    """Tasks -> examples, with the files of one checkpoint folder."""

    def __init__(self, folder: Path) -> None:
        self._builder = PromptBuilder(folder, max_tokens=1 << 20)
        self._encode = self._builder.encode_text
        end = self._builder.tokenizer.token_to_id(END_OF_TURN)
        assert end is not None
        self.end: int = end
        self._prefixes: dict[PolicyPart, tuple[int, ...]] = {}
        [choice] = program_for(Mode.VERDICT, has_response=False, encode=self._encode, end=end).choices
        self.safe, self.unsafe = choice.safe, choice.unsafe

    def prefix(self, part: PolicyPart) -> tuple[int, ...]:
        """The tokens that every prompt under this part begins with, whatever the mode."""
        if part not in self._prefixes:
            ids = [
                self._builder.tokens(text, None, template_arguments(mode, part))
                for text in ("a", "中", "1", "(")
                for mode in Mode
            ]
            self._prefixes[part] = tuple(common_prefix(ids))
        return self._prefixes[part]

    def encode(self, task: Task) -> Example:
        if task.condensed:
            return self._condensed(task)
        prompts = [
            self._builder.tokens(task.prompt, task.response, template_arguments(mode, task.part)) for mode in task.modes
        ]
        prefix = self.prefix(task.part)
        if any(tuple(ids[: len(prefix)]) != prefix for ids in prompts):
            raise ValueError("a prompt does not start with its policy's prefix")
        shared = len(common_prefix(prompts)) if len(prompts) > 1 else len(prompts[0]) - 8
        branches = tuple(
            self._answered(ids[shared:], task, mode) for ids, mode in zip(prompts, task.modes, strict=True)
        )
        return Example(prefix, prompts[0][len(prefix) : shared], branches)

    def _condensed(self, task: Task) -> Example:
        """Only the user's choice, where the format's instructions would begin."""
        arguments = template_arguments(Mode.VERDICT, task.part)
        other = self._builder.tokens("中" if task.prompt.endswith("a") else "a", None, arguments)
        ids = self._builder.tokens(task.prompt, None, arguments)
        prefix = self.prefix(task.part)
        tail = len(common_prefix([ids[::-1], other[::-1]]))
        branch = Branch(self._encode("\n" + USER_HEAD))
        branch.choices.append((len(branch.ids) - 1, bool(task.unsafe)))
        return Example(prefix, ids[len(prefix) : -tail], (branch,))

    def _answered(self, ids: list[int], task: Task, mode: Mode) -> Branch:
        branch = Branch(list(ids))
        for segment in self._program(task, mode).segments:
            match segment:
                case Forced(forced):
                    branch.ids += forced
                case Choice(side=side):
                    self._choose(branch, task, side)
                case FreeText(end=end):
                    text = trace(
                        task.unsafe,
                        task.names or (),
                        response=task.response,
                        response_unsafe=task.response_unsafe,
                    )
                    self._write(branch, [*self._encode(text + "\n"), *end])
                case NameList():
                    self._list(branch, task, segment)
        return branch

    def _program(self, task: Task, mode: Mode) -> Program:
        return program_for(
            mode, has_response=task.response is not None, encode=self._encode, end=self.end, names=task.part.names
        )

    def _choose(self, branch: Branch, task: Task, side: str) -> None:
        label = task.unsafe if side == "user" else task.response_unsafe
        if label is not None:
            branch.choices.append((len(branch.ids) - 1, label))
        said = bool(label) != (task.misread and side == "user")
        branch.ids.append(self.unsafe if said else self.safe)

    def _list(self, branch: Branch, task: Task, segment: NameList) -> None:
        if not (task.unsafe or task.response_unsafe) or not task.names:
            return
        branch.ids += segment.head
        ids: list[int] = []
        for name in task.names:
            ids += [*(segment.separator if ids else ()), *self._encode(f" {name}")]
        self._write(branch, [*ids, segment.end])

    @staticmethod
    def _write(branch: Branch, ids: Sequence[int]) -> None:
        """Append ids that the model has to say itself."""
        for id in ids:
            branch.texts.append((len(branch.ids) - 1, id))
            branch.ids.append(id)
