"""Child: transformers on the CPU, in the peers' environment: what a first attempt would be. One request at a time.

settings: {"model": folder, "dtype": "float32" or "bfloat16"}. The policy's keys and values are computed once and copied
for each request.
"""

from __future__ import annotations

import copy
import importlib
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.peers.closed_loop import Run, answer_run, closed_loop
from benchmarks.peers.protocol import serve
from benchmarks.peers.question import CHECK, PLAIN, TRICK, Question, Trick


class Floor:
    def __init__(self) -> None:
        self._prefixes: dict[tuple[int, ...], Any] = {}
        self._lock = threading.Lock()

    def load(self, message: Mapping[str, Any]) -> dict[str, Any]:
        began = time.perf_counter()
        settings = message["settings"]
        self._torch, self._transformers = (importlib.import_module(name) for name in ("torch", "transformers"))
        dtype = getattr(self._torch, settings["dtype"])
        model = self._transformers.AutoModelForCausalLM.from_pretrained(settings["model"], dtype=dtype)
        self._model = model.eval()
        return {"seconds": time.perf_counter() - began}

    def run(self, message: Mapping[str, Any]) -> dict[str, Any]:
        def run(questions: Sequence[Question], concurrency: int, way: str) -> Run:
            ways = {PLAIN: self._plain, TRICK: self._trick, CHECK: self._check}
            return closed_loop(questions, concurrency, ways[way])

        return answer_run(message, run)

    def _plain(self, question: Question) -> Sequence[int]:
        return self._write(question.ids, question, question.tokens)

    def _trick(self, question: Question) -> Sequence[int]:
        return Trick(question).answered(lambda ids: self._write(ids, question, 1)[0])

    def _check(self, question: Question) -> Sequence[int]:
        def likelier(ids: Sequence[int]) -> int:
            with self._lock, self._torch.inference_mode():
                logits = self._model(self._torch.tensor([list(ids)]), logits_to_keep=1).logits[0, -1]
            return question.safe if logits[question.safe] > logits[question.unsafe] else question.unsafe

        return Trick(question).answered(likelier)

    def _write(self, prompt: Sequence[int], question: Question, count: int) -> Sequence[int]:
        with self._lock, self._torch.inference_mode():
            ids = self._torch.tensor([list(prompt)])
            said = self._model.generate(
                ids,
                attention_mask=self._torch.ones_like(ids),
                past_key_values=copy.deepcopy(self._prefix(question)),
                min_new_tokens=count,
                max_new_tokens=count,
                do_sample=False,
            )
        written: list[int] = said[0, len(prompt) :].tolist()
        return written

    def _prefix(self, question: Question) -> Any:
        """The cache behind the prefix, computed once."""
        ids = question.ids[: question.prefix]
        if ids not in self._prefixes:
            empty = self._transformers.DynamicCache(config=self._model.config)
            self._prefixes[ids] = self._model(self._torch.tensor([list(ids)]), past_key_values=empty).past_key_values
        return self._prefixes[ids]


if __name__ == "__main__":
    floor = Floor()
    serve({"load": floor.load, "run": floor.run})
