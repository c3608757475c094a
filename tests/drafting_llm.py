"""The part of `tensorrt_llm.LLM` that the engine calls, over the drafting model: no trap of the package is in it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any

from drafting_model import END, PIECES, VOCABULARY, Model

from engines.tensorrt_llm.walk import Request

EOS = 0
Alter = Callable[[Any], None]
"""Changes a reply before it is handed out."""


class Output:
    """A RequestOutput. hold: it is not answered before that is set."""

    def __init__(self, ids: list[int], completion: Any, hold: threading.Event, alter: Alter) -> None:
        self.prompt_token_ids = ids
        self.outputs = [completion]
        self.aborted = False
        self._hold = hold
        self._alter = alter

    async def aresult(self) -> Output:
        while not self._hold.is_set():
            await asyncio.sleep(0.001)
        self._alter(self)
        return self

    def abort(self) -> None:
        self.aborted = True


class Llm:
    """asked: (inputs, sampling params) of each request. failure: raised in place of an answer. stats: iterations."""

    def __init__(self, model: Model | None = None) -> None:
        self.model = model or Model()
        self.tokenizer = SimpleNamespace(encode=self._encode)
        self.input_processor: Any = SimpleNamespace(tokenizer=self.tokenizer)
        self.asked: list[tuple[dict[str, Any], Any]] = []
        self.outputs: list[Output] = []
        self.hold = threading.Event()
        self.hold.set()
        self.began = threading.Event()
        self.alter: Alter = lambda output: None
        self.failure: Exception | None = None
        self.stats: list[dict[str, Any]] = []
        self.shutdowns = 0

    @staticmethod
    def _encode(text: str, add_special_tokens: bool = True) -> list[int]:
        return [EOS] if text == "<eos>" else [PIECES.index(text)]

    def generate_async(self, inputs: dict[str, Any], *, sampling_params: Any, streaming: bool) -> Output:
        self.asked.append((inputs, sampling_params))
        if self.failure is not None:
            raise self.failure
        ids = list(inputs.get("prompt_token_ids") or inputs["mm_processor_kwargs"]["guard_ids"])
        wanted = Request((), sampling_params.max_tokens, "", tuple(sampling_params.stop_token_ids))
        draft = self.model.draft(ids, wanted, min(VOCABULARY, sampling_params.logprobs))
        stopped = draft[-1].id in sampling_params.stop_token_ids
        completion = SimpleNamespace(
            token_ids=[step.id for step in draft],
            logprobs=[{id: SimpleNamespace(logprob=value) for id, value in step.likeliest.items()} for step in draft],
            finish_reason="stop" if stopped else "length",
            stop_reason=draft[-1].id if stopped else None,
        )
        self.outputs.append(Output(ids, completion, self.hold, self.alter))
        self.began.set()
        return self.outputs[-1]

    async def get_stats_async(self, timeout: float | None = 2) -> AsyncIterator[dict[str, Any]]:
        while self.stats:
            yield self.stats.pop(0)

    def shutdown(self) -> None:
        self.shutdowns += 1


def reply(
    ids: Sequence[int], prompt: Sequence[int] = (9,), *, reason: str = "length", stop: int | None = None, **changes: Any
) -> Any:
    """A finished RequestOutput whose tokens are each the likeliest."""
    completion = {
        "token_ids": list(ids),
        "logprobs": [{id: SimpleNamespace(logprob=-0.1)} for id in ids],
        "finish_reason": reason,
        "stop_reason": stop,
    }
    return SimpleNamespace(prompt_token_ids=list(prompt), outputs=[SimpleNamespace(**completion | changes)])


ENDS = (EOS, END)
