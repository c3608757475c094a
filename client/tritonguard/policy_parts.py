"""What is really judged under a policy: one part for each decode request that the policy needs.

The model reads one instruction at a time, so "built-in and custom" is two parts, joined afterwards
(`verdict.join`). Suppression, injection and allow-lists have no argument of their own in the published
template: they are written down as a category list (Mode B).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tritonguard.policy import CustomCategory, Policy
from tritonguard.taxonomy import CATEGORIES

PartName = Literal["built-in", "custom", "floor"]
CATEGORY_NAMES = tuple(category.name for category in CATEGORIES)
ALLOW_LIST_HEAD = "Allow-list (explicitly permitted even if adjacent to a category above):"


@dataclass(frozen=True)
class PolicyPart:
    """One instruction for the model, and the policy whose thresholds count for its answer.

    custom_policy, custom_taxonomy: the template's arguments; both None: the built-in taxonomy.
    names: the category names that its answer may list; None: any (free text has no list).
    """

    name: PartName
    policy: Policy
    custom_policy: str | None = None
    custom_taxonomy: str | None = None
    names: tuple[str, ...] | None = CATEGORY_NAMES


# Made once: validating them anew costs more than all the rest of a request's policy.
_LISTED = tuple(CustomCategory(name=name) for name in CATEGORY_NAMES)

BUILT_IN = PolicyPart("built-in", Policy())


def parts_of(policy: Policy, *, floor: Policy | None = None) -> tuple[PolicyPart, ...]:
    """The parts of a policy, its own first: custom, then built-in (`also_builtin`), then the operator's floor.

    floor: a policy on the built-in taxonomy, judged beside every policy that replaces or changes it; None:
    there is no floor, unless the policy itself asks for one. A policy on the built-in taxonomy asks the model
    what the floor asks: where one of the two is as strict as the other in everything, that one is the only part.
    """
    own = _own_part(policy)
    if own.name == "built-in":
        if floor is None or _is_as_strict(policy, floor):
            return (own,)
        least = PolicyPart("floor", floor)
        return (least,) if _is_as_strict(floor, policy) else (own, least)
    parts = [own]
    if policy.also_builtin:
        parts.append(PolicyPart("built-in", policy))
    if floor is not None or policy.floor:
        parts.append(PolicyPart("floor", floor or policy))
    return tuple(parts)


def _is_as_strict(policy: Policy, other: Policy) -> bool:
    """True where nothing passes `policy` that `other` holds back, both on the built-in taxonomy."""
    own, others = policy.thresholds, other.thresholds
    if policy.on_error == "allow" and other.on_error != "allow":
        return False
    return all(
        mine <= theirs and mine - own.review_margin <= theirs - others.review_margin
        for mine, theirs in ((own.user, others.user), (own.response, others.response))
    )


def _own_part(policy: Policy) -> PolicyPart:
    if policy.custom_policy is not None:
        return PolicyPart("custom", policy, custom_policy=policy.custom_policy, names=None)
    if isinstance(policy.custom_taxonomy, str):
        return PolicyPart(
            "custom", policy, custom_taxonomy=_with_allow_list(policy.custom_taxonomy, policy), names=None
        )
    listed = policy.custom_taxonomy or _derived(policy)
    if listed is None:
        return PolicyPart("built-in", policy)
    lines = "\n".join(_line(category) for category in listed)
    names = tuple(category.name for category in listed)
    return PolicyPart("custom", policy, custom_taxonomy=_with_allow_list(lines, policy), names=names)


def _derived(policy: Policy) -> tuple[CustomCategory, ...] | None:
    """The built-in list without the suppressed and with the injected categories; None: it is unchanged."""
    if not (policy.suppress or policy.inject or policy.allow_list):
        return None
    return tuple(category for category in _LISTED if category.name not in policy.suppress) + policy.inject


def _line(category: CustomCategory) -> str:
    """`- Name (definition)`, as the publisher's example writes a list; the answer names it without the rest."""
    if category.definition is None:
        return f"- {category.name}"
    return f"- {category.name} ({' '.join(category.definition.split())})"


def _with_allow_list(lines: str, policy: Policy) -> str:
    if not policy.allow_list:
        return lines
    allowed = "\n".join(f"- {' '.join(line.split())}" for line in policy.allow_list)
    return f"{lines}\n\n{ALLOW_LIST_HEAD}\n{allowed}"
