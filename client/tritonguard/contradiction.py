"""Whether a reasoning trace ends by saying the opposite of the verdict behind it.

The published model is known to do so. Deliberately simple: the last plain statement about each side counts,
questions ("whether the user input is safe") and the format's own words ("safe or unsafe") are no statements, and
where a trace says nothing that is understood, nothing is contradicted.
"""

from __future__ import annotations

import re

from tritonguard.label import Safety

_NEGATION = r"(?P<negation>(?:not|never|hardly)\s+(?:(?:at\s+all|in\s+itself|considered|deemed|rated|a)\s+)?)?"
_WORD = r"(?P<word>unsafe|safe|unharmful|harmful|harmless|dangerous|benign)\b(?!\s*(?:/|\\|\|)|\s+(?:or|nor)\b)"
_FILLING = (
    r"(?:(?:therefore|thus|hence|also|both|clearly|actually|itself|indeed|still|then|so|completely|entirely|generally|"
    r"likely|considered|deemed|rated|judged|labell?ed|classified|as|to|be|(?:not\s+)?a\s+(?:complete\s+|clear\s+)?refusal|"
    r"and|but|which|it|is|makes|making)[,;]?\s+){0,8}"
)
_VERB = r"\s+(?:is|are|was|were|seems|appears|remains)(?P<contraction>n['’]t)?,?\s+"
_KEY_END = r"[*_\"'`]{0,3}\s?(?::|=|\s(?:is|as|should\s+be))[*_\"'`]{0,3}\s*[*_\"'`]{0,3}"
_ASIDE = (
    r"(?P<aside>\b(?:whether|if|unless|neither|nor|to|of|for|about)\s+(?:or\s+not\s+)?(?:both\s+)?(?:the\s+|an?\s+)?)?"
)
_USER_WORDS = r"(?:input|request|prompt|message|question|query|text)"
_RESPONSE = r"(?:(?:assistant|agent|model|ai|llm)(?:['’]s)?\s+){0,3}response"


def _statements(key: str, subject: str) -> re.Pattern[str]:
    said = rf"(?:\b{key}{_KEY_END}|{_ASIDE}\b{subject}{_VERB}{_FILLING})"
    return re.compile(rf"{said}{_NEGATION}\b{_WORD}", re.IGNORECASE)


_USER_SAID = _statements(
    r"(?:user\s+safety|prompt\s+harm)",
    rf"(?:(?:human\s+)?user(?:['’]s)?\s+{_USER_WORDS}(?:\s+and\s+(?:the\s+)?{_RESPONSE})?)",
)
_RESPONSE_SAID = _statements(
    r"response\s+(?:safety|harm)", rf"(?:{_RESPONSE}(?:\s+to\s+(?:the\s+)?(?:user(?:['’]s)?\s+)?{_USER_WORDS})?)"
)
_SAFE_WORDS = frozenset({"safe", "unharmful", "harmless", "benign"})


def contradicts(reasoning: str, *, user: Safety, response: Safety | None) -> bool:
    """Whether the trace's last statement about a side is the opposite of that side's verdict.

    response: None where no response was judged; what the trace says about one is then left alone. An
    INDETERMINATE side has no opposite.
    """
    sides = ((_USER_SAID, user), (_RESPONSE_SAID, response))
    opposite = {Safety.SAFE: Safety.UNSAFE, Safety.UNSAFE: Safety.SAFE}
    return any(
        verdict in opposite and _last_said(pattern, reasoning) is opposite[verdict]
        for pattern, verdict in sides
        if verdict is not None
    )


def _last_said(pattern: re.Pattern[str], reasoning: str) -> Safety | None:
    said: Safety | None = None
    for match in pattern.finditer(reasoning):
        if match["aside"]:
            continue
        negated = bool(match["negation"]) != bool(match["contraction"])
        says_safe = (match["word"].lower() in _SAFE_WORDS) != negated
        said = Safety.SAFE if says_safe else Safety.UNSAFE
    return said
