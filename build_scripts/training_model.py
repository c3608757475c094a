"""What is trained: rows as token ids behind the policy prefix, and the base weights with LoRA on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tritonguard.request import GuardRequest

from build_scripts.lora import Lora
from build_scripts.training_data import Row
from engines.checkpoint import Checkpoint, TextConfig
from engines.local.forward_torch import forward, load_weights
from engines.program import SAFE_WORD, UNSAFE_WORD, USER_HEAD
from preprocessing.prompt import PromptBuilder, common_prefix


@dataclass(frozen=True)
class Encoded:
    """One row as token ids behind the shared prefix, in both stages' forms."""

    condensed: list[int]
    full: list[int]
    unsafe: bool


class Encoder:
    """Rows -> token ids behind the policy prefix."""

    def __init__(self, base: Path) -> None:
        self._builder = PromptBuilder(base, max_tokens=4096)
        self._head = self._builder.encode_text(USER_HEAD)
        self._condensed_head = self._builder.encode_text("\n" + USER_HEAD)
        probes = [self._builder.build(GuardRequest(prompt=text)) for text in ("a", "中")]
        self.prefix = probes[0].ids[: probes[0].prefix_length].tolist()
        self._tail = len(common_prefix([probe.ids[::-1].tolist() for probe in probes]))
        self.choices = [self._builder.encode_text(word)[0] for word in (SAFE_WORD, UNSAFE_WORD)]

    def encode(self, row: Row) -> Encoded:
        built = self._builder.build(GuardRequest(prompt=row.prompt))
        if built.prefix_length != len(self.prefix):
            raise ValueError(f"row {row.id} does not start with the policy prefix")
        suffix = built.ids[built.prefix_length :].tolist()
        return Encoded(suffix[: -self._tail] + self._condensed_head, suffix + self._head, row.unsafe)


class Guard:
    """The base weights, the adapter on them, and the loss of a batch."""

    def __init__(self, base: Path, encoder: Encoder, *, rank: int, alpha: int) -> None:
        checkpoint = Checkpoint.open(base)
        self.config: TextConfig = checkpoint.text_config
        self.weights = load_weights(checkpoint)
        self.lora = Lora(self.weights, self.config, rank=rank, alpha=alpha)
        self._prefix = torch.tensor([encoder.prefix])
        self._choices = torch.tensor(encoder.choices)

    def logits(self, suffixes: Sequence[list[int]]) -> Tensor:
        """float32 [B, 2], logits of safe and unsafe behind each suffix."""
        linear = self.lora.linear(self.weights)
        keys, values = self._prefix_states()
        length, count = max(map(len, suffixes)), len(suffixes)
        prefix_length = self._prefix.shape[1]
        ids = torch.tensor([suffix + [0] * (length - len(suffix)) for suffix in suffixes])
        positions = (prefix_length + torch.arange(length)).expand(count, -1)
        visible = torch.ones(count, length, prefix_length + length, dtype=torch.bool)
        visible[:, :, prefix_length:] = torch.tril(visible[0, :, prefix_length:])
        logits, _, _ = forward(
            self.weights,
            self.config,
            ids=ids,
            positions=positions,
            visible=visible,
            prefix_keys=keys,
            prefix_values=values,
            rows=torch.tensor([[len(suffix) - 1] for suffix in suffixes]),
            candidates=self._choices,
            linear=linear,
        )
        return logits[:, 0]

    def _prefix_states(self) -> tuple[Tensor, Tensor]:
        length, config = self._prefix.shape[1], self.config
        empty = torch.zeros(config.num_hidden_layers, config.num_key_value_heads, 0, config.head_dim)
        _, keys, values = forward(
            self.weights,
            config,
            ids=self._prefix,
            positions=torch.arange(length)[None],
            visible=torch.tril(torch.ones(1, length, length, dtype=torch.bool)),
            prefix_keys=empty,
            prefix_values=empty,
            rows=torch.zeros(1, 1, dtype=torch.long),
            candidates=self._choices,
            linear=self.lora.linear(self.weights),
        )
        return keys[:, 0], values[:, 0]
