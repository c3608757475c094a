"""Policies to train on, two at a time: the same texts, and what is unsafe under one policy is safe under the other.

A policy names a few subjects in one of the forms that the guard serves: free text (Mode A), a category list (Mode
B), the built-in list with categories injected or suppressed. A text is unsafe under a policy exactly if one of its
subjects is named. Two policies that divide the same texts differently leave nothing to learn from how harmful a text
sounds, or from how strict a policy sounds: only from whether one is about the other.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

from tritonguard.policy import Policy
from tritonguard.policy_parts import CATEGORY_NAMES, parts_of

from build_scripts.training_data import Split
from build_scripts.training_subjects import (
    BROAD,
    HARMS,
    SUPPRESSED_FOR_PAIRS,
    TOPICS,
    Ruling,
    Subject,
    Text,
    harmful_texts,
    held_out_topics,
    policy_part,
    rule,
    topic_texts,
)

Mirror = tuple[list[Ruling], list[Ruling]]
TOPIC_MEANINGS = ("questions about {}", "{} and what belongs to the subject", "whatever concerns {}")


class _Texts:
    """What training may use, by subject."""

    def __init__(self, pool: Path, split: Split) -> None:
        self.away = held_out_topics(split)
        unseen = {row.id for row in split.random}
        topical = [text for text in topic_texts(pool) if not text.keys & self.away and text.id not in unseen]
        self.harmful = harmful_texts(split.train, HARMS, guessed=True)
        self.plain = [
            Text(row.id, row.prompt, frozenset()) for row in split.train if not row.unsafe and len(row.prompt) < 200
        ]
        self.topics = sorted({key for text in topical for key in text.keys}, key=lambda key: int(key.split()[1]))
        self.harms = [key for key in HARMS if any(key in text.keys for text in self.harmful)]
        self._about: dict[str, list[Text]] = defaultdict(list)
        for text in [*topical, *self.harmful]:
            for key in text.keys:
                self._about[key].append(text)

    def about(
        self, generator: random.Random, keys: Sequence[str], count: int, *, without: Collection[str]
    ) -> list[Text]:
        """`count` texts on the subjects `keys`, each subject as often, on none of `without`."""
        drawn: list[Text] = []
        for number in range(count):
            usable = [text for text in self._about[keys[number % len(keys)]] if not text.keys & set(without)]
            drawn += [generator.choice(usable)] if usable else []
        return drawn


def training_mirrors(
    pool: Path, split: Split, *, mirrors: int, size: int, seed: int, suppressed: float = 0.25
) -> list[Mirror]:
    """`mirrors` pairs of policies over `size` texts each (fewer where a subject has too few of its own).

    suppressed: share of pairs that leave built-in categories out.
    """
    generator = random.Random(f"{seed}/mirrors")
    texts = _Texts(pool, split)
    draw = [lambda: _named(generator, texts, size), lambda: _suppressed(generator, texts, size)]
    return [draw[generator.random() < suppressed]() for _ in range(mirrors)]


def _named(generator: random.Random, texts: _Texts, size: int) -> Mirror:
    kind = generator.random()
    keys = texts.topics if kind < 0.4 else texts.harms if kind < 0.85 else [*texts.topics, *texts.harms]
    chosen = generator.sample(keys, generator.randint(2, min(6, len(keys))))
    first, second = chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]
    neither = [generator.choice(texts.plain if generator.random() < 0.4 else texts.harmful)] if size > 4 else []
    neither = [text for text in neither if not text.keys & set(chosen)]
    part = (size - len(neither)) // 2
    shown = [
        *texts.about(generator, first, part, without=second),
        *texts.about(generator, second, size - len(neither) - part, without=first),
        *neither,
    ]
    generator.shuffle(shown)
    form = generator.random()
    first_policy, second_policy = (
        _policy(random.Random(f"{form}"), [_subject(generator, key) for key in part], shown, inject=kind < 0.4)
        for part in (first, second)
    )
    return first_policy, second_policy


def _policy(generator: random.Random, named: Sequence[Subject], shown: Sequence[Text], *, inject: bool) -> list[Ruling]:
    part = policy_part(generator, named, inject=inject)
    return [rule(text, part, named) for text in shown]


def _suppressed(generator: random.Random, texts: _Texts, size: int) -> Mirror:
    """The built-in list without what half of the texts are about, and without what the other half is about."""
    first, second = generator.sample([key for key in texts.harms if key not in SUPPRESSED_FOR_PAIRS], 2)
    extra = generator.sample([key for key in CATEGORY_NAMES if key not in (first, second, "Sexual (minor)")], 2)
    gone = [{key, *BROAD, *extra} - {"Sexual (minor)", *SUPPRESSED_FOR_PAIRS} for key in (first, second)]
    out = {first, second, *gone[0], *gone[1]}
    still = [generator.choice([text for text in texts.harmful if not text.keys & out])] if size > 4 else []
    part = (size - len(still)) // 2
    shown = [
        *texts.about(generator, [first], part, without=out - {first}),
        *texts.about(generator, [second], size - len(still) - part, without=out - {second}),
        *still,
    ]
    generator.shuffle(shown)
    left, right = ([_under(text, suppress) for text in shown] for suppress in gone)
    return left, right


def _under(text: Text, suppress: Collection[str]) -> Ruling:
    part = parts_of(Policy(name="suppressed", suppress=tuple(sorted(suppress))))[0]
    unsafe = not text.keys & set(suppress)
    return Ruling(text, part, unsafe, tuple(sorted(text.keys)) if unsafe else ())


def _subject(generator: random.Random, key: str) -> Subject:
    if key in HARMS:
        return Subject(key, *generator.choice(HARMS[key]))
    name = TOPICS[int(key.split()[1])]
    return Subject(key, name, generator.choice(TOPIC_MEANINGS).format(name.lower()))
