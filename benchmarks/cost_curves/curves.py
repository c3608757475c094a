"""The three measurements, each against a running server."""

from __future__ import annotations

import asyncio
import random
import statistics
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tritonguard.policy import Policy
from tritonguard.request import GuardRequest

from benchmarks.latency.figures import Load, Point
from benchmarks.latency.loops import VERDICT, Ask, Log, Reply
from benchmarks.latency.mix import Mix, Planned, key_of
from benchmarks.latency.sweep import Counting, Findings, Sweep
from benchmarks.latency.texts import Ruler, Text, Texts
from benchmarks.soak_memory import Sample
from serving.metrics import EVERY_S

DEADLINE_S = 300.0
LANGUAGE = "en"
SLO_MS = 1000.0
SETTLE_S = 3.0
_PREFIX_BYTES, _PREFIXES = "tritonguard_prefix_bytes", "tritonguard_prefixes"

Say = Callable[[str], None]


@dataclass(frozen=True)
class LengthCost:
    """One request at a time. tokens: of its text. prompt_tokens: with the policy and the template around it; None: no
    server told. ms: median of `times` verdicts, or of refusals. answer: "verdict", or the kind of the refusal."""

    tokens: int
    prompt_tokens: int | None
    ms: float
    times: int
    answer: str


@dataclass(frozen=True)
class PoliciesCost:
    """policies: different free-text ones asked so far. megabytes: PSS of all server processes. prefix_megabytes, held:
    keys and values in the engine's cache, and of how many policies; None: the server has no such metric."""

    policies: int
    megabytes: float
    prefix_megabytes: float | None
    held: int | None


async def length_costs(
    ask: Ask, texts: Texts, ruler: Ruler, *, lengths: Sequence[int], rounds: int, seed: int, say: Say
) -> list[LengthCost]:
    """Each round asks every length once, with a text of its own; one more round before them is not counted."""
    generator = random.Random(f"{seed} lengths")
    rows = texts.by_language(response=False)[LANGUAGE]
    replies: dict[int, list[tuple[float, Reply]]] = {length: [] for length in lengths}
    log = Log()
    for number in range(rounds + 1):
        say(f"text lengths: round {number} of {rounds}" + ("" if number else " (not counted)"))
        for length in lengths:
            own = Text(generator.choice(rows).request.prompt, None)
            text = texts.of_length(own, LANGUAGE, length, ruler, generator)
            reply = await log.follow(ask, planned(GuardRequest(prompt=text.text, deadline_s=DEADLINE_S)))
            if number:
                replies[length].append((log.samples[-1].latency_s * 1e3, reply))
    return [_length_cost(length, came) for length, came in replies.items()]


def _length_cost(length: int, came: Sequence[tuple[float, Reply]]) -> LengthCost:
    """Of one length, whose answers are all of the kind of the first, or there is an error among them, which is told."""
    words = {reply.word for _, reply in came}
    answer = words.pop() if len(words) == 1 else ", ".join(sorted(words))
    prompts = [reply.verdict.record.prompt_tokens for _, reply in came if reply.verdict is not None]
    tokens = prompts[0] if prompts else None
    return LengthCost(length, tokens, statistics.median(ms for ms, _ in came), len(came), answer)


async def throughputs(
    ask: Ask, mix: Mix, counting: Counting, *, concurrencies: Sequence[int], seconds: float, say: Say
) -> list[Point]:
    """A closed loop of each number of callers, one after the other."""
    findings = Findings()
    sweep = Sweep(mix, ask, counting, SLO_MS, findings, say=say)
    await sweep.warm_up(8)
    await sweep.run([Load(None, callers, SETTLE_S, seconds) for callers in concurrencies])
    return findings.points


async def policies_costs(
    ask: Ask, measure: Callable[[], Sample], metrics_url: str, *, counts: Sequence[int], say: Say
) -> list[PoliciesCost]:
    """Asks one request under each of so many policies, and looks at the memory at each of `counts`, in ascending order.

    Before the first it is looked at too: 0 policies. Raises RuntimeError where a request gets no verdict.
    """
    # The kernels of these lengths, before anything is counted.
    await _ask_under(ask, -1)
    costs = [await _look(0, measure, metrics_url)]
    for policies in range(1, max(counts) + 1):
        await _ask_under(ask, policies)
        if policies in counts:
            costs.append(await _look(policies, measure, metrics_url))
            say(f"{policies} policies: {costs[-1].megabytes:.0f} MB")
    return costs


async def _ask_under(ask: Ask, number: int) -> None:
    request = GuardRequest(
        prompt="How do I reach the office on Friday?", policy=house_rules(number), deadline_s=DEADLINE_S
    )
    reply = await ask(planned(request))
    if reply.word != VERDICT:
        raise RuntimeError(f"a request under a policy of its own got no verdict, but {reply.word}")


def house_rules(number: int) -> Policy:
    """A free-text policy, another one for each number and all about equally long: some 300 tokens."""
    behaviours = (
        "Asking for another customer's orders, addresses or payments",
        "Asking for a discount, refund or voucher that the rules of the shop don't give",
        "Asking about goods that need a licence, a prescription or proof of age",
        "Talking about subjects that have nothing to do with the shop",
        "Asking the assistant to speak in the name of a member of staff",
        "Asking for internal prices, stock, suppliers or sales figures",
    )
    permitted = (
        "Questions about goods, sizes, delivery, opening hours and returns",
        "Complaints, thanks, greetings and small talk before a question",
        "Questions about one's own orders, invoices and payments",
        "Asking to be called back or to speak with a person",
    )
    shop = f"shop number {number % 1000:03}"
    lines = [
        f"Evaluate the user prompt for compliance with the rules of {shop}, ignoring any previous policies. ",
        "",
        "### Policy",
        f"Name: Assistant of {shop}",
        "Description: The assistant answers customers of a shop about its goods and their orders.",
        "",
        "Disallowed Behaviors:",
        *(f"- {one} of {shop}." for one in behaviours),
        "",
        "Allowed Behaviors:",
        *(f"- {one} of {shop}." for one in permitted),
    ]
    return Policy(name=f"shop-{number % 1000:03}", custom_policy="\n".join(lines))


async def _look(policies: int, measure: Callable[[], Sample], metrics_url: str) -> PoliciesCost:
    # The page is written anew once a second.
    await asyncio.sleep(2 * EVERY_S)
    told = await asyncio.to_thread(metrics, metrics_url)
    held = told.get(_PREFIXES)
    size = told.get(_PREFIX_BYTES)
    return PoliciesCost(
        policies, measure().megabytes, None if size is None else size / 1e6, None if held is None else round(held)
    )


def metrics(url: str) -> dict[str, float]:
    """The page's numbers by name, those with labels left out; none where it does not answer."""
    try:
        with urllib.request.urlopen(url, timeout=10) as page:  # nosec B310  # http, of the server started here
            lines = page.read().decode().splitlines()
    except OSError:
        return {}
    pairs = (line.split(" ", 1) for line in lines if line and line[0] != "#" and "{" not in line)
    return {name: float(value) for name, value in pairs}


def planned(request: GuardRequest) -> Planned:
    """A request of no mix."""
    return Planned(request, key_of(request), "verdict", LANGUAGE, (None, None))
