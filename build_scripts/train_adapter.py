"""Train the embedded guard's LoRA adapter for the prompt verdict, in the real prompt format.

    python -m build_scripts.train_adapter --base build/base --pool POOL --out build/training

The policy prefix of the prompt (about 340 tokens, equal for every row) is computed once per batch, with
its gradient; the rows ride behind it as a batch. Loss: cross-entropy between the logits of " safe" and
" unsafe" behind `User Safety:`, classes weighted to balance. Two stages: `condensed` (the real prefix and
the text, then at once `User Safety:`; five times cheaper a row, it learns what harm looks like) and
`full` (the whole published prompt; what is served). Needs torch (`pip install '.[train]'`).

Interrupt it when you like: started again with the same arguments it goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from build_scripts.training_data import CAPS, Split, counts, load_pool, split_pool
from build_scripts.training_model import Encoded, Encoder, Guard
from engines.manifest import read_manifest, sha256_file, write_manifest

CONDENSED, FULL = "condensed", "full"
MOST_TOKENS = 2600  # of one forward and backward; about 5 GB of activations


@dataclass(frozen=True)
class Step:
    stage: str
    rows: tuple[int, ...]


def plan_steps(
    rows: Sequence[Encoded],
    *,
    condensed: int,
    full: int,
    batch: int,
    seed: int,
    most_condensed_steps: int | None = None,
) -> list[Step]:
    """Every batch of the run in order: row indices of similar length, drawn without replacement per epoch.

    most_condensed_steps: cut the (shuffled) condensed stage there; None runs it whole.
    """
    generator = random.Random(seed)
    steps: list[Step] = []
    for stage, total, size in ((CONDENSED, condensed, 2 * batch), (FULL, full, batch)):
        drawn: list[int] = []
        while len(drawn) < total:
            drawn += generator.sample(range(len(rows)), min(len(rows), total - len(drawn)))
        batches: list[Step] = []
        for start in range(0, total, size * 16):
            pool = sorted(drawn[start : start + size * 16], key=lambda index: len(rows[index].full))
            batches += [Step(stage, tuple(pool[at : at + size])) for at in range(0, len(pool), size)]
        generator.shuffle(batches)
        steps += batches[:most_condensed_steps] if stage == CONDENSED else batches
    return steps


def learning_rate(progress: float, peak: float, *, warmup: float = 0.03) -> float:
    """Linear warm-up, then a cosine down to a twentieth of the peak. `progress`: share of all tokens, 0 to 1."""
    if progress < warmup:
        return peak * max(0.02, progress / warmup)
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))))


def train(
    guard: Guard, rows: Sequence[Encoded], steps: Sequence[Step], *, state: Path, peak: float, most: int | None = None
) -> float:
    """Run the steps that are left, up to number `most`. Returns the seconds spent, over all starts."""
    optimiser = torch.optim.AdamW(guard.lora.parameters(), lr=peak, weight_decay=0.0, betas=(0.9, 0.98))
    done, spent = _resume(guard, optimiser, state)
    share = sum(row.unsafe for row in rows) / len(rows)
    balance = torch.tensor([0.5 / (1 - share), 0.5 / share])
    costs = [sum(len(getattr(rows[index], step.stage)) for index in step.rows) + 340 for step in steps]
    losses: list[float] = []
    since = time.monotonic()
    for number in range(done, min(len(steps), most or len(steps))):
        began = time.monotonic()
        step = steps[number]
        batch = [rows[index] for index in step.rows]
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(sum(costs[:number]) / sum(costs), peak)
        losses.append(accumulate(guard, batch, step.stage, balance))
        torch.nn.utils.clip_grad_norm_(guard.lora.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        spent += time.monotonic() - began
        if number % 5 == 0 or number == len(steps) - 1:
            rate = sum(costs[done : number + 1]) / (time.monotonic() - since)
            eta = sum(costs[number + 1 :]) / rate / 60
            print(
                f"step {number + 1}/{len(steps)} {step.stage:9} loss {np.mean(losses[-25:]):.3f} "
                f"{rate:.0f} tokens/s, {spent / 60:.1f} min spent, {eta:.1f} min left",
                flush=True,
            )
        if (number + 1) % 10 == 0 or number == len(steps) - 1:
            _checkpoint(guard, optimiser, state, number + 1, spent)
    return spent


def accumulate(guard: Guard, batch: Sequence[Encoded], stage: str, balance: Tensor) -> float:
    """Gradients of the class-weighted mean loss over the batch, in parts that fit in memory. Returns the loss."""
    total = sum(float(balance[int(row.unsafe)]) for row in batch)
    loss = 0.0
    for part in parts_within([len(getattr(row, stage)) for row in batch], MOST_TOKENS):
        rows = [batch[index] for index in part]
        logits = guard.logits([getattr(row, stage) for row in rows])
        labels = torch.tensor([int(row.unsafe) for row in rows])
        share = F.cross_entropy(logits, labels, weight=balance, reduction="sum") / total
        share.backward()
        loss += share.item()
    return loss


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
    content = {
        "lora": guard.lora.state_dict(),
        "optimiser": optimiser.state_dict(),
        "done": done,
        "spent": spent,
    }
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


def evaluate(guard: Guard, rows: Sequence[Encoded], *, batch: int = 32) -> dict[str, float]:
    """Figures of the torch forward in the full format, for a first look; the served path is scored elsewhere."""
    margins = np.empty(len(rows))
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].full))
    with torch.inference_mode():
        for indices in _chunks(order, batch):
            logits = guard.logits([rows[index].full for index in indices])
            margins[list(indices)] = (logits[:, 1] - logits[:, 0]).numpy()
    unsafe = np.array([row.unsafe for row in rows])
    flagged = margins > 0
    hits = int((flagged & unsafe).sum())
    return {
        "rows": len(rows),
        "f1": 2 * hits / max(1, int(flagged.sum()) + int(unsafe.sum())),
        "fpr": float(flagged[~unsafe].mean()),
        "recall": float(flagged[unsafe].mean()),
    }


def _chunks(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def split_ids(split: Split) -> dict[str, list[str]]:
    return {"family": [row.id for row in split.family], "random": [row.id for row in split.random]}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m build_scripts.train_adapter",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base", type=Path, default=Path("build/base"), help="embedded checkpoint")
    parser.add_argument("--pool", type=Path, required=True, help="folder of labelled JSONL files")
    parser.add_argument("--out", type=Path, default=Path("build/training"), help="adapter, split and state")
    parser.add_argument("--condensed-rows", type=int, default=9400, help="rows of the condensed stage (%(default)s)")
    parser.add_argument("--full-rows", type=int, default=2400, help="rows of the full stage (%(default)s)")
    parser.add_argument("--most-condensed-steps", type=int, help="cut the condensed stage there (default: whole)")
    parser.add_argument("--most-steps", type=int, help="end the run there (default: the whole plan)")
    parser.add_argument("--evaluate", type=int, default=400, help="rows of each split scored at the end (%(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="rows a step of the full stage (%(default)s)")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--alpha", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=4e-4)
    parser.add_argument("--seed", type=int, default=1, help="of the split, the order and the initial A")
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    split = split_pool(load_pool(args.pool), seed=args.seed)
    print(f"{len(split.train)} rows to train on, {len(split.family)} + {len(split.random)} held out", flush=True)
    encoder = Encoder(args.base)
    rows = [encoder.encode(row) for row in split.train]
    guard = Guard(args.base, encoder, rank=args.rank, alpha=args.alpha)
    steps = plan_steps(
        rows,
        condensed=args.condensed_rows,
        full=args.full_rows,
        batch=args.batch,
        seed=args.seed,
        most_condensed_steps=args.most_condensed_steps,
    )
    spent = train(guard, rows, steps, state=args.out / "state.pt", peak=args.learning_rate, most=args.most_steps)
    figures = {
        name: evaluate(guard, [encoder.encode(row) for row in random.Random(args.seed).sample(part, args.evaluate)])
        for name, part in (("family", split.family), ("random", split.random))
        if args.evaluate
    }
    print(json.dumps(figures, indent=2), flush=True)
    adapter = args.out / "adapter"
    adapter.mkdir(exist_ok=True)
    guard.lora.save(adapter, base_name=read_manifest(args.base)["inputs"]["package"])
    (adapter / "split.json").write_text(json.dumps(split_ids(split), indent=0) + "\n")
    write_manifest(
        adapter,
        kind="adapter",
        inputs={
            "base_revision": read_manifest(args.base)["revision"],
            "pool_sha256": {source: sha256_file(args.pool / f"{source}.jsonl") for source in sorted(CAPS)},
        },
        training={
            "arguments": {name: value for name, value in vars(args).items() if not isinstance(value, Path)},
            "seed": args.seed,
            "minutes": round(spent / 60, 1),
            "rows": {name: counts(part) for name, part in vars(split).items()},
            "figures_of_the_torch_forward": figures,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
