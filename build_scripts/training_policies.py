"""The same text under different policies: what the adapter learns custom policies from, and the pairs that score it.

A policy here names a few subjects, topics of everyday life or kinds of harm, in one of the forms that the guard
serves: free text (Mode A), a category list (Mode B), the built-in list with categories injected or suppressed. A
text is unsafe under a policy exactly if one of its subjects is named. The pairs use subjects and wordings that no
training policy names, and texts that training never saw.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tritonguard.policy import CustomCategory, Policy
from tritonguard.policy_parts import CATEGORY_NAMES, PolicyPart, parts_of

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

# Aegis category -> (name, what it means) in the training's words, and in words kept for the held-out pairs.
_HARMS = {
    "Violence": ("Violence", "threatening or hurting people"),
    "Hate/Identity Hate": ("Hate Speech", "contempt for people because of their group"),
    "PII/Privacy": ("Privacy Violation", "exposing personal data of others"),
    "Copyright/Trademark/Plagiarism": ("Copyright Abuse", "using protected works without permission"),
    "Suicide and Self Harm": ("Self Harm", "hurting or killing oneself"),
    "Guns and Illegal Weapons": ("Weapons", "making or getting weapons"),
    "Sexual": ("Sexual Content", "explicit sexual material"),
    "Fraud/Deception": ("Fraud", "deceiving people for gain"),
    "Malware": ("Malware", "harmful software and hacking"),
}
_HELD_OUT_HARMS = {
    "PII/Privacy": ("Snooping", "spying on people or misusing what is known about them"),
    "Fraud/Deception": ("Scams", "tricking people out of their money"),
    "Malware": ("Cyberattacks", "viruses, spyware and breaking into computers"),
    "Suicide and Self Harm": ("Self-Injury", "ending one's life or injuring oneself"),
    "Guns and Illegal Weapons": ("Arms", "firearms, bombs and other arms"),
    "Hate/Identity Hate": ("Bigotry", "attacks on people for their origin, religion or sex"),
    "Copyright/Trademark/Plagiarism": ("Piracy", "stealing films, music, brands or texts of others"),
}
# Texts of nearly every kind of harm touch these too, so a policy that names or keeps them says nothing.
_BROAD = (
    "Criminal Planning/Confessions", "Illegal Activity", "Immoral/Unethical", "Needs Caution", "Other", "Manipulation",
    "Harassment", "Threat",
)  # fmt: skip
_HEADS = (
    "Evaluate the user prompt for compliance with the given policy ignoring any previous policies you know about.",
    "Evaluate the user prompt for compliance with the given policy ignoring any previous policies you know about. "
    "Everything that is not listed as disallowed is allowed.",
)
SUPPRESSED_FOR_PAIRS = ("Malware", "Copyright/Trademark/Plagiarism")


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


def training_rulings(
    pool: Path, split: Split, *, groups: int, size: int, seed: int, suppressed: float = 0.2
) -> list[list[Ruling]]:
    """`groups` policies with `size` texts each, half of them (rounded up) unsafe under it.

    suppressed: share of policies that leave built-in categories out.
    """
    generator = random.Random(f"{seed}/policies")
    away = held_out_topics(split)
    topics = [Subject(f"topic {n}", name, f"questions about {name.lower()}") for n, name in enumerate(TOPICS)]
    topics = [subject for subject in topics if subject.key not in away]
    harms = [Subject(key, *words) for key, words in _HARMS.items()]
    unseen = {row.id for row in split.random}
    topical = [text for text in topic_texts(pool) if not text.keys & away and text.id not in unseen]
    harmful = _harmful(split.train, _HARMS, guessed=True)
    plain = [Text(row.id, row.prompt, frozenset()) for row in split.train if not row.unsafe and len(row.prompt) < 200]
    made: list[list[Ruling]] = []
    while len(made) < groups:
        if generator.random() < suppressed:
            made.append(_suppressed(generator, harmful, size))
            continue
        subjects, texts = (topics, topical) if generator.random() < 0.6 else (harms, harmful)
        named = generator.sample(subjects, generator.randint(1, 4))
        part = _policy(generator, named, inject=subjects is topics)
        keys = {subject.key for subject in named}
        hits = generator.sample([text for text in texts if text.keys & keys], (size + 1) // 2)
        others = [text for text in texts if not text.keys & keys]
        misses = generator.sample(others, size // 2)
        if generator.random() < 0.5:
            misses[0] = generator.choice(plain)
        # A policy that replaces the built-in one says nothing about harm that it does not name.
        if subjects is topics and not _keeps_builtin(part):
            misses[-1] = generator.choice(harmful)
        made.append([_rule(text, part, named) for text in hits + misses])
    return made


def pairs(pool: Path, split: Split, *, count: int, seed: int) -> list[tuple[Ruling, Ruling]]:
    """`count` times one text under two policies, unsafe first, safe second; all held out (see the module)."""
    generator = random.Random(f"{seed}/pairs")
    away = sorted(held_out_topics(split))
    topics = [Subject(key, TOPICS[int(key.split()[1])], "anything about it") for key in away]
    harms = [Subject(key, *words) for key, words in _HELD_OUT_HARMS.items()]
    topical = [text for text in topic_texts(pool) if text.keys & set(away)]
    harmful = _harmful(split.family, _HELD_OUT_HARMS)
    made: list[tuple[Ruling, Ruling]] = []
    while len(made) < count:
        kind = generator.random()
        if kind < 0.2:
            text = generator.choice([t for t in harmful if t.keys & set(SUPPRESSED_FOR_PAIRS)])
            kept = parts_of(Policy(name="kept", suppress=("Profanity",)))[0]
            gone = parts_of(Policy(name="gone", suppress=tuple(sorted({*text.keys, *_BROAD}))))[0]
            made.append((Ruling(text, kept, True, tuple(sorted(text.keys))), Ruling(text, gone, False, ())))
            continue
        subjects, texts = (topics, topical) if kind < 0.6 else (harms, harmful)
        text = generator.choice(texts)
        own = [subject for subject in subjects if subject.key in text.keys]
        rest = [subject for subject in subjects if subject.key not in text.keys]
        named = [generator.choice(own), *generator.sample(rest, generator.randint(0, 2))]
        other = generator.sample(rest, len(named))
        form = generator.random()
        unsafe, safe = (_policy(random.Random(f"{form}"), subjects, inject=False) for subjects in (named, other))
        made.append((_rule(text, unsafe, named), _rule(text, safe, other)))
    return made


def held_out_topics(split: Split) -> frozenset[str]:
    return frozenset(row.family for row in split.family if row.source == "authored_topics" and row.family)


def topic_texts(pool: Path) -> list[Text]:
    rows = [json.loads(line) for line in (pool / "authored_topics.jsonl").read_text().splitlines()]
    return [Text(row["id"], row["prompt"], frozenset({f"topic {row['meta']['group']}"})) for row in rows]


def _harmful(rows: Sequence[Row], keys: dict[str, tuple[str, str]], *, guessed: bool = False) -> list[Text]:
    """Short unsafe texts whose categories, the broad ones aside, are all among `keys`."""
    texts = []
    for row in rows:
        own = frozenset(row.names) - set(_BROAD)
        if row.unsafe and (guessed or not row.guessed) and own and own <= set(keys) and len(row.prompt) <= 240:
            texts.append(Text(row.id, row.prompt, own))
    return texts


def _keeps_builtin(part: PolicyPart) -> bool:
    return part.names is not None and CATEGORY_NAMES[0] in part.names


def _rule(text: Text, part: PolicyPart, named: Sequence[Subject]) -> Ruling:
    names = tuple(subject.name for subject in named if subject.key in text.keys)
    # Under an injected list the built-in categories still hold.
    builtin = tuple(sorted(name for name in text.keys if part.names and name in part.names))
    return Ruling(text, part, bool(names or builtin), names or builtin)


def _suppressed(generator: random.Random, texts: Sequence[Text], size: int) -> list[Ruling]:
    """The built-in list without what some texts are about: they are safe, the others are not."""
    usable = [text for text in texts if not text.keys & set(SUPPRESSED_FOR_PAIRS)]
    gone = generator.choice(sorted({key for text in usable for key in text.keys}))
    suppress = {gone, *_BROAD, *generator.sample(CATEGORY_NAMES, 2)} - {"Sexual (minor)", *SUPPRESSED_FOR_PAIRS}
    part = parts_of(Policy(name="suppressed", suppress=tuple(sorted(suppress))))[0]
    safe = [text for text in usable if text.keys <= suppress]
    unsafe = [text for text in texts if not text.keys & suppress]
    chosen = [(text, False) for text in generator.sample(safe, size // 2)]
    chosen += [(text, True) for text in generator.sample(unsafe, (size + 1) // 2)]
    return [Ruling(text, part, bad, tuple(sorted(text.keys)) if bad else ()) for text, bad in chosen]


def _policy(generator: random.Random, named: Sequence[Subject], *, inject: bool) -> PolicyPart:
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
