"""How the package takes, batches, ends and refuses requests."""

from __future__ import annotations

from benchmarks.gpu_day_one import judge_requests as judge
from benchmarks.gpu_day_one.findings import Finding
from benchmarks.gpu_day_one.judge_logprobs import told
from benchmarks.gpu_day_one.material import Material
from benchmarks.gpu_day_one.package import Ask, Failure, Package, Reply

BATCH = 8
ROUNDS = 8
_REPLIES = "engines/tensorrt_llm/replies.py: typed"


def abort(package: Package, material: Material) -> list[Finding]:
    """Of the longest prompt that there is, in the middle of its prefill."""
    ask = Ask(material.long(material.limit - 1))
    package.ask(ask)
    (alone,) = package.ask(ask)
    aborted = package.abort(ask, after_s=alone.seconds / 3)
    (following,) = package.ask(Ask(material.verdicts[0]))
    value, says = judge.abort_is_clean(aborted, alone, following)
    return [
        Finding(
            "abort_between_steps",
            "Does an abort during prefill leave the engine whole?",
            value,
            says,
            "take the abort out of engines/tensorrt_llm/engine.py: _draft, and let reasoning run out too",
            statement="abort-prefill",
        )
    ]


def without_max_tokens(package: Package, material: Material) -> list[Finding]:
    """Each request ends at the token that the model writes first, so that it is short without a limit, too."""
    ids = material.verdicts[:BATCH]
    firsts = [one.ids[0] if isinstance(one, Reply) and one.ids else None for one in package.ask(*map(Ask, ids))]
    found = []
    for most in (None, 4):
        package.iterations()
        package.ask(*(Ask(one, max_tokens=most, stop=first) for one, first in zip(ids, firsts, strict=True)))
        found.append(judge.most_in_a_step(package.iterations()))
    value, says = judge.run_one_by_one(*found)
    return [
        Finding(
            "no_max_tokens_serialises",
            "Do requests without max_tokens run one after another?",
            value,
            says,
            "nothing: the engine always sets it",
            {"without": found[0], "with": found[1]},
            "max-tokens-unset",
        )
    ]


def steps_for_one_token(package: Package, material: Material) -> tuple[list[int], list[float]]:
    """Steps and seconds of ROUNDS requests with max_tokens 1, one after another."""
    counts, seconds = [], []
    for number in range(ROUNDS):
        package.iterations()
        (one,) = package.ask(Ask(material.verdicts[number % len(material.verdicts)]))
        counts.append(judge.steps(package.iterations()))
        seconds.append(one.seconds)
    return counts, seconds


def ends(package: Package, material: Material) -> list[Finding]:
    """What ended an answer: whether it is among its ids, and its log-probabilities among theirs."""
    ids = material.verdicts[0]
    (plain,) = package.ask(Ask(ids))
    first = plain.ids[0] if isinstance(plain, Reply) and plain.ids else None
    stopped, ended = package.ask(Ask(ids, max_tokens=4, stop=first), Ask(ids, max_tokens=4, end=first))
    is_told = first is not None and isinstance(stopped, Reply) and isinstance(ended, Reply)
    written = stopped.ids if isinstance(stopped, Reply) else ()
    rows = stopped.logprobs if isinstance(stopped, Reply) else ()
    stays = isinstance(ended, Reply) and first in ended.ids
    fix = "engines/tensorrt_llm/replies.py: read_reply must place the end of an answer as it is now"
    says = f"a stop token leaves {len(written)} id(s) and {len(rows)} row(s)"
    return [
        Finding(name, question, value if is_told else None, says, fix)
        for name, question, value, says in (
            ("stop_ids_trimmed", "Is a stop token taken out of the ids?", first not in written, says),
            ("logprobs_kept_of_trimmed_stop", "Do its log-probabilities stay?", len(rows) > len(written), says),
            ("end_id_stays", "Is the end id left among them?", stays, "it is there" if stays else "it is not there"),
        )
    ]


def too_long(package: Package, material: Material) -> list[Finding]:
    limit = material.limit
    (result,) = package.ask(Ask(material.long(limit + 1)))
    value, says = judge.error_of(result)
    base = result.base if isinstance(result, Failure) else None
    named = isinstance(result, Failure) and "max_num_tokens" in result.message
    fix = f"{_REPLIES} has to know this error; the engine's own check comes before it"
    return [
        Finding(
            "too_long_is_request_error",
            f"What is a prompt of {limit + 1} tokens refused with?",
            value,
            says,
            fix,
            statement="error-too-long",
        ),
        Finding(
            "request_error_is_runtime_error",
            "Is that error a RuntimeError?",
            None if base is None else base == "RuntimeError",
            f"its base is {base}",
            fix,
        ),
        Finding(
            "length_checked_against_max_num_tokens",
            "Is its length compared with max_num_tokens?",
            named,
            "the error names it" if named else "the error does not name it",
            fix,
        ),
    ]


def clipped(package: Package, material: Material) -> list[Finding]:
    """A prompt with room for 4 tokens behind it that asks for 16."""
    (result,) = package.ask(Ask(material.long(material.limit - 4), max_tokens=16))
    is_told = isinstance(result, Reply) and (result.finish_reason == "length" or len(result.ids) > 5)
    return [
        Finding(
            "max_tokens_clipped",
            "Is max_tokens cut to the room that there is?",
            len(result.ids) <= 5 if isinstance(result, Reply) and is_told else None,
            told(result),
            "engines/tensorrt_llm/engine.py: _check keeps such requests away; leave it so",
        )
    ]


def after_shutdown(package: Package, material: Material) -> list[Finding]:
    """The last to be asked of a package."""
    package.shut_down()
    (result,) = package.ask(Ask(material.verdicts[0]))
    value = f"{result.error}: {result.message}" if isinstance(result, Failure) else "answered"
    try:
        package.shut_down()
        twice, said = "nothing", "nothing happens"
    except Exception as error:
        twice, said = type(error).__name__, f"{type(error).__name__}: {error}"
    return [
        Finding(
            "call_after_shutdown",
            "What does a request after shutdown get?",
            value,
            value,
            f"{_REPLIES} has to make Unavailable of it",
            statement="error-after-shutdown",
        ),
        Finding(
            "shutdown_twice",
            "What does a second shutdown do?",
            twice,
            said,
            "engines/tensorrt_llm/runtime.py: close may call it once only",
        ),
    ]


def mixed(package: Package, material: Material) -> list[Finding]:
    """Requests with and without log-probabilities in one batch. It may end the executor."""
    asks = [Ask(ids, max_tokens=4, logprobs=None if n % 2 else 20) for n, ids in enumerate(material.verdicts[:BATCH])]
    results = package.ask(*asks)
    value, says = judge.mixed_batch(results)
    whole, whole_says = judge.who_fails(results)
    (following,) = package.ask(Ask(material.verdicts[0]))
    lives = "the next request was answered" if isinstance(following, Reply) else "the engine is lost with it"
    return [
        Finding(
            "mixed_logprobs",
            "What happens in a batch that mixes requests with and without log-probabilities?",
            value,
            f"{says}; {lives}",
            "nothing: every request of the engine asks for as many",
            statement="logprobs-mixed",
        ),
        Finding(
            "step_error_fails_batch",
            "Who fails when a step goes wrong?",
            whole,
            whole_says,
            f"{_REPLIES} has to know this error",
        ),
    ]
