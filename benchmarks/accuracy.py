"""Harmful-F1, FPR and AUC of the served guard, beside a character-n-gram logistic regression on the same rows.

    python -m benchmarks.accuracy --pool POOL --adapter adapters/embedded --bundle build/bundle

Every row goes through the typed client, gRPC and a real Triton. Two splits, both held out of training:
`family` (whole sources and whole template families that training never saw) and `random` (rows like the
trained ones). An indeterminate verdict counts as flagged, as the default policy treats it, and is
counted apart. F1 is of the unsafe class at threshold 0.5; AUC is over p_unsafe. "Not read elsewhere" leaves out the
few texts that training may have read in another role, as a response or under a custom policy. The other modes are
scored by `benchmarks.modes`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Sequence

from tritonguard import Guard, GuardRequest
from tritonguard.errors import BundleError

from benchmarks.held_out import load_split, read_elsewhere, some
from benchmarks.report import markdown, write_json
from benchmarks.scores import Figures, Scores, p_unsafe
from benchmarks.served import DEADLINE_S, Question, add_arguments, ask_all, connected
from build_scripts.training_data import Row, Split

Results = dict[str, dict[str, Figures]]
"""Set -> scorer -> figures."""


def served_scores(guard: Guard, rows: Sequence[Row], *, concurrency: int, title: str) -> Scores:
    """float64 [n]: p_unsafe of each row through the server; NaN for an indeterminate label."""
    questions = [Question(row.id, GuardRequest(prompt=row.prompt, deadline_s=DEADLINE_S)) for row in rows]
    replies = ask_all(guard, questions, concurrency=concurrency, title=title)
    return p_unsafe([reply.label for reply in replies], "user")


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


def figures(rows: Sequence[Row], scores: dict[str, Scores], *, name: str, elsewhere: Collection[str]) -> Results:
    """Of each scorer, on all rows and (where that differs) on those whose text is not in `elsewhere`."""
    parts = {name: list(range(len(rows)))}
    unread = [index for index, row in enumerate(rows) if row.prompt not in elsewhere]
    if unread and len(unread) < len(rows):
        parts[f"{name}, not read elsewhere"] = unread
    return {
        part: {
            scorer: Figures.of(values[indices], [rows[index].unsafe for index in indices])
            for scorer, values in scores.items()
        }
        for part, indices in parts.items()
    }


def report(results: Results) -> str:
    """A Markdown table."""
    head = ("split", "scorer", "rows", "unsafe", "F1", "FPR", "recall", "AUC", "indeterminate")
    rows = [
        (part, scorer, f.rows, f.unsafe, f.f1, f.fpr, f.recall, f.auc, f.indeterminate)
        for part, scorers in results.items()
        for scorer, f in scorers.items()
    ]
    return markdown(head, rows)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        split = load_split(args.pool, args.adapter)
        elsewhere = read_elsewhere(args.pool, args.adapter, split)
    except (BundleError, ValueError) as error:
        parser.error(str(error))
    baseline = regression(split)
    results: Results = {}
    with connected(args.url, args.bundle) as guard:
        for name in ("family", "random"):
            rows = some(getattr(split, name), args.limit)
            scores = {
                "guard, served": served_scores(guard, rows, concurrency=args.concurrency, title=name),
                "n-gram regression": baseline(rows),
            }
            results |= figures(rows, scores, name=name, elsewhere=elsewhere)
    print(report(results))
    if args.out:
        write_json(args.out, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
