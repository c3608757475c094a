"""What the package answers, read or refused: a draft, or a typed error. None of it is believed unseen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tritonguard.errors import GuardError, InternalError, PromptTooLong, Unavailable

from engines.tensorrt_llm.draft import Draft, Step
from engines.tensorrt_llm.sampling import Ends
from engines.tensorrt_llm.walk import Request

_TOO_LONG = ("max_num_tokens", "max_seq_len", "max_input_len")


def read_reply(output: Any, ids: Sequence[int], request: Request, ends: Ends) -> Draft:
    """The draft of a finished `RequestOutput` for the prompt `ids`.

    Raises InternalError for anything else than one finished answer to exactly this prompt, with a list of
    log-probabilities for each of its tokens.
    """
    try:
        # The package has ways to tokenise a prompt anew, and to drop an image (1.2.1 llm.py, generate_async).
        if list(output.prompt_token_ids) != list(ids):
            raise InternalError("the engine read another prompt than the one it was given")
        (completion,) = output.outputs
        written = [int(id) for id in completion.token_ids]
        lists = [{int(id): float(entry.logprob) for id, entry in top.items()} for top in completion.logprobs]
        ended, reason = completion.finish_reason, completion.stop_reason
    except (AttributeError, TypeError, ValueError) as error:
        raise InternalError("the engine's reply has another form than the one of 1.2.1") from error
    if ended not in ("stop", "length"):
        raise InternalError(f"the engine ended a request with {ended!r}")
    if ended == "stop" and not {*written[-1:]} & {ends.eos, ends.turn, *request.stops}:
        # Whether the end id is among the tokens differs between the package's samplers.
        written.append(reason if type(reason) is int else ends.eos)
        lists += [{}] * (len(written) - len(lists))
    if len(lists) != len(written) or len(written) > request.most + 1:
        raise InternalError(f"{len(written)} tokens and {len(lists)} log-probabilities for {request.most} asked for")
    return tuple(Step(id, likeliest) for id, likeliest in zip(written, lists, strict=True))


def typed(error: Exception) -> GuardError:
    """An error of the package as ours; its own text stays in the log, as the cause."""
    if isinstance(error, GuardError):
        return error
    known: GuardError = InternalError()
    # By name: to read an error, the package need not be there. In 1.2.1 a prompt too long is this, no ValueError.
    if type(error).__name__ == "RequestError":
        if any(mark in str(error) for mark in _TOO_LONG):
            known = PromptTooLong("the prompt and its answer are longer than this engine reads", field="prompt")
    elif isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError):
        # Any other failure has shut the executor down before it is raised (executor.py, _handle_background_error), and
        # later requests are refused with RuntimeError: LLM is shutting down (1.2.1 llm.py).
        known = Unavailable("the engine has stopped")
    known.__cause__ = error
    return known
