"""What is wrong with a policy file, and what is allowed but seldom meant."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tritonguard.errors import InvalidRequest
from tritonguard.policy import Policy
from tritonguard.policy_parts import parts_of
from tritonguard.policy_yaml import Document, read
from tritonguard.taxonomy import CATEGORIES

HIGH_THRESHOLD = 0.9
MANY_SUPPRESSED = len(CATEGORIES) // 4
LONG_CHARACTERS = 8_000
LONG_TTL_S = 3_600

_LINE = re.compile(r", line (\d+)$")
_PLACEHOLDER = re.compile(r"<[A-Za-z][\w .-]*>|\[[A-Z][A-Z0-9_ ]+\]|\{\w+\}|\b(?:TODO|TBD|FIXME|XXX)\b")
_SECTION = re.compile(r"^\s*(disallowed|allowed) behaviou?rs:\s*$", re.IGNORECASE | re.MULTILINE)
_ALARMING = re.compile(
    r"\b(?:attack|bomb|drug|explosive|gun|hack|kill|malware|murder|poison|porn|rape|suicid|terror|weapon)\w*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Finding:
    """line: from 1. field: dotted name. code: a short name of the rule; `invalid` for every error."""

    severity: Literal["error", "warning"]
    line: int
    field: str
    code: str
    message: str


def lint(text: str | bytes, *, stem: str | None = None) -> tuple[Policy | None, tuple[Finding, ...]]:
    """The policy of a YAML text (None where there is an error) and what there is to say about it, by line.

    stem: the file's name without its ending; None: it has none. Only the first error is found, as the model
    finds it. Raises nothing for what a file may hold.
    """
    try:
        document = read(text)
    except InvalidRequest as error:
        found = _LINE.search(error.message)
        line = int(found[1]) if found else 1
        return None, (Finding("error", line, "policy", "invalid", _LINE.sub("", error.message)),)
    try:
        policy = Policy.from_document(document)
    except InvalidRequest as error:
        field = error.field or "policy"
        return None, (Finding("error", document.line_of(field), field, "invalid", error.message),)
    warnings = (_warning(document, *each) for each in _warnings(policy, stem))
    return policy, tuple(sorted(warnings, key=lambda finding: (finding.line, finding.code)))


def _warning(document: Document, field: str, code: str, message: str) -> Finding:
    return Finding("warning", document.line_of(field), field, code, f"{field}: {message}")


def _warnings(policy: Policy, stem: str | None) -> Iterator[tuple[str, str, str]]:
    """(field, code, message) of each."""
    if stem is not None and stem != policy.name:
        yield "policy.name", "name", f"a server takes this file only as {policy.name}.yaml"
    yield from _safety(policy)
    yield from _decisions(policy)
    yield from _texts(policy)


def _safety(policy: Policy) -> Iterator[tuple[str, str, str]]:
    if not (policy.floor or policy.also_builtin):
        advice = "set also_builtin: true, or floor: true, or serve with --floor"
        if policy.custom_policy is not None:
            yield "policy.custom_policy", "safety-off", f"switches the built-in safety off; {advice}"
        if policy.custom_taxonomy is not None:
            yield "policy.custom_taxonomy", "safety-off", f"the built-in categories are not judged; {advice}"
    if len(policy.suppress) > MANY_SUPPRESSED:
        yield "policy.suppress", "suppress", f"leaves out {len(policy.suppress)} of {len(CATEGORIES)} categories"
    if isinstance(policy.custom_taxonomy, str):
        yield "policy.custom_taxonomy", "free-list", "a ready text; as a list, the answer can only name what is on it"


def _decisions(policy: Policy) -> Iterator[tuple[str, str, str]]:
    margin = policy.thresholds.review_margin
    for side, threshold in (("user", policy.thresholds.user), ("response", policy.thresholds.response)):
        field = f"policy.thresholds.{side}"
        if threshold > HIGH_THRESHOLD:
            yield field, "threshold", f"{threshold:g} lets nearly everything pass"
        if threshold == 0.0:
            yield field, "threshold", "0 blocks everything"
        elif threshold - margin <= 0.0:
            yield field, "review", "the review margin reaches down to 0: nothing is allowed without a review"
    if policy.on_error == "allow":
        yield "policy.on_error", "on-error", "allow lets texts pass unjudged while the server is down or late"
    if policy.cache is not None and policy.cache.ttl_s > LONG_TTL_S:
        told = f"reasoning, which can quote a user, stays in the server's memory for {policy.cache.ttl_s} s"
        yield "policy.cache.ttl_s", "cache", told


def _texts(policy: Policy) -> Iterator[tuple[str, str, str]]:
    for field, text in _written(policy):
        if _PLACEHOLDER.search(text):
            yield field, "placeholder", "looks like a placeholder, which the model can name as a category"
    own = parts_of(policy)[0]
    size = len(own.custom_policy or own.custom_taxonomy or "")
    if size > LONG_CHARACTERS:
        yield "policy", "long", f"the model reads {size} characters of it with every prompt"
    if policy.custom_policy is not None:
        yield from _mode_a(policy.custom_policy)


def _mode_a(text: str) -> Iterator[tuple[str, str, str]]:
    field = "policy.custom_policy"
    sections = {match[1].lower(): match for match in _SECTION.finditer(text)}
    if set(sections) != {"disallowed", "allowed"}:
        yield field, "shape", "has no two lists `Disallowed Behaviors:` and `Allowed Behaviors:`, as the model knows it"
        return
    start = sections["disallowed"].end()
    end = sections["allowed"].start() if sections["allowed"].start() > start else len(text)
    alarming = sorted({match[0].lower() for match in _ALARMING.finditer(text, start, end)})
    if alarming:
        told = ", ".join(alarming[:5])
        yield field, "words", f"a small model matches words it reads under Disallowed ({told}); describe the intent"


def _written(policy: Policy) -> Iterator[tuple[str, str]]:
    """(field, text) of everything in it that the model reads."""
    if policy.custom_policy is not None:
        yield "policy.custom_policy", policy.custom_policy
    if isinstance(policy.custom_taxonomy, str):
        yield "policy.custom_taxonomy", policy.custom_taxonomy
    else:
        for index, category in enumerate(policy.custom_taxonomy or ()):
            yield f"policy.custom_taxonomy.{index}", f"{category.name} {category.definition or ''}"
    for index, category in enumerate(policy.inject):
        yield f"policy.inject.{index}", f"{category.name} {category.definition or ''}"
    for index, line in enumerate(policy.allow_list):
        yield f"policy.allow_list.{index}", line
