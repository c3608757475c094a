"""What is trained: the base weights with LoRA on them, and the loss of examples that share a policy prefix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from build_scripts.lora import Lora
from build_scripts.training_examples import Branch, Encoder, Example
from engines.checkpoint import Checkpoint, TextConfig
from engines.local.forward_torch import forward, load_weights

COMMON_TOKENS = 24_000
"""Free text is scored against the most frequent ids of the vocabulary (Gemma's ids are ordered so) and those of
the example itself; all 262 thousand would cost more than the layers."""
TEXT_WEIGHT = 0.5  # of a branch's mean loss over its text tokens, beside 1 for each choice


class Guard:
    """The base weights, the adapter on them, and the loss of a batch."""

    def __init__(
        self, base: Path, encoder: Encoder, *, rank: int, alpha: int, dtype: torch.dtype = torch.float32
    ) -> None:
        """dtype: of the projections, their inputs and attention; norms, residuals, LoRA and loss stay float32."""
        checkpoint = Checkpoint.open(base)
        self.config: TextConfig = checkpoint.text_config
        self.weights = load_weights(checkpoint)
        self.lora = Lora(self.weights, self.config, rank=rank, alpha=alpha)
        for name in self.lora.names:
            self.weights[f"{name}.weight"] = self.weights[f"{name}.weight"].to(dtype)
        self._columns = (encoder.safe, encoder.unsafe)

    def loss(self, examples: Sequence[Example]) -> Tensor:
        """The summed loss, float32 scalar, of examples under one policy."""
        reads = [_reads(example) for example in examples]
        extra = sorted({id for row in reads for _, id, _ in row if id >= COMMON_TOKENS} | set(self._columns))
        candidates = torch.cat([torch.arange(COMMON_TOKENS), torch.tensor([id for id in extra if id >= COMMON_TOKENS])])
        column = {int(id): index for index, id in enumerate(candidates)}
        most = max(map(len, reads))
        rows = torch.tensor([[at for at, _, _ in row] + [0] * (most - len(row)) for row in reads])
        logits = self._logits(examples, rows, candidates.long()).flatten(0, 1)
        places = [(number * most + place, *read) for number, row in enumerate(reads) for place, read in enumerate(row)]
        # One gather for each kind: indexing one by one would fill the whole tensor with zeros for each, backwards.
        chosen = [(at, id) for at, _, id, weight in places if weight == 0.0]
        columns = torch.tensor([column[id] for id in self._columns])
        scores = logits[torch.tensor([at for at, _ in chosen])[:, None], columns]
        total = F.cross_entropy(scores, torch.tensor([id for _, id in chosen]), reduction="sum")
        written = [(at, column[id], weight) for at, _, id, weight in places if weight > 0.0]
        if written:
            scores = logits[torch.tensor([at for at, _, _ in written])]
            losses = F.cross_entropy(scores, torch.tensor([id for _, id, _ in written]), reduction="none")
            total = total + (losses * torch.tensor([weight for _, _, weight in written])).sum()
        return total

    def margins(self, examples: Sequence[Example]) -> list[list[float]]:
        """logit(unsafe) - logit(safe) of each choice of each example, in the order of its branches."""
        reads = [[at for at, _, weight in _reads(example) if weight == 0.0] for example in examples]
        most = max(map(len, reads))
        rows = torch.tensor([row + [0] * (most - len(row)) for row in reads])
        with torch.inference_mode():
            logits = self._logits(examples, rows, torch.tensor(self._columns))
        difference = (logits[..., 1] - logits[..., 0]).tolist()
        return [values[: len(row)] for values, row in zip(difference, reads, strict=True)]

    def _logits(self, examples: Sequence[Example], rows: Tensor, candidates: Tensor) -> Tensor:
        [prefix] = {example.prefix for example in examples}
        keys, values = self._prefix_states(prefix)
        length, held = max(example.length for example in examples), len(prefix)
        ids = torch.zeros(len(examples), length, dtype=torch.long)
        positions = torch.zeros_like(ids)
        visible = torch.zeros(len(examples), length, length, dtype=torch.bool)
        for number, example in enumerate(examples):
            spans = [example.trunk, *(branch.ids for branch in example.branches)]
            flat = [id for span in spans for id in span]
            ids[number, : len(flat)] = torch.tensor(flat)
            trunk, start = len(example.trunk), 0
            for span in spans:
                end = start + len(span)
                first = held if start == 0 else held + trunk
                positions[number, start:end] = torch.arange(first, first + len(span))
                visible[number, start:end, : trunk if start else 0] = True
                own = torch.tril(torch.ones(len(span), len(span), dtype=torch.bool))
                visible[number, start:end, start:end] = own
                start = end
        logits, _, _ = forward(
            self.weights,
            self.config,
            ids=ids,
            positions=positions,
            visible=visible,
            prefix_keys=keys,
            prefix_values=values,
            rows=rows,
            candidates=candidates,
            linear=self.lora.linear(self.weights),
        )
        return logits

    def _prefix_states(self, prefix: Sequence[int]) -> tuple[Tensor, Tensor]:
        length, config = len(prefix), self.config
        empty = torch.zeros(config.num_hidden_layers, config.num_key_value_heads, 0, config.head_dim)
        _, keys, values = forward(
            self.weights,
            config,
            ids=torch.tensor([list(prefix)]),
            positions=torch.arange(length)[None],
            visible=torch.tril(torch.ones(1, length, length, dtype=torch.bool)),
            prefix_keys=empty,
            prefix_values=empty,
            rows=torch.zeros(1, 1, dtype=torch.long),
            candidates=torch.tensor(self._columns),
            linear=self.lora.linear(self.weights),
        )
        return keys[:, 0], values[:, 0]


def _reads(example: Example) -> list[tuple[int, int, float]]:
    """(index behind the prefix, what is right there, weight): weight 0 marks a choice (0 safe, 1 unsafe)."""
    reads: list[tuple[int, int, float]] = []
    start = len(example.trunk)
    for branch in example.branches:
        reads += _branch_reads(branch, start)
        start += len(branch.ids)
    return reads


def _branch_reads(branch: Branch, start: int) -> list[tuple[int, int, float]]:
    reads = [(start + at, int(unsafe), 0.0) for at, unsafe in branch.choices]
    weight = TEXT_WEIGHT / max(1, len(branch.texts))
    # A mean over the tokens lets one wrong name of a short list count as much as a long trace.
    return reads + [(start + at, id, weight) for at, id in branch.texts]
