"""What is measured, and its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.cuda_levers.clock import medians_ms
from benchmarks.cuda_levers.guard import Guard, Past, quantized
from benchmarks.cuda_levers.ways import Lever, Ways
from benchmarks.peers.operations import attention_operations, linear_operations
from benchmarks.report import markdown
from build_scripts.request_sizes import PREFIX, SUFFIX
from engines.checkpoint import TextConfig

SCORED = 256


@dataclass(frozen=True)
class Measured:
    """Medians, ms. apart: the largest difference of a margin in float32, of the margins' mean size."""

    name: str
    batch: int
    without_ms: float
    with_ms: float
    apart: float

    @property
    def ratio(self) -> float:
        return self.without_ms / self.with_ms


@dataclass(frozen=True)
class Pass:
    """Medians of a verdict's pass behind the policy's keys and values, ms. share: of the peak of its products."""

    batch: int
    bf16_ms: float
    bf16_share: float
    fp8_ms: float
    fp8_share: float


@dataclass(frozen=True)
class Rounding:
    """error: ||logits - float32's|| / ||float32's|| over SCORED ids. alone: the largest difference between a row's
    logits alone and in the batch, of the logits' deviation."""

    name: str
    error: float
    alone: float


def apart(lever: Lever) -> float:
    """How far the margins of both ways are apart; NaN where one of them is."""
    without, having = lever.without().run(), lever.having().run()
    return float((without - having).abs().max() / having.abs().mean())


def roundings(exact: Guard, forms: Mapping[str, Guard], ids: Tensor, policy: Tensor) -> list[Rounding]:
    """Of a pass over ids int64 [B, S] behind the policy int64 [T], each form's own keys and values included; those of a
    form whose name ends in "kv" are rounded to e4m3 with a scale of one."""
    candidates = torch.arange(0, exact.config.vocab_size, max(1, exact.config.vocab_size // SCORED), device=ids.device)

    def logits(guard: Guard, rows: Tensor, past: Past) -> Tensor:
        return guard.a_pass(rows, past, candidates=candidates)()[0][:, 0]

    wanted = logits(exact, ids, exact.prefix(policy))
    found = []
    for name, guard in forms.items():
        past = guard.prefix(policy)
        if name.endswith("kv"):
            one = torch.ones((), device=ids.device)
            keys, values = (quantized(each, one).to(guard.dtype) for each in past.shared)
            past = Past((keys, values))
        got, single = logits(guard, ids, past), logits(guard, ids[:1], past)
        error = float((got - wanted).norm() / wanted.norm())
        found.append(Rounding(name, error, float((got[:1] - single).abs().max() / got.std())))
    return found


def passes(
    bf16: Ways, fp8: Ways, config: TextConfig, batches: Sequence[int], rounds: int, peak: Mapping[str, float]
) -> list[Pass]:
    """peak: operations a second, by arithmetic."""
    found = []
    for batch in batches:
        of_both = [ways.verdict(slice(0, batch)) for ways in (bf16, fp8)]
        taken = medians_ms(of_both, rounds, bf16.texts.device)
        shares = [
            operations(config, batch) / ms * 1e3 / peak[name] for name, ms in zip(("bf16", "fp8"), taken, strict=True)
        ]
        found.append(Pass(batch, taken[0], shares[0], taken[1], shares[1]))
    return found


def operations(config: TextConfig, batch: int) -> float:
    """Of the products of a verdict's pass, over all layers."""
    attention = attention_operations(config, prefix=PREFIX, tokens=SUFFIX)
    return float(linear_operations(config, batch * SUFFIX) + batch * attention)


def tables(levers: Sequence[Measured], taken: Sequence[Pass], rounded: Sequence[Rounding]) -> str:
    """In Markdown."""
    ratios = [
        (one.name, one.batch, f"{one.without_ms:.2f}", f"{one.with_ms:.2f}", f"{one.ratio:.2f}", f"{one.apart:.1e}")
        for one in levers
    ]
    costs = [
        (one.batch, *_cost(one.batch, one.bf16_ms, one.bf16_share), *_cost(one.batch, one.fp8_ms, one.fp8_share))
        for one in taken
    ]
    errors = [(one.name, f"{one.error:.2e}", f"{one.alone:.1e}") for one in rounded]
    cost = ("ms", "requests/s", "of the peak")
    return "\n\n".join(
        [
            markdown(("lever", "batch", "without, ms", "with, ms", "ratio", "apart in float32"), ratios),
            markdown(("batch", *(f"{form}, {each}" for form in ("bf16", "FP8") for each in cost)), costs),
            markdown(("form", "from float32", "alone and in a batch"), errors),
        ]
    )


def _cost(batch: int, ms: float, share: float) -> tuple[str, str, str]:
    return f"{ms:.2f}", f"{batch / ms * 1e3:.0f}", f"{share:.0%}"
