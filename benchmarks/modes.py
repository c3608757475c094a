"""Every mode of the served guard, scored on what the adapter was trained without.

    python -m benchmarks.modes --pool POOL --adapter adapters/embedded --bundle build/bundle

replies     held-out exchanges: is the response harmful? F1, FPR, recall, AUC of the response's verdict
categories  held-out unsafe prompts with known categories: micro-F1 over names, exact lists, first names
policies    one text under two policies that name subjects training never named, unsafe under the first and safe
            under the second: accuracy, and the share of pairs that flip the right way
think       a sample of all held-out rows with a bounded reasoning: does each end in a verdict, does the reasoning
            contradict it, does it agree with the fast verdict

Prints Markdown. Bars hold for the full run: exit 1 where one is missed; with --limit they are only printed. With
--answers an interrupted run goes on where it was; the same file must then be given with the same bundle.
The prompt's own verdict is scored by `benchmarks.accuracy`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from tritonguard.errors import BundleError
from tritonguard.request import DEFAULT_THINK_BUDGET

from benchmarks.held_out import load_replies, load_split, read_elsewhere, some, with_known_categories
from benchmarks.mode_runs import Run, categories, policies, replies, think
from benchmarks.report import Bar, Section, write_json
from benchmarks.served import Answers, add_arguments, bundle_revision, connected
from build_scripts.policy_pairs import pairs
from build_scripts.training_data import Row, load_pool
from build_scripts.training_replies import Exchange
from preprocessing.prompt import PromptBuilder

MODES = ("replies", "categories", "policies", "think")
PAIRS_SEED = 1


def chosen_modes(text: str) -> tuple[str, ...]:
    """The argument of --only. Raises ArgumentTypeError for an unknown name."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = sorted(set(names) - set(MODES))
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown) or 'nothing'}: not of {', '.join(MODES)}")
    return tuple(name for name in MODES if name in names)


def sections(args: argparse.Namespace) -> dict[str, Callable[[Run], Section]]:
    """What is measured by mode, with everything read from disk before a server starts. Raises ValueError."""
    split = load_split(args.pool, args.adapter)
    _, exchanges = load_replies(args.pool, args.adapter, split)
    rulings = pairs(args.pool, split, count=args.pairs, seed=PAIRS_SEED)
    languages = {row.id: row.language for rows in load_pool(args.pool).values() for row in rows}
    tokenizer = PromptBuilder(args.bundle, max_tokens=1 << 20)
    trained_prompts = {row.prompt for row in split.train}
    known = read_elsewhere(args.pool, args.adapter, split) | trained_prompts
    mixed: list[Row | Exchange] = [*split.family, *split.random, *exchanges]
    return {
        "replies": lambda run: replies(run, some(exchanges, args.limit), trained_prompts, known),
        "categories": lambda run: categories(run, some(with_known_categories(split), args.limit)),
        # The first ones, not any: their ids in the answers file then stay the same.
        "policies": lambda run: policies(run, rulings[: args.limit], languages),
        "think": lambda run: think(
            run,
            some(mixed, min(args.think, args.limit or args.think)),
            budget=args.budget,
            count=lambda text: len(tokenizer.encode_text(text)),
        ),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.modes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.add_argument("--only", type=chosen_modes, default=MODES, metavar="MODE,MODE", help="default: all")
    parser.add_argument("--pairs", type=int, default=200, help="of policies (%(default)s)")
    parser.add_argument("--think", type=int, default=200, help="rows for mode think (%(default)s)")
    parser.add_argument("--budget", type=int, default=DEFAULT_THINK_BUDGET, help="tokens of reasoning (%(default)s)")
    parser.add_argument("--answers", type=Path, help="JSON lines of replies: what is in there is not asked again")
    args = parser.parse_args(argv)
    try:
        measured = sections(args)
    except (BundleError, ValueError) as error:
        parser.error(str(error))
    done: list[Section] = []
    with connected(args.url, args.bundle) as guard:
        run = Run(guard, args.concurrency, Answers(args.answers, bundle=bundle_revision(guard)))
        for name in args.only:
            done.append(measured[name](run))
            print(f"{done[-1]}\n", flush=True)
    bars = [*(bar for section in done for bar in section.bars), Bar("rows without an answer", run.unanswered, most=0)]
    missed = [bar for bar in bars if not bar.met]
    for bar in missed:
        print(bar, file=sys.stderr)
    if args.out:
        write_json(args.out, {section.title: {**section.figures, "bars": list(section.bars)} for section in done})
    if args.limit is not None and missed:
        print("not the full run: the bars do not count", file=sys.stderr)
    return 1 if missed and args.limit is None else 0


if __name__ == "__main__":
    sys.exit(main())
