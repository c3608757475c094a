from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from engines.local.context import Context
from tensorrt_llm.executor.result import GenerationResult, Logprob, Response
from tensorrt_llm.sampling_params import SamplingParams


@dataclass(eq=False)
class LlmRequest:
    """A request in the executor. max_tokens: after the clipping to what the sequence has room for."""

    result: GenerationResult
    ids: tuple[int, ...]
    params: SamplingParams
    max_tokens: int
    streaming: bool
    pixel_values: Any = None
    context: Context | None = None
    tokens: list[int] = field(default_factory=list)
    log_probs: list[dict[int, Logprob]] = field(default_factory=list)
    reason: str | None = None
    sent: int = 0

    @property
    def is_context(self) -> bool:
        """Nothing of it has been read yet."""
        return self.context is None

    def respond(self) -> None:
        """What is new goes to the result; without streaming, all of it at the end."""
        if not self.streaming and self.reason is None:
            return
        log_probs = tuple(self.log_probs[self.sent : len(self.tokens)]) if self.params.logprobs else None
        self.result.queue.put(Response(tuple(self.tokens[self.sent :]), log_probs, self.reason))
        self.sent = len(self.tokens)

    def fail(self, error: str | Exception) -> None:
        self.result.queue.put(Response(error=error))
