"""Exchanges to train on and exchanges held out, from a small pool made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tritonguard import BundleError

from build_scripts.training_data import Row, Split
from build_scripts.training_replies import AGREED, ANSWERED, LONGEST_RESPONSE, REPLY_CAPS, Exchange, load_exchanges

SHARED_PROMPTS = 5


def raw(source: str, number: int, **changes: Any) -> dict[str, Any]:
    """Each source asks the first prompts of a list of its own twice; a few prompts are those of `split`."""
    asked = number % 90
    return {
        "id": f"{source}:{number}",
        "language": "en",
        "prompt": f"held out {asked}" if asked < SHARED_PROMPTS else f"{source} asks {asked}",
        "response": f"answer {number}",
        "image": None,
        "prompt_label": (None, "safe", "unsafe")[number % 3],
        "response_label": ("safe", "unsafe")[number % 2],
        "mapped_aegis_categories": ["Malware"] if number % 2 else None,
        **changes,
    }


UNUSABLE = (
    {"image": "picture.png"},
    {"response_label": None},
    {"response": None},
    {"response": "  "},
    {"response": "x" * (LONGEST_RESPONSE + 1)},
    {"prompt": " "},
    {"prompt": "x" * 1201},
)


def write_pool(folder: Path, *, rows: int = 150) -> Path:
    for source in REPLY_CAPS:
        lines = [raw(source, number) for number in range(rows)]
        lines += [raw(source, 1000 + index, **changes) for index, changes in enumerate(UNUSABLE)]
        (folder / f"{source}.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return folder


def row(source: str, number: int, *, unsafe: bool, prompt: str | None = None, language: str = "en") -> Row:
    return Row(f"{source}:{number}", source, language, prompt or f"{source} {number}?", unsafe, None, ("Malware",))


@pytest.fixture(scope="module")
def split() -> Split:
    return Split(
        train=(
            *(row("advbench", n, unsafe=True) for n in range(40)),
            *(row("mhc_train", n, unsafe=True) for n in range(40)),
            *(row("mt_bench_questions", n, unsafe=False) for n in range(40)),
            row("advbench", 100, unsafe=True, language="xx"),
            row("advbench", 101, unsafe=True, prompt="long " * 60),
        ),
        family=tuple(row("catqa", n, unsafe=True, prompt=f"held out {n}") for n in range(3)),
        random=tuple(row("catqa", n, unsafe=True, prompt=f"held out {n}") for n in range(3, SHARED_PROMPTS)),
    )


@pytest.fixture(scope="module")
def exchanges(tmp_path_factory: pytest.TempPathFactory, split: Split) -> tuple[list[Exchange], list[Exchange]]:
    return load_exchanges(write_pool(tmp_path_factory.mktemp("pool")), split, seed=1)


def test_no_prompt_is_both_trained_on_and_held_out(exchanges: tuple[list[Exchange], list[Exchange]]) -> None:
    trained, held_out = exchanges
    assert trained
    assert held_out
    assert len(held_out) < len(trained) / 2
    assert not {e.prompt for e in trained} & {e.prompt for e in held_out}


def test_held_out_prompts_of_the_split_are_in_no_trained_exchange(
    exchanges: tuple[list[Exchange], list[Exchange]], split: Split
) -> None:
    trained, held_out = exchanges
    away = {row.prompt for row in (*split.family, *split.random)}
    assert not away & {e.prompt for e in trained}
    assert away == away & {e.prompt for e in held_out}


def test_no_source_exceeds_its_cap_and_unusable_rows_are_left_out(
    exchanges: tuple[list[Exchange], list[Exchange]],
) -> None:
    both = [e for part in exchanges for e in part]
    assert len({e.id for e in both}) == len(both)
    for source, cap in REPLY_CAPS.items():
        assert sum(e.source == source for e in both) == min(cap, 150)
    assert not [e for e in both if e.source in REPLY_CAPS and int(e.id.split(":")[1]) >= 1000]


def test_labels_are_read_as_they_are_and_unknown_ones_stay_unknown(
    exchanges: tuple[list[Exchange], list[Exchange]],
) -> None:
    read = [e for part in exchanges for e in part if e.source in REPLY_CAPS]
    for e in read:
        number = int(e.id.split(":")[1])
        assert e.unsafe is (None, False, True)[number % 3]
        assert e.response_unsafe is bool(number % 2)
        assert e.names == (("Malware",) if number % 2 else ())


def test_made_up_exchanges_come_from_trained_requests_and_are_labelled_alike_on_both_sides(
    exchanges: tuple[list[Exchange], list[Exchange]], split: Split
) -> None:
    made = [e for part in exchanges for e in part if e.source in (AGREED, ANSWERED)]
    rows = {row.prompt: row for row in split.train}
    assert {e.source for e in made} == {AGREED, ANSWERED}
    for e in made:
        assert e.unsafe == e.response_unsafe == rows[e.prompt].unsafe == (e.source == AGREED)
        assert rows[e.prompt].source in ("advbench", "mt_bench_questions"), "hate is said, not asked for"
        assert rows[e.prompt].language == "en"
        assert len(e.prompt) <= 200


def test_the_exchanges_are_the_same_every_time_and_another_seed_gives_others(tmp_path: Path, split: Split) -> None:
    pool = write_pool(tmp_path)
    assert load_exchanges(pool, split, seed=1) == load_exchanges(pool, split, seed=1)
    assert load_exchanges(pool, split, seed=1) != load_exchanges(pool, split, seed=2)


def test_a_source_that_is_not_there_is_named(tmp_path: Path, split: Split) -> None:
    (write_pool(tmp_path) / "cvalues_responses.jsonl").unlink()
    with pytest.raises(BundleError, match=r"cvalues_responses\.jsonl"):
        load_exchanges(tmp_path, split, seed=1)
