"""Ways to damage a line `Key: value` of an answer so that it is none any more."""

from __future__ import annotations

import random
from collections.abc import Callable

LineChange = Callable[[str, random.Random], str]

_LOOKALIKES = {
    **{"a": "аɑα", "e": "еҽ℮", "s": "ſѕꜱ", "f": "ƒꬵẝ", "u": "υսᴜ", "n": "ոռп", "t": "тƭτ", "p": "рρ", "o": "оοօ"},
    **{"U": "Ս∪", "S": "ЅՏ", "R": "Ʀ", "r": "гᴦ", "y": "уү", ":": "：∶ː꞉"},
}
_INVISIBLE = ("\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u202e", "\u2066", "\u034f", "\U000e0073")
_OTHER_BLANKS = ("\u00a0", "\u2003", "\u3000", "\u1680", "\u180e", "\x1f", "\u2028")
_CONTROLS = ("\x00", "\x08", "\x1b[0m", "\x7f", "\ufffd", "\ud800", "\x9f")
_MARKS = ("\u0301", "\u0336", "\u0338", "\u20e0")


def _value_is(*forms: str) -> LineChange:
    """Another value. `{}` stands for the one that was there."""

    def change(line: str, rng: random.Random) -> str:
        key, value = line.split(": ")
        return f"{key}: {rng.choice(forms).format(value)}"

    return change


def _line_is(*forms: str) -> LineChange:
    """Another form of the line; `{0}` is its key and `{1}` its value."""
    return lambda line, rng: rng.choice(forms).format(*line.split(": "))


def _inserted(*marks: str) -> LineChange:
    def change(line: str, rng: random.Random) -> str:
        at = rng.randint(0, len(line))
        return line[:at] + rng.choice(marks) + line[at:]

    return change


def _replaced(table: dict[str, str]) -> LineChange:
    def change(line: str, rng: random.Random) -> str:
        at = rng.choice([i for i, character in enumerate(line) if character in table])
        return line[:at] + rng.choice(table[line[at]]) + line[at + 1 :]

    return change


def _fullwidth(line: str, rng: random.Random) -> str:
    at = rng.choice([i for i, character in enumerate(line) if character != " "])
    end = len(line) if rng.random() < 0.5 else at + 1
    return line[:at] + "".join(chr(ord(c) + 0xFEE0) if c != " " else "\u3000" for c in line[at:end]) + line[end:]


LINE_MUTATIONS: dict[str, LineChange] = {
    "negate": _value_is(
        "not {}", "no longer {}", "isn't {}", "non-{}", "never {}", "{} (not)", "{}: not", "!{}", "un-{}"
    ),
    "hedge": _value_is(
        "safe or unsafe", "{}?", "probably {}", "{}-ish", "safe/unsafe", "{}, but harmful", "{} unsafe", "{}ly"
    ),
    "translate_value": _value_is(
        "sicher", "unsicher", "sûr", "seguro", "安全", "不安全", "सुरक्षित", "безопасно", "آمن", "안전"
    ),
    "translate_key": _line_is(
        "Nutzersicherheit: {1}", "用户安全: {1}", "Seguridad del usuario: {1}", "Sécurité: {1}", "User Sécurité: {1}"
    ),
    "other_key": _line_is(
        "UserSafety: {1}", "{0} {0}: {1}", "Prompt Safety: {1}", "User_Safety: {1}", "User  Safety: {1}", "Safety: {1}"
    ),
    "other_value": _value_is(
        "indeterminate", "harmless", "true", "0", "", "n/a", "None", "SAFETY", "s", "saf", "un", "un safe"
    ),
    "other_colon": _line_is("{0} {1}", "{0} = {1}", "{0} - {1}", "{0}：{1}", "{0};{1}", "{0}:: {1}", "{0}"),
    "quote_value": _value_is('"{}"', "'{}'", "{}.", "({})", "`{}`", "{}!", "[{}]", "<b>{}</b>", "\\{}", "{}\\"),
    "bold": _line_is("**{0}:** {1}", "**{0}**: {1}", "{0}: **{1}**", "**{0}: {1}**", "{0}: _{1}_", "# {0}: {1}"),
    "bullet": _line_is("- {0}: {1}", "* {0}: {1}", "1. {0}: {1}", "• {0}: {1}", "> {0}: {1}", "| {0}: {1} |"),
    "value_on_next_line": _line_is("{0}:\n{1}", "{0}\n: {1}", "User\nSafety: {1}", "{0}: \n\n {1}"),
    "comment": _value_is("{} # sure", "{} // unsafe", "{} <!-- -->", "{}\tunsafe", "{}: safe", "safe={}"),
    "look_alike": _replaced(_LOOKALIKES),
    "fullwidth": _fullwidth,
    "zero_width": _inserted(*_INVISIBLE),
    "other_blank": _inserted(*_OTHER_BLANKS),
    "control": _inserted(*_CONTROLS),
    "combining": _inserted(*_MARKS),
    "reverse": lambda line, rng: line[::-1],
}
"""By name. None of these may leave the line readable."""
