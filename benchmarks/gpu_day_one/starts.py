"""The engines that a day starts, one after another, each in a process of its own: what each is asked.

Each function here is the whole of such a process: a bundle's folder in, picklable findings out. The first start finds
out what the later ones are compared with; the last may end its executor.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.gpu_day_one import judge_logprobs as judge
from benchmarks.gpu_day_one import judge_requests, origin, probes_logprobs, probes_prompts, probes_requests
from benchmarks.gpu_day_one.findings import Finding
from benchmarks.gpu_day_one.material import Material
from benchmarks.gpu_day_one.package import FIRST_S, Ask, Changed, Package, Reply, Result
from engines.bundle import Bundle
from engines.program import END_OF_TURN
from engines.tensorrt_llm.engine_config import EngineConfig
from engines.tensorrt_llm.jit_cache import cache_folder

Probe = Callable[[Package, Material], list[Finding]]
Change = Callable[[EngineConfig], EngineConfig]

TEXT_PROBES: tuple[Probe, ...] = (
    probes_prompts.ids_of_a_text,
    probes_logprobs.accepted,
    probes_logprobs.enough,
    probes_logprobs.whole_vocabulary,
    probes_logprobs.temperature,
    probes_logprobs.greedy,
    probes_logprobs.batch_of_one,
    probes_logprobs.pair,
    probes_requests.ends,
    probes_requests.without_max_tokens,
    probes_requests.clipped,
    probes_requests.too_long,
)
IMAGE_PROBES: tuple[Probe, ...] = (
    probes_prompts.ids_with_an_image,
    probes_prompts.image_is_seen,
    probes_prompts.both_keys,
    probes_prompts.ids_and_image,
)
LAST_PROBES: tuple[Probe, ...] = (probes_requests.abort, probes_requests.after_shutdown)
BATCHES = (4, 8, 14)
"""Requests at once, for the comparison of CUDA graphs: a stale plan shows from 4 on."""
DRAFT = 6
REGEX = " (safe|unsafe)"


@dataclass(frozen=True)
class Start:
    """One start, with the overlap scheduler or without. evidence: `origin.evidence`.

    load_s: until the package was open; first_s: of its first verdict, draft and image, which wait for kernels;
    second_s: of the same once more. kernels: files that were compiled meanwhile. free_bytes: of GPU memory, before and
    behind the load. step_counts, step_s: `steps_for_one_token`. plain: a reply to the first example. drafts: `_drafts`.
    """

    evidence: str
    overlap: bool
    versions: dict[str, str | None]
    findings: list[Finding]
    load_s: float
    first_s: float
    second_s: float
    kernels: int
    free_bytes: tuple[int | None, int | None]
    step_counts: list[int]
    step_s: list[float]
    plain: Result
    drafts: list[Result] = field(default_factory=list)


def first(folder: Path) -> Start:
    """The package as it is served, asked all that needs no other one. Raises BundleError."""
    with _opened(folder) as (package, material, start):
        found = answers(package, material, TEXT_PROBES)
        if material.bundle.image_size:
            found += answers(package, material, IMAGE_PROBES)
        counts, seconds = probes_requests.steps_for_one_token(package, material)
        drafts = _drafts(package, material)
        found += answers(package, material, LAST_PROBES)
        return replace(start, findings=found, step_counts=counts, step_s=seconds, drafts=drafts)


def second(folder: Path) -> Start:
    """Its kernels are there; and what a token costs with the overlap scheduler off where the bundle has it on."""
    with _opened(folder, _other_overlap) as (package, material, start):
        counts, seconds = probes_requests.steps_for_one_token(package, material)
        return replace(start, step_counts=counts, step_s=seconds)


def with_cuda_graphs(folder: Path, eager: Sequence[Result]) -> list[Finding]:
    """The same requests as `eager`, replayed from graphs."""
    with _opened(folder, lambda config: Changed.of(config, "cuda_graph_config")) as (package, material, _):
        replayed = _drafts(package, material)
    same, says = judge.same_drafts(eager, replayed, probes_logprobs.SAME_MARGIN_NATS)
    return [
        Finding(
            "cuda_graph_stale_plan",
            "Do CUDA graphs change an answer, with 4 requests at once and more?",
            None if same is None else not same,
            says,
            "leave cuda_graph_config null; where they change nothing, they may be tried for think",
            statement="cuda-graphs",
        )
    ]


def guided(folder: Path, plain: Result) -> list[Finding]:
    """xgrammar on this lane, and what it does to log-probabilities. plain: the first example without a grammar."""
    with _opened(folder, lambda config: Changed.of(config, guided_decoding_backend="xgrammar")) as (
        package,
        material,
        _,
    ):
        results = package.ask(*(Ask(ids, max_tokens=8, regex=REGEX) for ids in material.verdicts[:4]))
    said = [material.builder.decode_text(one.ids) if isinstance(one, Reply) else judge.told(one) for one in results]
    fits = [text.removesuffix(END_OF_TURN) in (" safe", " unsafe") for text in said]
    changes, says = judge.changes_with(plain, results[0], "a grammar")
    return [
        Finding(
            "guided_decoding",
            "Does guided decoding work with images' attention backend?",
            "works" if all(fits) else "does not",
            f"{sum(fits)} of {len(fits)} answers are of {REGEX!r}, the first said {said[0]!r}",
            observed={"said": said},
            statement="guided-decoding",
        ),
        Finding(
            "logprobs_after_grammar",
            "Does a grammar change log-probabilities?",
            changes,
            says,
            "nothing: the engine uses no grammar",
            statement="logprobs-grammar",
        ),
    ]


def mixed(folder: Path) -> list[Finding]:
    with _opened(folder) as (package, material, _):
        return answers(package, material, (probes_requests.mixed,))


def started(one: Start, other: Start) -> list[Finding]:
    """Pure: what the first start (`one`) and the second tell of loading, kernels, memory and the overlap scheduler."""
    both = {"with" if start.overlap else "without": start for start in (one, other)}
    steps = {name: judge_requests.steps_of(start.step_counts) for name, start in both.items()}
    ms = {name: 1e3 * statistics.median(start.step_s) for name, start in both.items()}
    told = "; ".join(f"{name}: {steps[name][1]}, {ms[name]:.1f} ms" for name in steps)
    cached, cache_says = judge_requests.cache_is_used(one.first_s, other.first_s, other.kernels)
    before, after = one.free_bytes
    used = None if before is None or after is None else before - after
    return [
        Finding(
            "load_s",
            "How long does the package take to load?",
            round(one.load_s, 1),
            f"{one.load_s:.0f} s, and {other.load_s:.0f} s at the second start",
        ),
        Finding(
            "memory_bytes",
            "How much GPU memory does it take, its cache of keys and values included?",
            used,
            "nvidia-smi did not say" if used is None else f"{used / 1e9:.2f} GB",
            statement="memory",
        ),
        Finding(
            "first_request_s",
            "What do the first requests wait for kernels?",
            round(one.first_s, 2),
            f"a verdict, a draft and an image took {one.first_s:.2f} s, the same again {one.second_s:.2f} s; "
            f"{one.kernels} kernel file(s) were compiled",
            statement="jit-first-request",
        ),
        Finding(
            "kernel_cache_used",
            "Does a second start find its kernels?",
            cached,
            cache_says,
            "keep the folder of compiled kernels writable, and at the same path (TRITONGUARD_JIT_CACHE)",
            statement="jit-cache",
            wanted=True,
        ),
        Finding(
            "steps_for_one_token",
            "What does one token cost with the overlap scheduler, and without?",
            {name: value for name, (value, _) in steps.items()},
            f"{told}; the faster is {min(ms, key=lambda name: ms[name])} (compile --no-overlap: without)",
            observed={"ms": ms},
            statement="overlap-scheduler",
        ),
    ]


def answers(package: Package, material: Material, probes: Sequence[Probe]) -> list[Finding]:
    """What each probe found; one that breaks is a finding that could not be told, and the next one goes on."""
    found: list[Finding] = []
    for probe in probes:
        try:
            answered = probe(package, material)
        except Exception as error:
            why = f"the probe broke off: {type(error).__name__}: {error}"
            answered = [Finding(probe.__name__, f"({probe.__module__}: {probe.__name__})", None, why)]
        print(*(f"  {one.question} {one.says}" for one in answered), sep="\n", file=sys.stderr, flush=True)
        found += answered
    return found


@contextmanager
def _opened(folder: Path, change: Change = lambda config: config) -> Iterator[tuple[Package, Material, Start]]:
    """The package on the bundle, warmed up. Raises BundleError."""
    material = Material.of(Bundle.open(folder))
    before, kernels, began = origin.free_bytes(), _kernels(), time.monotonic()
    config = change(EngineConfig.read(folder))
    package = Package.open(folder, config)
    try:
        load_s = time.monotonic() - began
        plain, first_s = _warm_up(package, material)
        _, second_s = _warm_up(package, material)
        start = Start(
            evidence=origin.evidence(),
            overlap=not config.disable_overlap_scheduler,
            versions=origin.versions(),
            findings=[],
            load_s=load_s,
            first_s=first_s,
            second_s=second_s,
            kernels=_kernels() - kernels,
            free_bytes=(before, origin.free_bytes()),
            step_counts=[],
            step_s=[],
            plain=plain,
        )
        yield package, material, start
    finally:
        with suppress(TimeoutError):  # then `apart` ends it
            package.close()


def _warm_up(package: Package, material: Material) -> tuple[Result, float]:
    """A verdict, a draft and, where there is a tower, an image, one after another: the reply to the first of them, and
    seconds of all."""
    asks = [Ask(material.verdicts[0]), Ask(material.verdicts[0], max_tokens=DRAFT)]
    if material.bundle.image_size:
        asks.append(Ask(material.image, pixels=material.picture(0)))
    results = [package.ask(ask, patience_s=FIRST_S)[0] for ask in asks]
    return results[0], sum(one.seconds for one in results)


def _other_overlap(config: EngineConfig) -> EngineConfig:
    return replace(config, disable_overlap_scheduler=not config.disable_overlap_scheduler)


def _drafts(package: Package, material: Material) -> list[Result]:
    """Drafts of DRAFT tokens, in batches of each of BATCHES."""
    batches = [[Ask(ids, max_tokens=DRAFT) for ids in material.verdicts[:size]] for size in BATCHES]
    return [one for batch in batches for one in package.ask(*batch)]


def _kernels() -> int:
    """Files in the folder of compiled kernels."""
    return sum(path.is_file() for path in cache_folder(os.environ).rglob("*"))
