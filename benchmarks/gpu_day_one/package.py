"""tensorrt_llm as the probes ask it: one request's ids in, what came back out.

The package is opened as the engine opens it (`engines.tensorrt_llm.runtime`); the requests are the probes' own, since a
probe asks what the engine never does.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.tensorrt_llm.engine_config import EngineConfig
from engines.tensorrt_llm.processor import inputs_of, pixel_values
from engines.tensorrt_llm.runtime import Runtime
from engines.tensorrt_llm.sampling import LIKELIEST

PATIENCE_S = 60.0
"""Longer than any request here takes; a request that is not back by then hangs."""
FIRST_S = 900.0
"""The same of a request that waits for kernels to be compiled."""
CLOSE_S = 60.0
_QUIET_S = 0.2
"""Without an iteration for so long, the package has none to report."""


@dataclass(frozen=True)
class Ask:
    """One request. pixels: uint8 [images, size, size, 3], handed in as the engine does.

    inputs: in the place of ids and pixels. stop: a token that ends the answer; end: another one for the end id.
    """

    ids: tuple[int, ...]
    max_tokens: int | None = 1
    logprobs: int | None = LIKELIEST
    temperature: float | None = 1.0
    regex: str | None = None
    pixels: npt.NDArray[np.uint8] | None = None
    inputs: Mapping[str, Any] | None = None
    stop: int | None = None
    end: int | None = None


@dataclass(frozen=True)
class Reply:
    """prompt_ids: as the package read them. ids: generated. logprobs: {token: log-probability} of each of those."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    logprobs: tuple[dict[int, float], ...]
    finish_reason: str | None
    seconds: float


@dataclass(frozen=True)
class Failure:
    """error: the class's name; base: the class's before it. hung: nothing came in time."""

    error: str
    base: str
    message: str
    seconds: float
    hung: bool = False


Result = Reply | Failure


@dataclass(frozen=True)
class Changed(EngineConfig):
    """A bundle's config with arguments that no bundle may have: other values, or the package's own defaults."""

    others: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    def llm_kwargs(self, folder: Path) -> dict[str, Any]:
        kept = {name: value for name, value in super().llm_kwargs(folder).items() if name not in self.without}
        return kept | dict(self.others)

    @classmethod
    def of(cls, config: EngineConfig, *without: str, **others: Any) -> Changed:
        return cls(**asdict(config), others=others, without=without)


class Package:
    """A loaded package. `ask`, `abort` and `iterations` never raise for what a request does."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @classmethod
    def open(cls, folder: Path, config: EngineConfig) -> Package:
        """Raises BundleError."""
        return cls(Runtime.open(folder, config))

    def ask(self, *asks: Ask, patience_s: float = PATIENCE_S) -> list[Result]:
        """All at once; one result each, in order."""
        return self._runtime.submit(self._together(asks, patience_s)).result(patience_s + CLOSE_S)

    def abort(self, ask: Ask, *, after_s: float) -> Result:
        """Submit, and abort so much later."""
        return self._runtime.submit(self._one(ask, PATIENCE_S, abort_after_s=after_s)).result(PATIENCE_S + CLOSE_S)

    def iterations(self) -> list[Mapping[str, Any]]:
        """The statistics of every iteration that has not been read yet."""
        return self._runtime.submit(self._statistics()).result(PATIENCE_S)

    def shut_down(self) -> None:
        """The package alone; its loop stays for what is asked behind. Raises what the package raises, TimeoutError
        where it does not come back."""
        _in_time(self._runtime.llm.shutdown)

    def close(self) -> None:
        """Raises TimeoutError where the package does not end: its process is to be killed."""
        _in_time(self._runtime.close)

    async def _together(self, asks: Sequence[Ask], patience_s: float) -> list[Result]:
        # Tasks begin in order, and none of them waits before its request is submitted.
        return list(await asyncio.gather(*(self._one(ask, patience_s) for ask in asks)))

    async def _one(self, ask: Ask, patience_s: float, *, abort_after_s: float | None = None) -> Result:
        began = time.monotonic()
        try:
            pending = self._runtime.llm.generate_async(
                _inputs(ask), sampling_params=self._sampling(ask), streaming=False
            )
            if abort_after_s is not None:
                await asyncio.sleep(abort_after_s)
                pending.abort()
            await asyncio.wait_for(pending.aresult(), patience_s)
            return _reply(pending, began)
        except Exception as error:
            return _failure(error, began)

    async def _statistics(self) -> list[Mapping[str, Any]]:
        found = []
        async for one in self._runtime.llm.get_stats_async(timeout=_QUIET_S):
            found.append(one)
        return found

    def _sampling(self, ask: Ask) -> Any:
        # Here, not above: the package exists only where a GPU is.
        from tensorrt_llm import SamplingParams
        from tensorrt_llm.llmapi import GuidedDecodingParams

        ends = self._runtime.ends
        given: dict[str, Any] = {
            "max_tokens": ask.max_tokens,
            "logprobs": ask.logprobs,
            "temperature": ask.temperature,
            "guided_decoding": None if ask.regex is None else GuidedDecodingParams(regex=ask.regex),
        }
        return SamplingParams(
            end_id=ends.eos if ask.end is None else ask.end,
            stop_token_ids=[ends.turn if ask.stop is None else ask.stop],
            top_k=1,
            detokenize=False,
            add_special_tokens=False,
            # The others' default is None; that of max_tokens is not.
            **{name: value for name, value in given.items() if value is not None or name == "max_tokens"},
        )


def _in_time(function: Callable[[], None]) -> None:
    """An engine that is lost may never end. Raises what the function raises, TimeoutError behind CLOSE_S."""
    done: Future[None] = Future()

    def run() -> None:
        try:
            function()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=run, daemon=True).start()
    done.result(CLOSE_S)


def _inputs(ask: Ask) -> Mapping[str, Any]:
    if ask.inputs is not None:
        return ask.inputs
    return inputs_of(ask.ids, None if ask.pixels is None else pixel_values(ask.pixels))


def _reply(output: Any, began: float) -> Reply:
    (said,) = output.outputs
    return Reply(
        tuple(map(int, output.prompt_token_ids)),
        tuple(map(int, said.token_ids)),
        tuple({int(id): float(one.logprob) for id, one in row.items()} for row in said.logprobs or ()),
        said.finish_reason,
        time.monotonic() - began,
    )


def _failure(error: Exception, began: float) -> Failure:
    base = type(error).__mro__[1].__name__
    hung = isinstance(error, TimeoutError)
    return Failure(type(error).__name__, base, str(error)[:300], time.monotonic() - began, hung)
