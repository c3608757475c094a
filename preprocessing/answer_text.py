"""answers.json: what the decode stage needs of the tokenizer for a verdict, so that it starts without it.

Reading Gemma's tokenizer.json takes 1.2 s of CPU time, in which no other thread of Python runs. Category lists,
reasoning and policies with names of their own do need it.

{"encoded": {text: ids}, "decoded": [[ids, text]], "end": id of the end of a turn,
 "warm_up": {"ids", "prefix_length", "answer"}}: the first example text as `PrepareStage` leaves it
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tritonguard import tensors as wire
from tritonguard.errors import BundleError

if TYPE_CHECKING:
    from preprocessing.prompt import PromptBuilder

ANSWERS = "answers.json"


class AnswerText:
    """Safe to share between threads. The tokenizer is read once: when it is first needed, or by `read_soon`.

    max_tokens: of the prompt builder. Raises BundleError: no readable ANSWERS; its methods too, where the tokenizer
    that they need can't be read.
    """

    def __init__(self, folder: Path, *, max_tokens: int) -> None:
        try:
            known = json.loads((folder / ANSWERS).read_text())
            self._encoded = {text: list(map(int, ids)) for text, ids in known["encoded"].items()}
            self._decoded = {tuple(ids): str(text) for ids, text in known["decoded"]}
            self.end = int(known["end"])
            warm_up = known["warm_up"]
            self._ids = list(map(int, warm_up["ids"]))
            self._prefix_length = int(warm_up["prefix_length"])
            self._answer = str(warm_up["answer"])
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise BundleError(f"{folder.name} has no readable {ANSWERS}; compile it anew") from error
        self._folder = folder
        self._max_tokens = max_tokens
        self._read: PromptBuilder | None = None
        self._lock = threading.Lock()
        self._begun = threading.Lock()

    def read_soon(self) -> None:
        """Begin to read the tokenizer in a thread of its own; only the first call does."""
        if self._begun.acquire(blocking=False):  # and never released
            threading.Thread(target=self._read_now, name="tokenizer").start()

    def _read_now(self) -> None:
        # Who needs it next tries again, and is told why not.
        with suppress(BundleError):
            self.marks()

    @property
    def _builder(self) -> PromptBuilder:
        # Here, not above: what it imports takes time too.
        from preprocessing.prompt import PromptBuilder

        with self._lock:
            if self._read is None:
                self._read = PromptBuilder(self._folder, max_tokens=self._max_tokens)
            return self._read

    def encode(self, text: str) -> list[int]:
        """As `PromptBuilder.encode_text`."""
        ids = self._encoded.get(text)
        return self._builder.encode_text(text) if ids is None else list(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """As `PromptBuilder.decode_text`."""
        text = self._decoded.get(tuple(ids))
        return self._builder.decode_text(ids) if text is None else text

    def marks(self) -> frozenset[int]:
        """As `PromptBuilder.mark_ids`."""
        return self._builder.mark_ids

    def warm_up(self, *, deadline_s: float) -> dict[str, wire.Array]:
        """MODEL_INPUT tensors of an example text."""
        return {
            "INPUT_IDS": wire.pack("INPUT_IDS", self._ids),
            "PROMPT_LENGTHS": wire.pack("PROMPT_LENGTHS", [len(self._ids)]),
            "PREFIX_LENGTHS": wire.pack("PREFIX_LENGTHS", [self._prefix_length]),
            "PIXELS": wire.pack("PIXELS", [b""]),
            "ANSWER": wire.pack_text("ANSWER", self._answer),
            "DEADLINE_NS": wire.pack("DEADLINE_NS", [time.monotonic_ns() + round(deadline_s * 1e9)]),
        }
