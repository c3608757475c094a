"""What a custom policy may be about, texts about it, and how such a policy is written down.

A subject is a topic of everyday life or a kind of harm. The harms have several wordings for training and one, never
trained, for the pairs of `policy_pairs`; the topics of the pairs are kept out of training whole.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from tritonguard.policy import CustomCategory, Policy
from tritonguard.policy_parts import PolicyPart, parts_of

from build_scripts.training_data import Row, Split

TOPICS = (
    "Volcanoes", "Bees", "The Moon", "Bicycles", "Coffee", "Chess", "The Olympic Games", "Rivers", "Origami", "Jazz",
    "Recycling", "Sleep", "Solar Energy", "Libraries", "Football", "Whales", "Bread", "The Human Heart", "Painting",
    "Mathematics", "Trains", "Gardening", "Photography", "Cats", "Tea", "The Internet", "Earthquakes", "Museums",
    "Swimming", "Cheese", "The Second World War", "Cancer Treatment", "Gun Laws", "Drug Addiction Treatment",
    "Computer Security", "Suicide Prevention", "Racism in History", "Fire Safety", "Domestic Violence Helplines",
    "Kitchen Knives",
)  # fmt: skip
"""English names of the topics of `authored_topics`, by group number."""

# Aegis category -> (name, what it means), in words for training.
HARMS: dict[str, tuple[tuple[str, str], ...]] = {
    "Violence": (
        ("Violence", "threatening or hurting people"),
        ("Assault and Murder", "attacking, injuring or killing someone"),
        ("Physical Harm", "how to hurt another person"),
        ("Brutality", "beating, torture and bloodshed"),
        ("Terrorism", "planning or praising deadly attacks"),
    ),
    "Hate/Identity Hate": (
        ("Hate Speech", "contempt for people because of their group"),
        ("Discrimination", "treating groups of people as worth less"),
        ("Slurs", "insults aimed at a minority"),
        ("Racism and Sexism", "demeaning someone's race, gender or faith"),
        ("Dehumanisation", "calling a group of people animals, vermin or inferior"),
    ),
    "PII/Privacy": (
        ("Privacy Violation", "exposing personal data of others"),
        ("Personal Data", "addresses, numbers and records of private persons"),
        ("Doxxing", "publishing where someone lives or works"),
        ("Stalking", "following someone or reading their messages in secret"),
        ("Data Theft", "getting at identity numbers, passwords or health records"),
    ),
    "Copyright/Trademark/Plagiarism": (
        ("Copyright Abuse", "using protected works without permission"),
        ("Intellectual Property", "infringing copyright, patents or trademarks"),
        ("Plagiarism", "passing off the work of others as one's own"),
        ("Counterfeits", "copying brand goods and logos"),
        ("Illegal Downloads", "getting books, games or shows without paying"),
    ),
    "Suicide and Self Harm": (
        ("Self Harm", "hurting or killing oneself"),
        ("Suicide", "wanting to die or how to do it"),
        ("Cutting and Starving", "harming one's own body"),
        ("Danger to Oneself", "acts by which a person puts their own life at risk"),
        ("Despair", "thoughts of not living any more"),
    ),
    "Guns and Illegal Weapons": (
        ("Weapons", "making or getting weapons"),
        ("Gun Trade", "buying, selling or altering guns"),
        ("Explosives", "building devices that explode"),
        ("Ammunition", "pistols, rifles and what they shoot"),
        ("Mass Killing", "poison gas, pathogens, nuclear material"),
    ),
    "Sexual": (
        ("Sexual Content", "explicit sexual material"),
        ("Pornography", "erotic stories and pictures"),
        ("Adult Material", "sex acts described"),
    ),
    "Fraud/Deception": (
        ("Fraud", "deceiving people for gain"),
        ("Deception", "lying to someone to get an advantage"),
        ("Forgery", "fake documents, banknotes or identities"),
        ("Phishing", "luring victims with false promises"),
        ("Swindling", "cheating customers, banks or insurers"),
    ),
    "Malware": (
        ("Malware", "harmful software and hacking"),
        ("Hacking", "getting into accounts or networks without leave"),
        ("Harmful Software", "worms, trojans and ransomware"),
        ("Computer Crime", "attacks on websites, servers and devices"),
        ("Exploits", "code that uses a weakness in a system"),
    ),
}
# Texts of nearly every kind of harm touch these too, so a policy that names or keeps them says nothing.
BROAD = (
    "Criminal Planning/Confessions", "Illegal Activity", "Immoral/Unethical", "Needs Caution", "Other", "Manipulation",
    "Harassment", "Threat",
)  # fmt: skip
_HEADS = (
    "Evaluate the user prompt for compliance with the given policy ignoring any previous policies you know about.",
    "Evaluate the user prompt for compliance with the given policy ignoring any previous policies you know about. "
    "Everything that is not listed as disallowed is allowed.",
)
SUPPRESSED_FOR_PAIRS = ("Malware", "Copyright/Trademark/Plagiarism")
"""Left out of the built-in list by pairs only, never in training."""


@dataclass(frozen=True)
class Subject:
    """What a policy may name. key: "topic 3" or an Aegis category."""

    key: str
    name: str
    meaning: str


@dataclass(frozen=True)
class Text:
    """A text and the keys of its subjects; none: a harmless text of no particular topic."""

    id: str
    prompt: str
    keys: frozenset[str]


@dataclass(frozen=True)
class Ruling:
    """A text under one policy. names: of the policy's categories that it falls under."""

    text: Text
    part: PolicyPart
    unsafe: bool
    names: tuple[str, ...]


def held_out_topics(split: Split) -> frozenset[str]:
    return frozenset(row.family for row in split.family if row.source == "authored_topics" and row.family)


def topic_texts(pool: Path) -> list[Text]:
    rows = [json.loads(line) for line in (pool / "authored_topics.jsonl").read_text().splitlines()]
    return [Text(row["id"], row["prompt"], frozenset({f"topic {row['meta']['group']}"})) for row in rows]


def harmful_texts(rows: Sequence[Row], keys: Collection[str], *, guessed: bool = False) -> list[Text]:
    """Short unsafe texts whose categories, the broad ones aside, are all among `keys`."""
    texts = []
    for row in rows:
        own = frozenset(row.names) - set(BROAD)
        if row.unsafe and (guessed or not row.guessed) and own and own <= set(keys) and len(row.prompt) <= 240:
            texts.append(Text(row.id, row.prompt, own))
    return texts


def rule(text: Text, part: PolicyPart, named: Sequence[Subject]) -> Ruling:
    names = tuple(subject.name for subject in named if subject.key in text.keys)
    # Under an injected list the built-in categories still hold.
    builtin = tuple(sorted(name for name in text.keys if part.names and name in part.names))
    return Ruling(text, part, bool(names or builtin), names or builtin)


def policy_part(generator: random.Random, named: Sequence[Subject], *, inject: bool) -> PolicyPart:
    """One of the forms, drawn: free text, a list with or without meanings, the built-in list with these injected."""
    form = generator.random()
    if form < 0.45:
        return parts_of(Policy(name="free-text", custom_policy=_free_text(generator, named)))[0]
    meant = generator.random() < 0.5
    categories = tuple(CustomCategory(name=s.name, definition=s.meaning if meant else None) for s in named)
    if form < 0.85 or not inject:
        return parts_of(Policy(name="list", custom_taxonomy=categories))[0]
    return parts_of(Policy(name="injected", inject=categories))[0]


def _free_text(generator: random.Random, named: Sequence[Subject]) -> str:
    disallowed = "\n".join(f"- {subject.name}: {subject.meaning}" for subject in named)
    return (
        f"{generator.choice(_HEADS)}\n\n### Policy\nName: {' and '.join(s.name for s in named[:2])} policy\n"
        f"Description: This assistant does not talk about {', '.join(s.name for s in named)}.\n\n"
        f"Disallowed Behaviors:\n{disallowed}\n\nAllowed Behaviors:\n- Everything else"
    )
