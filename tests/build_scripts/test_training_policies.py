"""Rulings to train custom policies on, and the held-out pairs that score them, from a small pool made here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tritonguard.policy_parts import PolicyPart

from build_scripts.policy_pairs import pairs
from build_scripts.training_data import Row, Split
from build_scripts.training_policies import Mirror, training_mirrors
from build_scripts.training_subjects import SUPPRESSED_FOR_PAIRS, TOPICS, Ruling

AWAY = (1, 5, 9, 17, 29)
HARMS = (
    "Violence", "Hate/Identity Hate", "PII/Privacy", "Copyright/Trademark/Plagiarism", "Suicide and Self Harm",
    "Guns and Illegal Weapons", "Sexual", "Fraud/Deception", "Malware",
)  # fmt: skip
SIZE = 5
Pair = tuple[Ruling, Ruling]


def topic_row(topic: int, number: int) -> Row:
    prompt = f"Question {number}. Topic: {TOPICS[topic].lower()}"
    return Row(f"authored_topics:en-{topic}-{number}", "authored_topics", "en", prompt, False, f"topic {topic}")


def harm_row(part: str, harm: str, number: int, *, guessed: bool = False, extra: tuple[str, ...] = ()) -> Row:
    id = f"{part}:{harm}-{number}-{guessed}-{len(extra)}"
    return Row(id, "mlc_v05", "en", f"request {id}", True, None, (harm, *extra), guessed)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    rows = [topic_row(topic, number) for topic in range(len(TOPICS)) for number in range(6)]
    lines = [
        {"id": row.id, "prompt": row.prompt, "language": "en", "meta": {"group": int(str(row.family).split()[1])}}
        for row in rows
    ]
    (folder / "authored_topics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder


@pytest.fixture(scope="module")
def split() -> Split:
    kept = [topic for topic in range(len(TOPICS)) if topic not in AWAY]
    return Split(
        train=(
            *(topic_row(topic, number) for topic in kept for number in range(4)),
            *(harm_row("train", harm, number, guessed=number % 2 == 0) for harm in HARMS for number in range(12)),
            *(Row(f"plain:{n}", "mt_bench_questions", "en", f"plain {n}", False, None) for n in range(20)),
        ),
        family=(
            *(topic_row(topic, number) for topic in AWAY for number in range(6)),
            *(harm_row("family", harm, number) for harm in HARMS for number in range(4)),
            *(harm_row("family", harm, number, guessed=True) for harm in HARMS for number in range(4)),
            *(harm_row("family", harm, number, extra=("Illegal Activity",)) for harm in HARMS for number in range(2)),
        ),
        random=(),
    )


@pytest.fixture(scope="module")
def held_out(pool: Path, split: Split) -> list[Pair]:
    return pairs(pool, split, count=200, seed=1)


@pytest.fixture(scope="module")
def mirrors(pool: Path, split: Split) -> list[Mirror]:
    return training_mirrors(pool, split, mirrors=300, size=SIZE, seed=1)


@pytest.fixture(scope="module")
def trained(mirrors: list[Mirror]) -> list[list[Ruling]]:
    return [group for mirror in mirrors for group in mirror]


def named(part: PolicyPart) -> set[str]:
    """The subjects that a policy names of its own: not the built-in categories that a derived list keeps."""
    policy = part.policy
    if policy.custom_policy is not None:
        lines = policy.custom_policy.partition("Disallowed Behaviors:\n")[2].partition("\n\n")[0].splitlines()
        return {line.removeprefix("- ").partition(":")[0] for line in lines}
    listed = policy.custom_taxonomy if isinstance(policy.custom_taxonomy, tuple) else ()
    return {category.name for category in (*listed, *policy.inject)}


def test_a_pair_is_one_text_unsafe_under_the_first_policy_and_safe_under_the_second(held_out: list[Pair]) -> None:
    assert len(held_out) == 200
    for unsafe, safe in held_out:
        assert unsafe.text == safe.text
        assert (unsafe.unsafe, safe.unsafe) == (True, False)
        assert unsafe.part != safe.part
        assert unsafe.names
        assert safe.names == ()


def test_the_unsafe_policy_names_what_the_text_is_about_and_the_safe_one_does_not(held_out: list[Pair]) -> None:
    for unsafe, safe in held_out:
        if unsafe.part.policy.suppress:
            assert not unsafe.text.keys & set(unsafe.part.policy.suppress)
            assert unsafe.text.keys <= set(safe.part.policy.suppress)
        else:
            assert set(unsafe.names) <= named(unsafe.part)
            assert not set(unsafe.names) & named(safe.part)
            assert len(named(unsafe.part)) == len(named(safe.part))


def test_the_two_policies_of_a_pair_are_written_in_the_same_form(held_out: list[Pair]) -> None:
    forms = {tuple(ruling.part.policy.custom_policy is None for ruling in pair) for pair in held_out}
    assert forms == {(True, True), (False, False)}
    assert {pair[0].part.policy.name for pair in held_out} == {"free-text", "list", "kept"}


def test_no_training_policy_names_a_subject_of_the_pairs(held_out: list[Pair], trained: list[list[Ruling]]) -> None:
    kept_away = {name for pair in held_out for ruling in pair for name in named(ruling.part)}
    seen = {name for group in trained for name in named(group[0].part)}
    assert {TOPICS[topic] for topic in AWAY} <= kept_away
    assert len(seen) > 30
    assert not kept_away & seen


def test_no_training_policy_suppresses_what_the_pairs_suppress(
    held_out: list[Pair], trained: list[list[Ruling]]
) -> None:
    gone = [safe for unsafe, safe in held_out if unsafe.part.policy.name == "kept"]
    assert gone
    assert all(set(SUPPRESSED_FOR_PAIRS) & set(ruling.part.policy.suppress) for ruling in gone)
    suppressed = [group for group in trained if group[0].part.policy.suppress]
    assert suppressed
    for group in suppressed:
        assert not set(SUPPRESSED_FOR_PAIRS) & set(group[0].part.policy.suppress)


def test_texts_of_the_pairs_are_never_trained_on(
    held_out: list[Pair], trained: list[list[Ruling]], split: Split
) -> None:
    texts = {unsafe.text.prompt for unsafe, _ in held_out}
    assert not texts & {row.prompt for row in split.train}
    assert not texts & {ruling.text.prompt for group in trained for ruling in group}


def test_pairs_do_not_rest_on_guessed_categories(held_out: list[Pair], split: Split) -> None:
    guessed = {row.id for row in split.family if row.guessed}
    assert guessed
    assert not guessed & {unsafe.text.id for unsafe, _ in held_out}


def test_the_two_policies_of_a_mirror_divide_the_same_texts_the_other_way_round(mirrors: list[Mirror]) -> None:
    assert len(mirrors) == 300
    for left, right in mirrors:
        assert [ruling.text for ruling in left] == [ruling.text for ruling in right]
        assert len(left) <= SIZE
        for group in (left, right):
            assert len({ruling.part for ruling in group}) == 1
            assert all(bool(ruling.names) == ruling.unsafe for ruling in group)
        differ = [one for one, other in zip(left, right, strict=True) if one.unsafe != other.unsafe]
        assert len(differ) >= SIZE - 1
        assert {ruling.unsafe for ruling in differ} == {True, False}


def test_how_harmful_a_text_is_says_nothing_about_the_answer(mirrors: list[Mirror]) -> None:
    harmful = [r for mirror in mirrors for group in mirror for r in group if r.text.keys & set(HARMS)]
    assert 0.4 < sum(ruling.unsafe for ruling in harmful) / len(harmful) < 0.6


def test_every_form_of_policy_and_kind_of_subject_is_trained(trained: list[list[Ruling]]) -> None:
    assert {group[0].part.policy.name for group in trained} == {"free-text", "list", "injected", "suppressed"}
    wordings = {name for group in trained for name in named(group[0].part)}
    assert {"Fraud", "Phishing", "Hacking", "Slurs"} <= wordings


def test_names_of_a_ruling_can_be_written_under_its_policy(trained: list[list[Ruling]]) -> None:
    for group in trained:
        for ruling in group:
            assert ruling.part.names is None or set(ruling.names) <= set(ruling.part.names)


def test_both_are_the_same_every_time_and_another_seed_gives_others(
    pool: Path, split: Split, held_out: list[Pair], mirrors: list[Mirror]
) -> None:
    assert pairs(pool, split, count=200, seed=1) == held_out
    assert pairs(pool, split, count=200, seed=2) != held_out
    assert training_mirrors(pool, split, mirrors=300, size=SIZE, seed=1) == mirrors
    assert training_mirrors(pool, split, mirrors=20, size=SIZE, seed=2) != mirrors[:20]
