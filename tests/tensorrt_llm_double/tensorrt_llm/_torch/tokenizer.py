"""The checkpoint's tokenizer, with the names that transformers' has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer as Fast


class Tokenizer:
    def __init__(self, folder: Path) -> None:
        self._fast = Fast.from_file(str(folder / "tokenizer.json"))
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        named = {name: settings.get(f"{name}_token") for name in ("bos", "eos", "pad")}
        ids = {name: None if token is None else self._fast.token_to_id(token) for name, token in named.items()}
        self.bos_token_id, self.eos_token_id, self.pad_token_id = ids["bos"], ids["eos"], ids["pad"]

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """A leading `<bos>`, whether the text has one or not (behaviour: double_bos)."""
        ids: list[int] = self._fast.encode(text, add_special_tokens=False).ids
        begins = add_special_tokens and self.bos_token_id is not None
        return [self.bos_token_id, *ids] if begins and self.bos_token_id is not None else ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        text: str = self._fast.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text
