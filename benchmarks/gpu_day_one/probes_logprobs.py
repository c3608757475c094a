"""What the log-probabilities of the package mean, which a verdict's probability is made of."""

from __future__ import annotations

from benchmarks.gpu_day_one import judge_logprobs as judge
from benchmarks.gpu_day_one.findings import Finding
from benchmarks.gpu_day_one.material import Material
from benchmarks.gpu_day_one.package import Ask, Package, Reply
from engines.tensorrt_llm.sampling import LIKELIEST

COUNTS = (1, 2, LIKELIEST, 64, 256, 1024)
BATCH = 8
SAME_MARGIN_NATS = 0.15
"""Between two ways to the same numbers: bfloat16 keeps 8 bits, and a logit of 30 is then known to about 0.1."""
_WALK = "engines/tensorrt_llm/draft.py: Step.read"


def accepted(package: Package, material: Material) -> list[Finding]:
    results = {count: package.ask(Ask(material.open_end, logprobs=count))[0] for count in COUNTS}
    value, says = judge.most_accepted(results)
    return [
        Finding(
            "most_logprobs",
            "How many log-probabilities can be had?",
            value,
            says,
            f"set LIKELIEST in engines/tensorrt_llm/sampling.py (now {LIKELIEST}) to what is accepted",
            statement="logprobs-accepted",
        )
    ]


def enough(package: Package, material: Material) -> list[Finding]:
    """Both options of a choice among the K likeliest, on the plain examples: else a probability is only a bound."""
    choice = material.choice
    value, says = judge.both_listed(package.ask(*map(Ask, material.verdicts)), choice.safe, choice.unsafe)
    return [
        Finding(
            "both_options_listed",
            "Is a verdict one request of one token?",
            value,
            says,
            "a verdict whose other option is missing is marked probability_bounded; with many of them raise LIKELIEST",
            statement="one-pass-verdict",
            wanted=True,
        )
    ]


def whole_vocabulary(package: Package, material: Material) -> list[Finding]:
    few, many = (package.ask(Ask(material.open_end, logprobs=count))[0] for count in (2, LIKELIEST))
    value, says = judge.over_the_whole_vocabulary(few, many)
    return [
        Finding(
            "logprobs_full_vocabulary_fp32",
            "Are log-probabilities taken over the whole vocabulary?",
            value,
            says,
            f"margins stay right, bounds do not: {_WALK} must not use the mass that the listed tokens leave",
            statement="logprobs-full-vocabulary",
        )
    ]


def temperature(package: Package, material: Material) -> list[Finding]:
    one, other = (package.ask(Ask(material.open_end, temperature=value))[0] for value in (1.0, 0.5))
    changes, says = judge.changes_with(one, other, "a temperature of 0.5")
    return [
        Finding(
            "logprobs_before_temperature",
            "Are they taken before the temperature?",
            None if changes is None else not changes,
            says,
            "nothing as long as every request has temperature 1, as engines/tensorrt_llm/sampling.py sets it",
            statement="logprobs-before-temperature",
        )
    ]


def greedy(package: Package, material: Material) -> list[Finding]:
    results = package.ask(*(Ask(ids, max_tokens=4) for ids in (*material.verdicts[:BATCH], material.open_end)))
    value, says = judge.chosen_is_listed(results)
    return [
        Finding(
            "greedy_token_listed",
            "Is the generated token among its own log-probabilities?",
            value,
            says,
            f"{_WALK} takes such a place for damaged and answers indeterminate: see which token is missing",
            statement="chosen-among-top",
            wanted=True,
        )
    ]


def batch_of_one(package: Package, material: Material) -> list[Finding]:
    asks = [Ask(ids) for ids in material.verdicts[:BATCH]]
    alone = [package.ask(one)[0] for one in asks]
    value, says = judge.same_drafts(alone, package.ask(*asks), SAME_MARGIN_NATS)
    return [
        Finding(
            "margins_alone_as_in_batch",
            f"Is a verdict the same alone and among {len(asks)}?",
            value,
            says,
            "requests see each other: lower max_batch_size to 1 (compile --max-batch-size 1) and report it upstream",
            statement="batch-invariance",
            wanted=True,
        )
    ]


def pair(package: Package, material: Material) -> list[Finding]:
    """One greedy request against prefills: at the user's choice, and where the response's stands if it is drafted."""
    ids, between = material.pair
    at = len(between) + 1
    (drafted,) = package.ask(Ask(ids, max_tokens=at + 1))
    written = drafted.ids if isinstance(drafted, Reply) else ()
    prefills = package.ask(Ask(ids), Ask((*ids, *written[:at])))
    places = [
        (judge.row_at(prefill, 0), judge.row_at(drafted, n)) for prefill, n in zip(prefills, (0, at), strict=True)
    ]
    value, says = judge.same_rows(places, SAME_MARGIN_NATS)
    is_drafted = written[1:at] == between
    return [
        Finding(
            "pair_of_one_request",
            "Are a pair's choices the same in one request and in two prefills?",
            value,
            f"{says}; the response's head was {'' if is_drafted else 'not '}drafted",
            "a decode step gives other numbers than a prefill: read the second choice by one (engine.py: _answer)",
            {"written": written, "head": between},
            "pair-one-request",
            wanted=True,
        )
    ]
