"""Two deployments, one corpus: did the verdicts move, by how much, and is it within what the thresholds allow?

    python -m build_scripts.parity build/fp32 build/int8
    python -m build_scripts.parity build/bundle grpc://127.0.0.1:8001 --profile smoke
    python -m build_scripts.parity build/bundle openai+http://gpu:8000/v1#nvidia/nemotron-3.5-content-safety \\
        --corpus held_out.jsonl --bootstrap 2000 --json parity.json --markdown parity.md --plot parity.svg

A is the reference, B is what is judged against it. A side is a bundle folder (its engine runs in this process), our
server (grpc://HOST:PORT) or an OpenAI-compatible endpoint (openai+http(s)://HOST:PORT/v1#MODEL: vLLM, NIM) that gives
log-probabilities. Every block of rows goes to both sides in turn, so that a noisy machine disturbs both alike.

The corpus is JSONL, a row a line: {"id", "prompt", "response"?, "language"?, "mode"?, "policy"?, "label"?}. mode is
verdict, categories or think; policy holds the keys of a policy file; label is "safe", "unsafe" or
{"user": .., "response": ..}. Without --corpus the 64 prompts that come with this release are used: they tell a broken
bundle from a whole one, not 1 % of flips from 2 %.

What is measured, in all and by mode and language: rows with another label (and those among the tenth nearest to the
threshold), drift of the margin log P(unsafe) - log P(safe), KL divergence at the choice, shift of P(unsafe), agreement
of category lists, F1 where labels are known, latency. A row that either side answers with an error, or not at all, is
never a pass. Two sides that are asked different things (another template or policy prefix, tokenizer or taxonomy) are
refused with the reason, not compared.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from tritonguard.errors import GuardError

from build_scripts import parity_corpus, parity_gate
from build_scripts.parity_bootstrap import bootstrap
from build_scripts.parity_corpus import CorpusError, Row, read_corpus, spread
from build_scripts.parity_figures import Figures, groups_of, pairs_of
from build_scripts.parity_gate import Profile, ThresholdsError, judge, load_profile
from build_scripts.parity_plot import plot
from build_scripts.parity_reading import Side, SideError
from build_scripts.parity_report import Report, to_json, to_markdown, write
from build_scripts.parity_run import Incomparable, check_comparable, check_counted, followed, run, warm_up
from build_scripts.parity_sides import open_side
from build_scripts.progress import Steps

PASS, REFUSED, USAGE = 0, 1, 2
SHIPPED_PROFILE, CORPUS_PROFILE = "smoke", "default"


def compare(
    a: Side,
    b: Side,
    rows: Sequence[Row],
    profile: Profile,
    *,
    corpus: str = "corpus",
    sha256: str | None = None,
    batch: int = 8,
    draws: int = 0,
    seed: int = 0,
    steps: Steps | None = None,
) -> Report:
    """The whole comparison of two open sides. draws: of the bootstrap; 0: none. batch: rows that go out together.

    Raises SideError where a side answers nothing. What can't be compared is a report that says so.
    """

    def report(incomparable: str | None = None) -> Report:
        about = {"name": corpus, "sha256": sha256, "rows": len(rows)}
        return Report((a.describe(), b.describe()), about, profile, batch, {}, {}, (), incomparable=incomparable)

    try:
        if steps:
            steps.next("are both asked the same thing?")
        check_comparable(a, b, rows)
        if steps:
            steps.next("warming up")
        for side in (a, b):
            warm_up(side, rows, batch)
        if steps:
            steps.next(f"{len(rows)} rows on both sides")
        done = run(a, b, rows, size=batch, follow=followed) if steps else run(a, b, rows, size=batch)
        check_counted(rows, done.a, done.b)
    except Incomparable as error:
        return report(str(error))
    pairs = pairs_of(rows, done.a, done.b, limit=min(a.margin_limit, b.margin_limit))
    groups = {key: Figures.of(found) for key, found in groups_of(pairs).items()}
    return Report(
        sides=(a.describe(), b.describe()),
        corpus={"name": corpus, "sha256": sha256, "rows": len(rows)},
        profile=profile,
        batch=batch,
        groups=groups,
        intervals=bootstrap(pairs, draws=draws, seed=seed),
        findings=judge(profile, groups),
        pairs=pairs,
        rows_per_s=(len(rows) / done.wall_s[0], len(rows) / done.wall_s[1]),
    )


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    steps = Steps("parity", total=5)
    try:
        name = args.profile or (SHIPPED_PROFILE if args.corpus == parity_corpus.SHIPPED else CORPUS_PROFILE)
        profile = load_profile(name, args.thresholds)
        rows = read_corpus(args.corpus)
        if args.count:
            rows = spread(rows, args.count)
        key = os.environ.get(args.api_key_env) if args.api_key_env else None
        if args.api_key_env and not key:
            parser.error(f"--api-key-env: {args.api_key_env} is not set")
        with ExitStack() as opened:
            sides: list[Side] = []
            for letter, target in (("A", args.a), ("B", args.b)):
                steps.next(f"opening {letter}: {target}")
                side = open_side(target, deadline_s=args.deadline, width=args.batch, api_key=key)
                sides.append(opened.enter_context(closing(side)))
            report = compare(
                sides[0],
                sides[1],
                rows,
                profile,
                corpus=args.corpus.name,
                sha256=hashlib.sha256(args.corpus.read_bytes()).hexdigest(),
                batch=args.batch,
                draws=args.bootstrap,
                seed=args.seed,
                steps=steps,
            )
        if args.json:
            write(args.json, to_json(report))
        if args.markdown:
            write(args.markdown, to_markdown(report))
        if args.plot:
            write(args.plot, plot(report.pairs, a=sides[0].name, b=sides[1].name))
    except (CorpusError, ThresholdsError, SideError, GuardError, OSError) as error:
        print(f"parity: {error}", file=sys.stderr)
        return USAGE
    print(to_markdown(report), end="")
    if report.passed:
        return PASS
    print("parity: REFUSED", *report.refusals, sep="\n  ", file=sys.stderr)
    return REFUSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m build_scripts.parity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit status: 0 passed, 1 refused (reasons on stderr), 2 wrong usage or a side that can't be asked.",
    )
    add = parser.add_argument
    add("a", metavar="A", help="the reference: a bundle folder, grpc://.., openai+http(s)://..#MODEL")
    add("b", metavar="B", help="what is judged against it: the same kinds")
    add("--corpus", type=Path, default=parity_corpus.SHIPPED, help="JSONL file (the 64 shipped prompts)")
    add("--count", type=_positive, metavar="N", help="N rows of the corpus, evenly from all of it")
    add("--profile", help=f"of the thresholds file ({SHIPPED_PROFILE} for the shipped prompts, else {CORPUS_PROFILE})")
    add("--thresholds", type=Path, default=parity_gate.SHIPPED, help="thresholds file (the shipped one)")
    add("--batch", type=_positive, default=8, metavar="N", help="rows in a batch, requests in flight (%(default)s)")
    add("--deadline", type=float, default=60.0, metavar="S", help="seconds for one request to a server (%(default)s)")
    add(
        "--bootstrap", type=_positive, default=0, metavar="N", help="draws for 95%% intervals of flips and drift (none)"
    )
    add("--seed", type=int, default=0, help="of the draws (%(default)s)")
    add("--api-key-env", metavar="NAME", help="environment variable with the key of an OpenAI endpoint")
    add("--json", type=Path, metavar="FILE", help="write everything as JSON")
    add("--markdown", type=Path, metavar="FILE", help="write the report that is printed, too")
    add("--plot", type=Path, metavar="FILE", help="write the margins of B over those of A as SVG")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
