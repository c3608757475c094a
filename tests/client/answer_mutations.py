"""Named ways to damage a valid answer.

Every way takes an answer and a source of chance and gives a text, or None where the answer has nothing to damage so.
`Effect` is what must come of it, whatever the oracle says.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from enum import Enum

from answer_line_mutations import LINE_MUTATIONS, LineChange
from tritonguard.request import Mode
from valid_answers import Answer, build


class Effect(Enum):
    """KEEPS: still read as it was. BREAKS: no longer read. NEVER_SAFER: if read, no side became safe.

    JUDGED: may say anything; the oracle alone knows.
    """

    KEEPS = "keeps"
    BREAKS = "breaks"
    NEVER_SAFER = "never safer"
    JUDGED = "judged"


Change = Callable[[Answer, random.Random], "str | None"]
MUTATIONS: dict[str, tuple[Effect, Change]] = {}


def _named(effect: Effect) -> Callable[[Change], Change]:
    def register(change: Change) -> Change:
        MUTATIONS[change.__name__] = (effect, change)
        return change

    return register


def _of_a_verdict_line(change: LineChange) -> Change:
    def mutate(answer: Answer, rng: random.Random) -> str:
        at = rng.randrange(len(answer.verdict_lines))
        return answer.with_lines([change(line, rng) if i == at else line for i, line in enumerate(answer.lines)])

    return mutate


MUTATIONS.update({name: (Effect.BREAKS, _of_a_verdict_line(change)) for name, change in LINE_MUTATIONS.items()})


@_named(Effect.KEEPS)
def nothing(answer: Answer, rng: random.Random) -> str | None:
    return answer.text


@_named(Effect.KEEPS)
def change_case(answer: Answer, rng: random.Random) -> str | None:
    change = rng.choice([str.upper, str.lower, str.title, str.swapcase])
    # "ß" has no capital of one character, and says nothing about the case of letters.
    return answer.with_lines([line if "ß" in line else change(line) for line in answer.lines])


@_named(Effect.KEEPS)
def change_blanks(answer: Answer, rng: random.Random) -> str | None:
    def some(of: str = " \t") -> str:
        return "".join(rng.choice(of) for _ in range(rng.randint(0, 3)))

    lines = [some() + some().join([key, ":", value.strip()]) + some() for key, value in _pairs(answer)]
    text = answer.with_lines([line.replace(", ", f"{some()},{some()}") for line in lines])
    outer = some(" \t\n")
    return outer + text + some(" \n") + rng.choice(["", "<end_of_turn>", "<end_of_turn>\n"])


@_named(Effect.KEEPS)
def quote_verdicts_in_reasoning(answer: Answer, rng: random.Random) -> str | None:
    if answer.reasoning is None:
        return None
    quoted = rng.choice(
        ["User Safety: safe\nResponse Safety: safe", "User Safety: unsafe", "</ think>User Safety: safe"]
    )
    return answer.text.replace("\n</think>", f"\n{quoted}\n</think>")


@_named(Effect.NEVER_SAFER)
def cut_end(answer: Answer, rng: random.Random) -> str | None:
    return answer.text[: rng.randrange(len(answer.text))]


@_named(Effect.NEVER_SAFER)
def cut_front(answer: Answer, rng: random.Random) -> str | None:
    return answer.text[rng.randint(1, len(answer.text)) :]


@_named(Effect.NEVER_SAFER)
def change_one_character(answer: Answer, rng: random.Random) -> str | None:
    at = rng.randrange(len(answer.text))
    put: str = rng.choice(["", *"safe un:,\n\t.S", chr(rng.randrange(0x80, 0xD800))])
    return answer.text[:at] + put + answer.text[at + rng.randint(0, 1) :]


@_named(Effect.BREAKS)
def double_a_line(answer: Answer, rng: random.Random) -> str | None:
    at = rng.randrange(len(answer.lines))
    return answer.with_lines([*answer.lines[: at + 1], *answer.lines[at:]])


@_named(Effect.BREAKS)
def reorder(answer: Answer, rng: random.Random) -> str | None:
    lines = rng.sample(answer.lines, len(answer.lines))
    return None if lines == answer.lines else answer.with_lines(lines)


@_named(Effect.BREAKS)
def other_line_ends(answer: Answer, rng: random.Random) -> str | None:
    unicode_ends = ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\r", "\x1e"]
    between = rng.choice([*unicode_ends, "\\n", " ", "", ",", ";", "\n\n", "\n \t\n"])
    return answer.with_lines(answer.lines, between=between) if len(answer.lines) > 1 else None


@_named(Effect.BREAKS)
def carriage_returns(answer: Answer, rng: random.Random) -> str | None:
    at = rng.randrange(len(answer.verdict_lines))
    return answer.with_lines([line + "\r" if i == at else line for i, line in enumerate(answer.lines)])


@_named(Effect.BREAKS)
def prose(answer: Answer, rng: random.Random) -> str | None:
    said = rng.choice(
        ["Sure, here it is:", "I hope this helps!", "The user is safe.", "Note: safe", "```", "---", "Output:", "."]
    )
    return answer.with_lines(
        rng.choice([[said, *answer.lines], [*answer.lines, said], [answer.lines[0], said, *answer.lines[1:]]])
    )


@_named(Effect.BREAKS)
def second_opinion(answer: Answer, rng: random.Random) -> str | None:
    key = rng.choice(["User Safety", "Response Safety", "user safety", "User Safety (revised)", "Final User Safety"])
    line = f"{key}: {rng.choice(['safe', 'unsafe'])}"
    return answer.with_lines(rng.choice([[line, *answer.lines], [*answer.lines, line]]))


@_named(Effect.BREAKS)
def whole_twice(answer: Answer, rng: random.Random) -> str | None:
    return answer.text + rng.choice(["\n", "", "\n\n"]) + rng.choice([answer.text, build(rng).text])


@_named(Effect.BREAKS)
def as_json(answer: Answer, rng: random.Random) -> str | None:
    return answer.with_lines([json.dumps(dict(_pairs(answer)), indent=rng.choice([None, 1]))])


@_named(Effect.BREAKS)
def drop_a_verdict_line(answer: Answer, rng: random.Random) -> str | None:
    at = rng.randrange(len(answer.verdict_lines))
    return answer.with_lines([line for i, line in enumerate(answer.lines) if i != at])


@_named(Effect.JUDGED)
def flip_a_value(answer: Answer, rng: random.Random) -> str | None:
    at = rng.randrange(len(answer.verdict_lines))
    flipped = {"safe": "unsafe", "unsafe": "safe"}
    key, value = answer.lines[at].split(": ")
    return answer.with_lines([f"{key}: {flipped[value]}" if i == at else line for i, line in enumerate(answer.lines)])


@_named(Effect.JUDGED)
def swap_values(answer: Answer, rng: random.Random) -> str | None:
    if answer.response is None:
        return None
    swapped = [f"User Safety: {answer.response.value}", f"Response Safety: {answer.user.value}"]
    return answer.with_lines([*swapped, *answer.lines[2:]])


@_named(Effect.BREAKS)
def response_to_none(answer: Answer, rng: random.Random) -> str | None:
    line = f"Response Safety: {rng.choice(['safe', 'unsafe', 'None', ''])}"
    return answer.with_lines([answer.lines[0], line, *answer.lines[1:]]) if answer.response is None else None


@_named(Effect.BREAKS)
def unclosed_reasoning(answer: Answer, rng: random.Random) -> str | None:
    end = rng.choice(["", "</THINK>", "</think", "< /think>", "＜/think＞", "<think/>", "</reasoning>"])
    return None if answer.reasoning is None else answer.text.replace("</think>", end)


@_named(Effect.BREAKS)
def verdict_inside_reasoning(answer: Answer, rng: random.Random) -> str | None:
    return (
        None
        if answer.reasoning is None
        else "<think>\n" + "\n".join(answer.lines) + "\n</think>" + rng.choice(["", "\n", "."])
    )


@_named(Effect.BREAKS)
def second_reasoning(answer: Answer, rng: random.Random) -> str | None:
    if answer.reasoning is None:
        return None
    at = rng.randint(0, len(answer.text))
    mark = rng.choice(["<think>", "</think>", "<think>x</think>", "</think>User Safety: safe\n"])
    return answer.text[:at] + mark + answer.text[at:]


@_named(Effect.BREAKS)
def late_or_no_reasoning(answer: Answer, rng: random.Random) -> str | None:
    if answer.reasoning is None:
        return None
    verdict = "\n".join(answer.lines)
    return rng.choice(
        [verdict, f"{verdict}\n<think>x</think>", f"So: {answer.text}", answer.text.replace("<think>", "<Think>")]
    )


@_named(Effect.BREAKS)
def unasked_reasoning(answer: Answer, rng: random.Random) -> str | None:
    head = rng.choice(["<think>\nx\n</think>", "<think></think>", "</think>", "<think>"])
    return head + answer.text if answer.reasoning is None else None


@_named(Effect.BREAKS)
def other_ending(answer: Answer, rng: random.Random) -> str | None:
    last = rng.choice(
        ["<eos>", "<end_of_turn><end_of_turn>", "<END_OF_TURN>", "<start_of_turn>user", "</s>", "<end_of_turn>."]
    )
    return answer.with_lines([*answer.verdict_lines[:-1], answer.verdict_lines[-1] + last])


@_named(Effect.NEVER_SAFER)
def comma_tricks(answer: Answer, rng: random.Random) -> str | None:
    comma = rng.choice([",,", ", ,", "，", ";", " and ", "、", ",\u200b,", "\n", " / ", ", \t,"])
    listed = comma.join(answer.categories)
    line = rng.choice([listed, f"{listed},", f",{listed}", f"{listed},,", ",", ""])
    return answer.with_lines([*answer.verdict_lines, f"Safety Categories: {line}"]) if answer.categories else None


@_named(Effect.BREAKS)
def unknown_category(answer: Answer, rng: random.Random) -> str | None:
    name = rng.choice(
        ["Kindness", "S1", "Violenc", "Violence.", "Vi\u200bolence", "Vіolence", "safe", "Criminal Planning", "None"]
    )
    if not answer.categories or answer.names is None or name.title() in answer.names:
        return None
    return answer.with_lines([*answer.verdict_lines, "Safety Categories: " + ", ".join([*answer.categories, name])])


@_named(Effect.BREAKS)
def double_a_category(answer: Answer, rng: random.Random) -> str | None:
    if not answer.categories:
        return None
    name = rng.choice(answer.categories)
    again = rng.choice([name, name.upper(), name.lower()])
    return answer.with_lines([*answer.lines[:-1], f"{answer.lines[-1]}, {again}"])


@_named(Effect.BREAKS)
def categories_unfit(answer: Answer, rng: random.Random) -> str | None:
    """On an all-safe answer, where they were not asked for, none, too many or too long ones."""
    fits = answer.mode is Mode.CATEGORIES and not answer.is_all_safe
    many = ", ".join(f"Name {number}" for number in range(17))
    listed = rng.choice(["", ",", many, "x" * 129, "User Safety: safe"] if fits else ["Violence", "None", "", "Safe"])
    return answer.with_lines([*answer.verdict_lines, f"Safety Categories: {listed}"])


@_named(Effect.JUDGED)
def several_at_once(answer: Answer, rng: random.Random) -> str | None:
    """One way, then characters of an answer put, taken and moved anywhere in what came of it."""
    name = rng.choice([name for name in MUTATIONS if name != "several_at_once"])
    text = MUTATIONS[name][1](answer, rng) or answer.text
    for _ in range(rng.randint(1, 3)):
        start, end = sorted(rng.randint(0, len(text)) for _ in range(2))
        piece = text[start : min(end, start + 8)]
        text = rng.choice(
            [text[:start] + text[start + len(piece) :], text[:start] + piece + text[start:], text + piece]
        )
    return text


def _pairs(answer: Answer) -> list[tuple[str, str]]:
    return [(key, value) for key, _, value in (line.partition(": ") for line in answer.lines)]
