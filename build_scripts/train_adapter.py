"""Train the embedded guard's LoRA adapter for every mode, in the real prompt format.

    python -m build_scripts.train_adapter --base build/base --pool POOL --out build/training

A step is a few examples under the built-in policy (prompts, and exchanges with a response; verdict, categories
and think branch off one trunk) and a few custom policies with some texts each. A policy's prefix is computed once
for its examples, with its gradient. Loss: cross-entropy between " safe" and " unsafe" at every choice, and over
frequent tokens for names and reasoning. Needs torch (`pip install '.[train]'`).

Interrupt it when you like: started again with the same arguments it goes on from its last checkpoint. `--start`
takes the numbers of an earlier adapter; `--minutes` ends the run when they are spent, with the learning rate
planned for that.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from tritonguard.request import Mode

from build_scripts.training_data import CAPS, Row, Split, counts, load_pool, split_pool
from build_scripts.training_examples import Encoder, Example, Task
from build_scripts.training_model import Guard
from build_scripts.training_policies import Mirror, training_mirrors
from build_scripts.training_replies import REPLY_CAPS, Exchange, load_exchanges
from engines.manifest import read_manifest, sha256_file, write_manifest

MOST_TOKENS = 2400  # of one forward and backward, padding counted; about 5 GB of activations
MODES = (Mode.VERDICT, Mode.CATEGORIES, Mode.THINK)
Batch = list[Task]
T = TypeVar("T")


def tasks_of_rows(rows: Sequence[Row], generator: random.Random) -> Iterator[Task]:
    """Endless: safe and unsafe in turn, drawn without replacement until all were seen."""
    drawn = [_endless([row for row in rows if row.unsafe == unsafe], generator) for unsafe in (True, False)]
    while True:
        for source in drawn:
            row = next(source)
            modes = MODES if generator.random() < 0.5 else (Mode.VERDICT, Mode.CATEGORIES)
            yield Task(row.prompt, row.unsafe, names=row.names, modes=modes)


def tasks_of_exchanges(exchanges: Sequence[Exchange], generator: random.Random) -> Iterator[Task]:
    """Endless: unsafe and safe responses in turn; one in seven behind a misread prompt."""
    drawn = [_endless([e for e in exchanges if e.response_unsafe == unsafe], generator) for unsafe in (True, False)]
    while True:
        for source in drawn:
            e = next(source)
            modes = MODES if e.unsafe is not None else (Mode.VERDICT, Mode.CATEGORIES)
            yield Task(
                e.prompt,
                e.unsafe,
                e.response,
                e.response_unsafe,
                e.names,
                modes=modes,
                misread=generator.random() < 1 / 7,
            )


def tasks_of_mirrors(
    mirrors: Sequence[Mirror], generator: random.Random, *, condensed: bool = False
) -> Iterator[Batch]:
    """Endless: the texts of one policy, then the same under the other; a quarter of the policies thought about too."""
    for group in (group for mirror in _endless(list(mirrors), generator) for group in mirror):
        if condensed:
            yield [Task(r.text.prompt, r.unsafe, part=r.part, condensed=True) for r in group]
            continue
        draw = generator.random()
        modes = ((Mode.VERDICT, Mode.THINK), (Mode.VERDICT, Mode.CATEGORIES), (Mode.VERDICT,))[min(2, int(draw * 4))]
        yield [Task(r.text.prompt, r.unsafe, names=r.names, part=r.part, modes=modes) for r in group]


def _endless(items: list[T], generator: random.Random) -> Iterator[T]:
    while True:
        yield from generator.sample(items, len(items))


def steps(
    pool: Path, split: Split, *, rows: int, replies: int, policies: int, condensed: int, seed: int, order: int
) -> Iterator[list[Batch]]:
    """Endless: the batches of each step, a policy each; deterministic. seed: of the split, order: of the drawing."""
    generator = random.Random(order)
    exchanges, _ = load_exchanges(pool, split, seed=seed)
    prompts = tasks_of_rows(split.train, generator)
    pairs = tasks_of_exchanges(exchanges, generator)
    rulings = tasks_of_mirrors(training_mirrors(pool, split, mirrors=600, size=5, seed=order), generator)
    many = training_mirrors(pool, split, mirrors=1500, size=8, seed=order + 1)
    short = tasks_of_mirrors(many, generator, condensed=True)
    while True:
        builtin = [next(prompts) for _ in range(rows)] + [next(pairs) for _ in range(replies)]
        yield [
            builtin,
            *(next(rulings) for _ in range(policies)),
            *(next(short) for _ in range(condensed)),
        ]


def learning_rate(progress: float, peak: float, *, warmup: float = 0.03) -> float:
    """Linear warm-up, then a cosine down to a twentieth of the peak. `progress`: share of the run, 0 to 1."""
    if progress < warmup:
        return peak * max(0.02, progress / warmup)
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup)))))


def train(
    guard: Guard, encoder: Encoder, plan: Iterator[list[Batch]], *, state: Path, peak: float, minutes: float
) -> tuple[int, float]:
    """Run until the minutes are spent. Returns (steps, minutes), over all starts."""
    optimiser = torch.optim.AdamW(guard.lora.parameters(), lr=peak, weight_decay=0.0, betas=(0.9, 0.98))
    done, spent = _resume(guard, optimiser, state)
    losses: list[float] = []
    for number, batches in enumerate(plan):
        if number < done:
            continue
        if spent >= minutes:
            break
        began = time.monotonic()
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(spent / minutes, peak)
        tokens, loss = accumulate(guard, [[encoder.encode(task) for task in batch] for batch in batches])
        losses.append(loss)
        torch.nn.utils.clip_grad_norm_(guard.lora.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        seconds = time.monotonic() - began
        spent += seconds / 60
        done = number + 1
        print(
            f"step {done}: loss {loss:.3f}, mean of 20 {np.mean(losses[-20:]):.3f}, "
            f"{tokens / seconds:.0f} tokens/s, {spent:.1f} of {minutes:.0f} minutes",
            flush=True,
        )
        if done % 5 == 0:
            _checkpoint(guard, optimiser, state, done, spent)
    _checkpoint(guard, optimiser, state, done, spent)
    return done, spent


def accumulate(guard: Guard, batches: Sequence[Sequence[Example]]) -> tuple[int, float]:
    """Gradients of the mean loss per example, in parts that fit in memory. Returns tokens seen and the loss."""
    total = sum(map(len, batches))
    tokens, loss = 0, 0.0
    for batch in batches:
        for part in parts_within([example.length for example in batch], MOST_TOKENS):
            examples = [batch[index] for index in part]
            share = guard.loss(examples) / total
            share.backward()
            loss += share.item()
            tokens += len(examples[0].prefix) + sum(example.length for example in examples)
    return tokens, loss


def parts_within(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Indices in order of length, cut so that rows x longest row stays within `most` (a row alone may exceed)."""
    parts: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if parts and (len(parts[-1]) + 1) * lengths[index] <= most:
            parts[-1].append(index)
        else:
            parts.append([index])
    return parts


def _checkpoint(guard: Guard, optimiser: torch.optim.Optimizer, state: Path, done: int, spent: float) -> None:
    partial = state.with_suffix(".partial")
    content = {"lora": guard.lora.state_dict(), "optimiser": optimiser.state_dict(), "done": done, "spent": spent}
    torch.save(content, partial)
    partial.replace(state)


def _resume(guard: Guard, optimiser: torch.optim.Optimizer, state: Path) -> tuple[int, float]:
    if not state.exists():
        return 0, 0.0
    content = torch.load(state, weights_only=True)
    guard.lora.load_state_dict(content["lora"])
    optimiser.load_state_dict(content["optimiser"])
    print(f"going on from step {content['done']}", flush=True)
    return content["done"], content["spent"]


def save(guard: Guard, args: argparse.Namespace, split: Split, done: int, spent: float) -> Path:
    """The adapter folder: PEFT's files, the held-out ids, the manifest."""
    folder: Path = args.out / "adapter"
    folder.mkdir(exist_ok=True)
    guard.lora.save(folder, base_name=read_manifest(args.base)["inputs"]["package"])
    _, replies = load_exchanges(args.pool, split, seed=args.seed)
    ids = {
        "family": [row.id for row in split.family],
        "random": [row.id for row in split.random],
        "replies": [exchange.id for exchange in replies],
    }
    (folder / "split.json").write_text(json.dumps(ids, indent=0) + "\n")
    write_manifest(
        folder,
        kind="adapter",
        inputs={
            "base_revision": read_manifest(args.base)["revision"],
            "start_revision": read_manifest(args.start)["revision"] if args.start else None,
            "pool_sha256": {name: sha256_file(args.pool / f"{name}.jsonl") for name in sorted({*CAPS, *REPLY_CAPS})},
        },
        training={
            "arguments": {name: value for name, value in vars(args).items() if not isinstance(value, Path)},
            "seed": args.seed,
            "steps": done,
            "minutes": round(spent, 1),
            "reasoning_source": "synthetic",
            "rows": {name: counts(part) for name, part in vars(split).items()},
        },
    )
    return folder


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m build_scripts.train_adapter",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base", type=Path, default=Path("build/base"), help="embedded checkpoint")
    parser.add_argument("--pool", type=Path, required=True, help="folder of labelled JSONL files")
    parser.add_argument("--out", type=Path, default=Path("build/training"), help="adapter, split and state")
    parser.add_argument("--start", type=Path, metavar="ADAPTER", help="begin with the numbers of this adapter")
    parser.add_argument("--minutes", type=float, default=100.0, help="of training, over all starts (%(default)s)")
    parser.add_argument("--rows", type=int, default=6, help="prompts a step (%(default)s)")
    parser.add_argument("--replies", type=int, default=4, help="exchanges a step (%(default)s)")
    parser.add_argument("--policies", type=int, default=2, help="custom policies a step, 5 texts each (%(default)s)")
    parser.add_argument(
        "--condensed", type=int, default=4, help="more of them in the condensed form, 8 texts each (%(default)s)"
    )
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--alpha", type=int, default=32)
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of matrix products; bfloat16 is for CPUs that have it in hardware (%(default)s)",
    )
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=1, help="of the splits, the order and the initial A")
    parser.add_argument("--order", type=int, help="of the order alone, for a run that goes on from an adapter (--seed)")
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    split = split_pool(load_pool(args.pool), seed=args.seed)
    encoder = Encoder(args.base)
    guard = Guard(args.base, encoder, rank=args.rank, alpha=args.alpha, dtype=getattr(torch, args.dtype))
    if args.start:
        guard.lora.load(args.start)
    plan = steps(
        args.pool,
        split,
        rows=args.rows,
        replies=args.replies,
        policies=args.policies,
        condensed=args.condensed,
        seed=args.seed,
        order=args.seed if args.order is None else args.order,
    )
    done, spent = train(
        guard, encoder, plan, state=args.out / "state.pt", peak=args.learning_rate, minutes=args.minutes
    )
    print(f"adapter: {save(guard, args, split, done, spent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
