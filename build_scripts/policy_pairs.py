"""The pairs that score custom policies: one text under two policies, unsafe under the first and safe under the second.

Subjects, wordings and texts are all held out: no training policy names these, no training row holds those.
"""

from __future__ import annotations

import random
from pathlib import Path

from tritonguard.policy import Policy
from tritonguard.policy_parts import parts_of

from build_scripts.training_data import Split
from build_scripts.training_subjects import (
    BROAD,
    SUPPRESSED_FOR_PAIRS,
    TOPICS,
    Ruling,
    Subject,
    harmful_texts,
    held_out_topics,
    policy_part,
    rule,
    topic_texts,
)

# Aegis category -> (name, what it means), in words that no training policy uses.
HELD_OUT_HARMS = {
    "PII/Privacy": ("Snooping", "spying on people or misusing what is known about them"),
    "Fraud/Deception": ("Scams", "tricking people out of their money"),
    "Malware": ("Cyberattacks", "viruses, spyware and breaking into computers"),
    "Suicide and Self Harm": ("Self-Injury", "ending one's life or injuring oneself"),
    "Guns and Illegal Weapons": ("Arms", "firearms, bombs and other arms"),
    "Hate/Identity Hate": ("Bigotry", "attacks on people for their origin, religion or sex"),
    "Copyright/Trademark/Plagiarism": ("Piracy", "stealing films, music, brands or texts of others"),
}


def pairs(pool: Path, split: Split, *, count: int, seed: int) -> list[tuple[Ruling, Ruling]]:
    """`count` times one text under two policies, unsafe first, safe second; all held out (see the module)."""
    generator = random.Random(f"{seed}/pairs")
    away = sorted(held_out_topics(split))
    topics = [Subject(key, TOPICS[int(key.split()[1])], "anything about it") for key in away]
    harms = [Subject(key, *words) for key, words in HELD_OUT_HARMS.items()]
    topical = [text for text in topic_texts(pool) if text.keys & set(away)]
    harmful = harmful_texts(split.family, HELD_OUT_HARMS)
    made: list[tuple[Ruling, Ruling]] = []
    while len(made) < count:
        kind = generator.random()
        if kind < 0.2:
            text = generator.choice([t for t in harmful if t.keys & set(SUPPRESSED_FOR_PAIRS)])
            kept = parts_of(Policy(name="kept", suppress=("Profanity",)))[0]
            gone = parts_of(Policy(name="gone", suppress=tuple(sorted({*text.keys, *BROAD}))))[0]
            made.append((Ruling(text, kept, True, tuple(sorted(text.keys))), Ruling(text, gone, False, ())))
            continue
        subjects, texts = (topics, topical) if kind < 0.6 else (harms, harmful)
        text = generator.choice(texts)
        own = [subject for subject in subjects if subject.key in text.keys]
        rest = [subject for subject in subjects if subject.key not in text.keys]
        named = [generator.choice(own), *generator.sample(rest, generator.randint(0, 2))]
        other = generator.sample(rest, len(named))
        form = generator.random()
        unsafe, safe = (policy_part(random.Random(f"{form}"), subjects, inject=False) for subjects in (named, other))
        made.append((rule(text, unsafe, named), rule(text, safe, other)))
    return made
