"""Harmful-F1, FPR and AUC of the served guard, beside a character-n-gram logistic regression on the same rows.

    python -m benchmarks.accuracy --pool POOL --adapter adapters/embedded --bundle build/bundle

Every row goes through the typed client, gRPC and a real Triton. Two splits, both held out of training:
`family` (whole sources and whole template families that training never saw) and `random` (rows like the
trained ones). An indeterminate verdict counts as flagged, as the default policy treats it, and is
counted apart. F1 is of the unsafe class at threshold 0.5; AUC is over p_unsafe.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tritonguard import Guard

from build_scripts.training_data import Row, Split, load_pool, split_pool
from engines.manifest import read_manifest
from serving.launch import ServerSettings, TritonServer

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Figures:
    """Of one scorer on one split. `indeterminate`: rows without a verdict, flagged here."""

    rows: int
    unsafe: int
    f1: float
    fpr: float
    recall: float
    auc: float
    indeterminate: int = 0

    @classmethod
    def of(cls, scores: Scores, rows: Sequence[Row]) -> Figures:
        """scores float64 [n]: p_unsafe; NaN where indeterminate."""
        from sklearn.metrics import f1_score, roc_auc_score

        missing = np.isnan(scores)
        scores = np.where(missing, 1.0, scores)
        unsafe = np.array([row.unsafe for row in rows])
        flagged = scores >= 0.5
        return cls(
            rows=len(rows),
            unsafe=int(unsafe.sum()),
            f1=float(f1_score(unsafe, flagged)),
            fpr=float(flagged[~unsafe].mean()),
            recall=float(flagged[unsafe].mean()),
            auc=float(roc_auc_score(unsafe, scores)),
            indeterminate=int(missing.sum()),
        )


def served_scores(guard: Guard, rows: Sequence[Row], *, concurrency: int, title: str) -> Scores:
    """p_unsafe of each row through the server; NaN for an indeterminate label."""

    def score(row: Row) -> float:
        p_unsafe = guard.check(row.prompt, deadline_s=120.0).label.p_unsafe_user
        return float("nan") if p_unsafe is None else p_unsafe

    with ThreadPoolExecutor(concurrency) as pool:
        results = pool.map(score, rows)
        return np.array(list(track(results, total=len(rows), description=title, disable=not sys.stderr.isatty())))


def regression(split: Split) -> Callable[[Sequence[Row]], Scores]:
    """The baseline, fitted on the adapter's own training rows: tf-idf of character 1- to 5-grams."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5), min_df=2, sublinear_tf=True, max_features=200_000),
        LogisticRegression(C=10.0, class_weight="balanced", max_iter=500),
    )
    model.fit([row.prompt for row in split.train], [row.unsafe for row in split.train])

    def score(rows: Sequence[Row]) -> Scores:
        probabilities: Scores = model.predict_proba([row.prompt for row in rows])[:, 1]
        return probabilities

    return score


def load_split(pool: Path, adapter: Path) -> Split:
    """The adapter's own split. Raises ValueError when the pool no longer gives the rows it was scored on."""
    split = split_pool(load_pool(pool), seed=read_manifest(adapter)["training"]["seed"])
    recorded = json.loads((adapter / "split.json").read_text())
    for name in ("family", "random"):
        if [row.id for row in getattr(split, name)] != recorded[name]:
            raise ValueError(f"the pool's {name} split is not the one that the adapter was trained without")
    return split


def report(results: dict[str, dict[str, Figures]]) -> Table:
    table = Table("split", "scorer", "rows", "unsafe", "F1", "FPR", "recall", "AUC", "indeterminate")
    for split, scorers in results.items():
        for scorer, figures in scorers.items():
            numbers = (figures.f1, figures.fpr, figures.recall, figures.auc)
            table.add_row(
                split,
                scorer,
                str(figures.rows),
                str(figures.unsafe),
                *(f"{number:.3f}" for number in numbers),
                str(figures.indeterminate),
            )
    return table


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pool", type=Path, required=True, help="folder of labelled JSONL files")
    parser.add_argument("--adapter", type=Path, default=Path("adapters/embedded"), help="its split is used")
    parser.add_argument("--bundle", type=Path, default=Path("build/bundle"), help="served for the measurement")
    parser.add_argument("--url", help="host:port of a server that already runs, instead of --bundle")
    parser.add_argument("--limit", type=int, help="random rows of each split (default: all)")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args(argv)
    split = load_split(args.pool, args.adapter)
    baseline = regression(split)
    results: dict[str, dict[str, Figures]] = {}
    with ExitStack() as stack:
        url = args.url
        if url is None:
            server = stack.enter_context(
                TritonServer(ServerSettings(args.bundle, http_port=0, grpc_port=0, metrics_port=0))
            )
            url = server.endpoints.grpc
        guard = stack.enter_context(Guard(url, deadline_s=120.0))
        for name in ("family", "random"):
            rows: Sequence[Row] = getattr(split, name)
            if args.limit is not None and args.limit < len(rows):
                rows = random.Random(0).sample(rows, args.limit)
            scores = served_scores(guard, rows, concurrency=args.concurrency, title=name)
            results[name] = {
                "guard, served": Figures.of(scores, rows),
                "n-gram regression": Figures.of(baseline(rows), rows),
            }
    Console().print(report(results))
    if args.out:
        plain: dict[str, Any] = {
            split: {scorer: vars(figures) for scorer, figures in scorers.items()} for split, scorers in results.items()
        }
        args.out.write_text(json.dumps(plain, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
