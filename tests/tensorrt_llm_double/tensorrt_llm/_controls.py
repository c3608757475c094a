"""What a test may look at and do to a loaded double. The package has nothing of this."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tensorrt_llm.executor.result import Logprob
from tensorrt_llm.llmapi.llm_args import TorchLlmArgs
from tensorrt_llm.sampling_params import SamplingParams

Logits = npt.NDArray[np.float32]
Alter = Callable[[tuple[int, ...], Logits], Logits]
"""(ids read so far, logits float32 [vocabulary] behind them) -> the logits to take instead."""


@dataclass(frozen=True)
class Seen:
    """A request as it reached the executor. images: how many came with it. hashed: for the reuse of their blocks."""

    ids: tuple[int, ...]
    sampling_params: SamplingParams
    images: int
    hashed: bool


@dataclass
class Controls:
    """most_together: requests in one step so far. serialised: steps in which others waited for one without max_tokens.
    aborted: requests whose abort took effect. args: what LLM() was given; changes take effect.

    What stands in for a fault, None for none. misread: the ids that the package takes a prompt for. report: what it
    says the log-probabilities of a token are. ended: why it says that a request ended.
    """

    args: TorchLlmArgs
    seen: list[Seen] = field(default_factory=list)
    alter: Alter | None = None
    misread: Callable[[list[int]], list[int]] | None = None
    report: Callable[[dict[int, Logprob]], dict[int, Logprob]] | None = None
    ended: str | None = None
    most_together: int = 0
    serialised: int = 0
    steps: int = 0
    aborted: int = 0
    fatal: Exception | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)
    held: bool = False

    def hold(self) -> None:
        """Begin no further step until `release`, so that what comes meanwhile shares the next one."""
        with self.changed:
            self.held = True

    def release(self) -> None:
        with self.changed:
            self.held = False
            self.changed.notify_all()

    def kill(self, error: Exception) -> None:
        """The executor dies of this error, as of a CUDA error in its loop."""
        with self.changed:
            self.fatal = error
            self.held = False
            self.changed.notify_all()

    def wait_for(self, condition: Callable[[Controls], bool], timeout: float = 30.0) -> None:
        """Until the condition holds of these controls. Raises TimeoutError."""
        with self.changed:
            if not self.changed.wait_for(lambda: condition(self), timeout):
                raise TimeoutError("the double did not come to that")


LOADED: list[Controls] = []


def latest() -> Controls:
    """Of the newest LLM."""
    return LOADED[-1]
