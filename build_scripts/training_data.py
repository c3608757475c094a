"""Labelled prompts, and the two splits that the adapter's prompt verdict is scored on.

A pool is a folder of JSONL files, one per source, with the fields id, source, language, prompt,
prompt_label, response, image, categories, mapped_aegis_categories, label_source and meta. Rows with an image
are left out: the tower is not trained. Responses are read by `training_replies`.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonguard.errors import BundleError

# Most rows per source. Sets built from templates are capped so that no template dominates; polyrefuse and
# mlc_joint are capped because unsafe rows outnumber safe ones. Noisy crowd labels (kosbi, cold, davidson)
# and prompts that repeat another source (derived_*) are not used.
CAPS: Mapping[str, int] = {
    "advbench": 469,
    "ailuminate_demo": 900,
    "authored_benign": 492,
    "authored_topics": 800,
    "authored_unsafe_hi_pt": 72,
    "benign_knowledge_en": 699,
    "catqa": 220,
    "convai_templates": 240,
    "cyberseceval_frr": 220,
    "cyberseceval_interpreter": 148,
    "harmfulqa": 677,
    "mhc_train": 2000,
    "mlc_joint_multilingual": 900,
    "mlc_v05": 1500,
    "mt_bench_questions": 80,
    "polyrefuse_train": 1400,
    "sghatecheck": 200,
    "vicuna80_multilingual": 878,
}
HELD_OUT_SOURCES = frozenset({"catqa", "convai_templates", "cyberseceval_frr"})
FAMILY_SHARE = 0.12  # of the template families of every other source, held out whole
RANDOM_SHARE = 0.08  # of the rows that remain
LONGEST_CHARACTERS = 1200


@dataclass(frozen=True)
class Row:
    """names: Aegis categories of an unsafe row, () where none is known. guessed: they come from keywords: good
    enough to train on, not to score with."""

    id: str
    source: str
    language: str
    prompt: str
    unsafe: bool
    family: str | None
    names: tuple[str, ...] = ()
    guessed: bool = False


@dataclass(frozen=True)
class Split:
    """train; family: whole sources and whole template families never trained on; random: rows like the trained."""

    train: tuple[Row, ...]
    family: tuple[Row, ...]
    random: tuple[Row, ...]


def _words(text: str) -> str:
    return re.sub(r"\W+", " ", text.lower()).strip()


# What makes two rows of a source variants of one template (translations included). A source that is not
# here has no templates: its rows go to the random split only, or are held out with the whole source.
_FAMILY: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "advbench": lambda row: _words(row["prompt"]),
    "ailuminate_demo": lambda row: f"hazard {row['categories'][0]}",
    "authored_benign": lambda row: f"authored {row['meta']['group']}",
    "authored_topics": lambda row: f"topic {row['meta']['group']}",
    "authored_unsafe_hi_pt": lambda row: f"authored unsafe {row['meta']['group']}",
    "harmfulqa": lambda row: row["categories"][0],
    "mhc_train": lambda row: row["categories"][0],
    "mlc_joint_multilingual": lambda row: f"hazard {row['categories'][0]}",
    "mlc_v05": lambda row: f"hazard {row['categories'][0]}",
    "polyrefuse_train": lambda row: _words(row["meta"]["en"]),
    "vicuna80_multilingual": lambda row: f"vicuna {row['id'].rsplit('-', 1)[1]}",
}


def load_pool(pool: Path) -> dict[str, list[Row]]:
    """Rows by source, deduplicated by text. Raises BundleError when a source's file is not there."""
    rows: dict[str, list[Row]] = {}
    seen: set[str] = set()
    for source in sorted(CAPS):
        path = pool / f"{source}.jsonl"
        if not path.is_file():
            raise BundleError(f"the training pool has no {path.name}")
        rows[source] = []
        for line in path.read_text().splitlines():
            raw = json.loads(line)
            if not _usable(raw) or raw["prompt"] in seen:
                continue
            seen.add(raw["prompt"])
            family = _FAMILY[source](raw) if source in _FAMILY else None
            unsafe = raw["prompt_label"] == "unsafe"
            names = tuple(raw["mapped_aegis_categories"] or ())
            guessed = raw["label_source"].endswith("by keyword")
            rows[source].append(Row(raw["id"], source, raw["language"], raw["prompt"], unsafe, family, names, guessed))
    return rows


def _usable(raw: Mapping[str, Any]) -> bool:
    return (
        raw["image"] is None
        and raw["prompt_label"] in ("safe", "unsafe")
        and 0 < len(raw["prompt"].strip()) <= LONGEST_CHARACTERS
    )


def split_pool(rows: Mapping[str, Sequence[Row]], *, seed: int = 0) -> Split:
    """Cap each source, hold out whole sources and families, then hold out random rows. Deterministic."""
    train: list[Row] = []
    family: list[Row] = []
    for source, all_rows in sorted(rows.items()):
        kept = random.Random(f"{seed}/{source}").sample(list(all_rows), min(CAPS[source], len(all_rows)))
        for row in kept:
            templated = row.family is not None and _fraction(f"{seed}/{row.family}") < FAMILY_SHARE
            held_out = templated or source in HELD_OUT_SOURCES
            (family if held_out else train).append(row)
    at_random = [row for row in train if _fraction(f"{seed}/row/{row.id}") < RANDOM_SHARE]
    chosen = set(at_random)
    return Split(tuple(row for row in train if row not in chosen), tuple(family), tuple(at_random))


def _fraction(text: str) -> float:
    """A stable number in [0, 1) for a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def counts(rows: Iterable[Row]) -> dict[str, dict[str, int]]:
    """{source: {safe, unsafe}} for a manifest or a log."""
    table: dict[str, dict[str, int]] = defaultdict(lambda: {"safe": 0, "unsafe": 0})
    for row in rows:
        table[row.source]["unsafe" if row.unsafe else "safe"] += 1
    return dict(sorted(table.items()))
