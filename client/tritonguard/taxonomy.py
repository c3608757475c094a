"""The built-in taxonomy: Aegis 2.0 (13 core and 10 fine-grained categories) and Economic Harm.

Names are spelled exactly as the model's prompt spells them, and in its order. Data sets and documents spell
some of them otherwise ("Guns/Illegal Weapons", "Sexual Minor"); `normalise` knows those too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

TAXONOMY_VERSION = "aegis-2.0+economic-harm"

Group = Literal["core", "fine_grained", "economic"]


@dataclass(frozen=True)
class Category:
    """code: "S1" to "S24". name: the prompt's spelling. aliases: other spellings found in the field."""

    code: str
    name: str
    group: Group
    aliases: tuple[str, ...] = ()


CATEGORIES: tuple[Category, ...] = (
    Category("S1", "Violence", "core"),
    Category("S2", "Sexual", "core", ("Sexual Content",)),
    Category("S3", "Criminal Planning/Confessions", "core", ("Criminal Planning", "Criminal Confessions")),
    Category("S4", "Guns and Illegal Weapons", "core", ("Guns/Illegal Weapons", "Illegal Weapons", "Weapons")),
    Category(
        "S5",
        "Controlled/Regulated Substances",
        "core",
        ("Controlled Substances", "Regulated Substances", "Regulated/Controlled Substances"),
    ),
    Category("S6", "Suicide and Self Harm", "core", ("Suicide", "Self-Harm", "Selfharm")),
    Category(
        "S7",
        "Sexual (minor)",
        "core",
        (
            "Sexual Minor",
            "Sexual (minors)",
            "Child Sexual Abuse Material",
            "Child Sexual Exploitation",
            "CSAM",
        ),
    ),
    Category("S8", "Hate/Identity Hate", "core", ("Hate", "Identity Hate", "Hate Speech")),
    Category("S9", "PII/Privacy", "core", ("PII", "Privacy")),
    Category("S10", "Harassment", "core"),
    Category("S11", "Threat", "core", ("Threats",)),
    Category("S12", "Profanity", "core"),
    Category("S13", "Needs Caution", "core"),
    Category("S14", "Other", "fine_grained"),
    Category("S15", "Manipulation", "fine_grained"),
    Category("S16", "Fraud/Deception", "fine_grained", ("Fraud", "Deception")),
    Category("S17", "Malware", "fine_grained"),
    Category(
        "S18",
        "High Risk Gov Decision Making",
        "fine_grained",
        ("High Risk Government Decision Making", "Gov Decision Making"),
    ),
    Category(
        "S19",
        "Political/Misinformation/Conspiracy",
        "fine_grained",
        ("Political Misinformation", "Misinformation", "Misinformation/Conspiracy"),
    ),
    Category("S20", "Copyright/Trademark/Plagiarism", "fine_grained", ("Copyright", "Trademark", "Plagiarism")),
    Category("S21", "Unauthorized Advice", "fine_grained", ("Unauthorised Advice",)),
    Category("S22", "Illegal Activity", "fine_grained", ("Illegal Activities",)),
    Category("S23", "Immoral/Unethical", "fine_grained", ("Immoral", "Unethical")),
    Category("S24", "Economic Harm", "economic"),
)

_WORD = re.compile(r"[^\W_]+")
_CODE = re.compile(r"s\d+")


def words(text: str) -> str:
    """`text` reduced to what identifies a category: lower-case words, without punctuation and "and"."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(word for word in _WORD.findall(folded) if word != "and")


def _index() -> dict[str, Category]:
    index: dict[str, Category] = {}
    for category in CATEGORIES:
        for spelling in (category.code, category.name, *category.aliases):
            if index.setdefault(words(spelling), category) is not category:
                raise ValueError(f"two categories answer to {spelling!r}")
    return index


_BY_WORDS: Mapping[str, Category] = MappingProxyType(_index())

SEXUAL_MINOR = _BY_WORDS["s7"]
"""The one category that no policy can suppress or allow."""


def normalise(text: str) -> Category | None:
    """The category that a code, name or alias means, whatever its case and punctuation.

    "S4", "guns/illegal weapons" and "S4: Guns and Illegal Weapons." are the same; a code that contradicts the
    name beside it is unknown. None: not one of ours (a custom policy's category); the caller keeps the raw
    name.
    """
    key = words(text)
    if found := _BY_WORDS.get(key):
        return found
    code, _, rest = key.partition(" ")
    named = _BY_WORDS.get(rest)
    return named if named and _CODE.fullmatch(code) and words(named.code) == code else None


def prompt_lines() -> str:
    """The category list as the prompt has it, `S1: Violence.` and so on, one a line, no newline at the
    end."""
    return "\n".join(f"{category.code}: {category.name}." for category in CATEGORIES)
