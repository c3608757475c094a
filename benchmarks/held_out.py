"""What an adapter was trained without: its own split of the pool, checked against the ids that it recorded."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from tritonguard.policy import Policy
from tritonguard.policy_parts import parts_of
from tritonguard.request import GuardRequest

from build_scripts import parity_corpus
from build_scripts.training_data import Row, Split, load_pool, split_pool
from build_scripts.training_replies import Exchange, load_exchanges
from engines.manifest import read_manifest

T = TypeVar("T")


def split_seed(adapter: Path) -> int:
    return int(read_manifest(adapter)["training"]["seed"])


def load_split(pool: Path, adapter: Path) -> Split:
    """The adapter's own split. Raises ValueError when the pool no longer gives the rows it was scored on."""
    split = split_pool(load_pool(pool), seed=split_seed(adapter))
    for name in ("family", "random"):
        _refuse_other([row.id for row in getattr(split, name)], _recorded(adapter), name)
    return split


def load_replies(pool: Path, adapter: Path, split: Split) -> tuple[list[Exchange], list[Exchange]]:
    """(trained, held out) exchanges. Raises ValueError when they are not those that the adapter was trained without."""
    trained, held_out = load_exchanges(pool, split, seed=split_seed(adapter))
    _refuse_other([exchange.id for exchange in held_out], _recorded(adapter), "replies")
    return trained, held_out


def _recorded(adapter: Path) -> dict[str, Any]:
    ids: dict[str, Any] = json.loads((adapter / "split.json").read_text())
    return ids


def _refuse_other(ids: list[str], recorded: dict[str, Any], name: str) -> None:
    if name not in recorded:
        raise ValueError(f"the adapter's split.json has no {name}: it was trained before there were any")
    if ids != recorded[name]:
        raise ValueError(f"the pool's {name} split is not the one that the adapter was trained without")


def read_elsewhere(pool: Path, adapter: Path, split: Split) -> frozenset[str]:
    """Texts that training may have read in another role than a prompt's: as an assistant's response, or under a
    custom policy (of `authored_topics` every text whose topic is not held out). None for an adapter that was
    trained on prompts alone."""
    if "replies" not in _recorded(adapter):
        return frozenset()
    trained, _ = load_replies(pool, adapter, split)
    responses = {exchange.response for exchange in trained}
    return frozenset(responses | {row.prompt for row in split.random if row.source == "authored_topics"})


def some(rows: Sequence[T], limit: int | None) -> Sequence[T]:
    """`limit` of the rows, drawn at random and always the same; None or more than there are: all of them."""
    return rows if limit is None or limit >= len(rows) else random.Random(0).sample(rows, limit)


def parity_rows(split: Split, count: int) -> list[parity_corpus.Row]:
    """`count` held-out prompts (all, where there are fewer), of each language the same share as far as it has them;
    always the same ones, in an order that is not by language."""
    by_language: dict[str, list[Row]] = defaultdict(list)
    for row in (*split.family, *split.random):
        by_language[row.language].append(row)
    queues = [random.Random(language).sample(rows, len(rows)) for language, rows in sorted(by_language.items())]
    # One of each language in turn, until there are enough or none is left.
    turns = [row for turn in zip_longest(*queues) for row in turn if row is not None]
    return [_parity_row(row) for row in turns[:count]]


def _parity_row(row: Row) -> parity_corpus.Row:
    request = GuardRequest.create(prompt=row.prompt)
    (part,) = parts_of(Policy())
    return parity_corpus.Row(row.id, request, part, row.language, (row.unsafe, None))


def with_known_categories(split: Split) -> list[Row]:
    """Held-out unsafe prompts whose categories are known and not guessed from keywords."""
    return [row for row in (*split.family, *split.random) if row.unsafe and row.names and not row.guessed]
