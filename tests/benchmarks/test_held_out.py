"""The rows that are scored are those that the adapter recorded, and nothing that it may have read counts as unread."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy import figures
from benchmarks.held_out import load_replies, load_split, read_elsewhere, some, with_known_categories
from build_scripts.training_data import CAPS, Row, load_pool, split_pool
from build_scripts.training_replies import REPLY_CAPS, load_exchanges
from engines.manifest import write_manifest

SEED = 3


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    for source in {*CAPS, *REPLY_CAPS}:
        lines = [
            {
                "id": f"{source}:en-{n}",
                "source": source,
                "language": "en",
                "prompt": f"{source} asks {n}",
                "response": f"answer {n}",
                "image": None,
                "prompt_label": ("safe", "unsafe")[n % 2],
                "response_label": ("safe", "unsafe")[n % 2],
                "categories": [f"category {n % 9}"],
                "mapped_aegis_categories": ["Malware"] if n % 2 else [],
                "label_source": "by keyword" if n % 3 == 0 else "by hand",
                "meta": {"group": n % 9, "en": f"{source} asks {n}"},
            }
            for n in range(60)
        ]
        (folder / f"{source}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder


@pytest.fixture
def adapter(tmp_path: Path, pool: Path) -> Path:
    split = split_pool(load_pool(pool), seed=SEED)
    _, replies = load_exchanges(pool, split, seed=SEED)
    parts = {"family": split.family, "random": split.random, "replies": replies}
    (tmp_path / "split.json").write_text(json.dumps({name: [row.id for row in rows] for name, rows in parts.items()}))
    write_manifest(tmp_path, kind="adapter", inputs={}, training={"seed": SEED})
    return tmp_path


def test_the_split_is_the_adapters_own(pool: Path, adapter: Path) -> None:
    split = load_split(pool, adapter)
    assert split == split_pool(load_pool(pool), seed=SEED)
    assert load_replies(pool, adapter, split) == load_exchanges(pool, split, seed=SEED)


@pytest.mark.parametrize("name", ["family", "random", "replies"])
def test_a_pool_that_gives_other_rows_is_refused(pool: Path, adapter: Path, name: str) -> None:
    recorded = json.loads((adapter / "split.json").read_text())
    recorded[name] = recorded[name][1:]
    (adapter / "split.json").write_text(json.dumps(recorded))
    with pytest.raises(ValueError, match=f"{name} split is not the one"):
        load_replies(pool, adapter, load_split(pool, adapter))


def test_an_adapter_of_before_there_were_replies_is_named_and_read_nothing_elsewhere(pool: Path, adapter: Path) -> None:
    recorded = json.loads((adapter / "split.json").read_text())
    del recorded["replies"]
    (adapter / "split.json").write_text(json.dumps(recorded))
    split = load_split(pool, adapter)
    assert read_elsewhere(pool, adapter, split) == frozenset()
    with pytest.raises(ValueError, match="no replies"):
        load_replies(pool, adapter, split)


def test_responses_and_topics_of_policies_count_as_read(pool: Path, adapter: Path) -> None:
    split = load_split(pool, adapter)
    trained, _ = load_replies(pool, adapter, split)
    read = read_elsewhere(pool, adapter, split)
    assert {exchange.response for exchange in trained} <= read
    topical = {row.prompt for row in split.random if row.source == "authored_topics"}
    assert topical
    assert topical == {row.prompt for row in split.random} & read


def test_categories_that_were_guessed_are_not_scored(pool: Path, adapter: Path) -> None:
    split = load_split(pool, adapter)
    rows = with_known_categories(split)
    assert {row.id for row in rows} <= {row.id for row in (*split.family, *split.random)}
    assert rows
    assert all(row.unsafe and row.names and not row.guessed for row in rows)
    assert any(row.guessed and row.unsafe for row in split.family)


def test_a_part_of_the_rows_is_always_the_same() -> None:
    rows = list(range(100))
    assert some(rows, None) is rows
    assert some(rows, 100) is rows
    assert some(rows, 10) == some(rows, 10)
    assert len(set(some(rows, 10))) == 10


def test_texts_read_elsewhere_are_scored_with_the_others_and_left_out_beside() -> None:
    rows = [Row(str(n), "s", "en", f"text {n}", n < 2, None) for n in range(4)]
    scores = {"guard": np.array([0.9, 0.1, 0.9, 0.1])}
    result = figures(rows, scores, name="random", elsewhere={"text 1", "text 2"})
    assert (result["random"]["guard"].rows, result["random"]["guard"].f1) == (4, 0.5)
    left = result["random, not read elsewhere"]["guard"]
    assert (left.rows, left.unsafe, left.f1) == (2, 1, 1.0)
    assert list(figures(rows, scores, name="random", elsewhere=())) == ["random"]
