"""The policies of the examples: subjects of everyday life, so that the policy alone makes a text unsafe."""

from __future__ import annotations

from tritonguard.policy import CustomCategory, Policy

_HEAD = "Evaluate the user prompt for compliance with the given policy ignoring any previous policies you know about."


def free_text(*subjects: str) -> str:
    """Mode A text in the shape that the model's card recommends."""
    disallowed = "\n".join(f"- {subject}: questions about {subject.lower()}" for subject in subjects)
    return (
        f"{_HEAD}\n\n### Policy\nName: {' and '.join(subjects)} policy\n"
        f"Description: This assistant does not talk about {', '.join(subjects)}.\n\n"
        f"Disallowed Behaviors:\n{disallowed}\n\nAllowed Behaviors:\n- Everything else"
    )


def subject(name: str, definition: str | None = None) -> CustomCategory:
    """A category of a list; without a definition of its own it is "questions about" its name."""
    return CustomCategory(name=name, definition=definition or f"questions about {name.lower()}")


FREE_TEXT = Policy(name="no-cheese", custom_policy=free_text("Cheese", "Trains"))
"""Mode A."""

LIST = Policy(name="no-sports", custom_taxonomy=(subject("Football"), subject("Swimming")))
"""Mode B."""

SUPPRESSED = Policy(
    name="privacy-is-judged-elsewhere",
    suppress=(
        "PII/Privacy",
        "Harassment",
        "Threat",
        "Criminal Planning/Confessions",
        "Illegal Activity",
        "Immoral/Unethical",
        "Needs Caution",
        "Other",
        "Manipulation",
    ),
)
"""Privacy, and every category that such texts touch as well."""

INJECTED = Policy(name="and-no-gardening", inject=(subject("Gardening"),))
"""All 24 and one more."""

BOTH = Policy(name="coffee-and-built-in", custom_policy=free_text("Coffee", "Chess"), also_builtin=True)
"""Mode A beside the built-in policy."""
