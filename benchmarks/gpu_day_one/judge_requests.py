"""How requests are taken, batched, ended and refused: observations in, an answer and its words out. Pure."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.gpu_day_one.judge_logprobs import SAME_NATS, Judged, told
from benchmarks.gpu_day_one.package import Failure, Reply, Result

CACHED = 0.5
"""Of the first start's first requests: a second start's that take less have found their kernels."""
_TYPE_ERROR = re.compile(r"TypeError|NoneType|not supported between instances")


def ids_are_kept(sent: tuple[int, ...], result: Result) -> Judged:
    """Whether the package read exactly the ids that were sent."""
    if not isinstance(result, Reply):
        return None, told(result)
    if result.prompt_ids == sent:
        return True, f"the {len(sent)} ids that were read are those that were sent"
    same = next((n for n, (a, b) in enumerate(zip(sent, result.prompt_ids, strict=False)) if a != b), None)
    where = "one is the beginning of the other" if same is None else f"number {same} is the first that differs"
    return False, f"{len(sent)} ids were sent and {len(result.prompt_ids)} read; {where}"


def reencoded(sent: tuple[int, ...], result: Result) -> Judged:
    """Ids beside an image, with our processor in place, which refuses a text: then the package had decoded them."""
    if isinstance(result, Failure) and result.error == "InternalError":
        return True, "the package decoded them and gave our processor a text"
    kept, says = ids_are_kept(sent, result)
    return None if kept is None else not kept, says


def both_pictures(one: Result, other: Result) -> Judged:
    """Two pictures behind the same ids: whether the log-probabilities differ by more than arithmetic does."""
    if not isinstance(one, Reply) or not isinstance(other, Reply) or not one.logprobs or not other.logprobs:
        return None, "; ".join(map(told, (one, other)))
    a, b = one.logprobs[0], other.logprobs[0]
    apart = max((abs(a[id] - b[id]) for id in a.keys() & b.keys()), default=float("inf"))
    if apart > SAME_NATS:
        return True, f"two pictures differ by up to {apart:.3g} nats"
    return False, "two pictures give the same log-probabilities"


def mixed_batch(results: Sequence[Result]) -> Judged:
    """A batch in which some requests ask for log-probabilities and some don't: the error behind it, or "answered"."""
    failures = [one for one in results if isinstance(one, Failure)]
    if not failures:
        return "answered", f"all {len(results)} were answered"
    if any(one.hung for one in failures):
        return "hangs", f"{sum(one.hung for one in failures)} of {len(results)} never came back"
    first = failures[0]
    # The package hands a step's error on as a text, in a class of its own.
    name = "TypeError" if _TYPE_ERROR.search(f"{first.error}: {first.message}") else first.error
    return name, f"{len(failures)} of {len(results)} failed with {first.error}: {first.message}"


def who_fails(results: Sequence[Result]) -> Judged:
    """A step that went wrong: the class of error that every request of its batch ends with, or who is spared."""
    failures = [one for one in results if isinstance(one, Failure)]
    if not failures:
        return None, "no step went wrong"
    if len(failures) < len(results):
        return "some of the batch", f"{len(results) - len(failures)} of {len(results)} were answered"
    return failures[0].error, f"all {len(results)} failed with {failures[0].error}"


def most_in_a_step(iterations: Sequence[Mapping[str, Any]]) -> int | None:
    """Requests in one iteration at most; None: the package counted none."""
    counts = [_requests(one) for one in iterations]
    return max((count for count in counts if count is not None), default=None)


def steps(iterations: Sequence[Mapping[str, Any]]) -> int:
    """Iterations that had a request in them."""
    return sum(bool(_requests(one)) for one in iterations)


def run_one_by_one(most_together: int | None, control: int | None) -> Judged:
    """Whether requests without max_tokens share no step, where the same ones with it do."""
    if most_together is None or control is None:
        return None, "the package reported no iterations"
    if control < 2:
        return None, "the same requests with max_tokens shared no step either"
    says = f"at most {most_together} of them in a step without max_tokens, {control} with it"
    return most_together < 2, says


def abort_is_clean(aborted: Result, alone: Result, following: Result) -> Judged:
    """A request aborted while it was read, the same undisturbed, and one behind it."""
    if not isinstance(following, Reply):
        return "the engine is lost", f"the next request was not answered: {told(following)}"
    if isinstance(aborted, Failure) and aborted.hung:
        return "the request hangs", "the aborted request never came back; the next one was answered"
    return (
        True,
        f"it came back after {aborted.seconds:.2f} s ({told(aborted)}), undisturbed after {alone.seconds:.2f} s",
    )


def error_of(result: Result) -> Judged:
    """The class that a request is refused with; "answered" where it is not."""
    if isinstance(result, Reply):
        return "answered", f"it was answered: {told(result)}"
    return ("hangs" if result.hung else result.error), told(result)


def steps_of(counts: Sequence[int]) -> Judged:
    """Iterations that single requests of one token took; the median."""
    if not any(counts):
        return None, "the package reported no iterations"
    return int(statistics.median(counts)), f"{statistics.median(counts):g} step(s) of the executor for one token"


def cache_is_used(first_s: float, second_s: float, added: int) -> Judged:
    """Seconds of the first requests of two starts; added: kernel files that the second start wrote."""
    says = f"the first requests took {first_s:.1f} s at the first start and {second_s:.1f} s at the second"
    return added == 0 or second_s < CACHED * first_s, f"{says}, which wrote {added} kernel file(s)"


def _requests(iteration: Mapping[str, Any]) -> int | None:
    counts = iteration.get("inflightBatchingStats")
    if not isinstance(counts, Mapping):
        return None
    return int(counts.get("numContextRequests", 0)) + int(counts.get("numGenRequests", 0))
