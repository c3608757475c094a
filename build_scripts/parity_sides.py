"""Deployments to compare: a bundle on its own engine, a guard server over gRPC; an OpenAI endpoint has its own module.

build/bundle                         a bundle folder, its engine in this process
grpc://HOST:PORT                     our server
openai+http://HOST:PORT/v1#MODEL     vLLM, NIM or another chat-completions endpoint (openai+https:// too)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tritonguard.errors import GuardError
from tritonguard.guard import Guard
from tritonguard.judgement import read_answer
from tritonguard.request import DEFAULT_THINK_BUDGET, Mode
from tritonguard.taxonomy import TAXONOMY_VERSION
from tritonguard.verdict import Verdict

from build_scripts.parity_corpus import Row
from build_scripts.parity_openai import OpenAiSide, is_openai
from build_scripts.parity_reading import (
    EXACT_MARGINS,
    PROBABILITY_MARGINS,
    Reading,
    Side,
    SideError,
    margin_of_probability,
    margins_of_logprobs,
    of_label,
)
from engines.bundle import Bundle, open_engine
from engines.program import Program, program_for
from engines.protocol import Answer, Engine, Job
from preprocessing.prompt import PromptBuilder

GRPC = "grpc://"


def open_side(target: str, *, deadline_s: float, width: int, api_key: str | None = None) -> Side:
    """The deployment that `target` names (see above). width: most requests in flight to a server.

    Raises SideError, BundleError, or InvalidRequest for an endpoint that is none.
    """
    if target.startswith(GRPC):
        return GuardSide(Guard(target.removeprefix(GRPC), deadline_s=deadline_s), target, deadline_s, width)
    if is_openai(target):
        return OpenAiSide(target, deadline_s=deadline_s, width=width, api_key=api_key)
    if "://" in target:
        raise SideError("a side is a bundle folder, grpc://HOST:PORT or openai+http(s)://HOST:PORT/v1#MODEL")
    return BundleSide.load(Path(target))


class BundleSide:
    """A bundle's engine, without a server. All rows of a call ride in one batch, and each waits for the whole."""

    margin_limit = EXACT_MARGINS

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self._bundle = bundle
        self._engine = engine
        self._builder = PromptBuilder(bundle.folder, max_tokens=bundle.capabilities.max_tokens)
        self._programs: dict[tuple[Mode, bool, tuple[str, ...] | None], Program] = {}

    @classmethod
    def load(cls, folder: Path) -> BundleSide:
        """Raises BundleError: no bundle, changed files, another target."""
        bundle = Bundle.open(folder)
        return cls(bundle, open_engine(bundle))

    @property
    def name(self) -> str:
        return self._bundle.folder.name

    @property
    def taxonomy(self) -> str | None:
        """As the manifest says; a manifest that says nothing is of the release's own taxonomy."""
        return str(self._bundle.manifest.get("taxonomy", TAXONOMY_VERSION))

    def describe(self) -> dict[str, str | None]:
        return {
            "kind": "bundle",
            "target": self._bundle.target,
            "precision": self._bundle.precision,
            "bundle_revision": self._bundle.revision,
            "model_revision": self._bundle.model_revision,
        }

    def prompt_ids(self, row: Row) -> tuple[tuple[int, ...], int] | None:
        """None where the bundle refuses the row: reading it says why."""
        try:
            built = self._builder.build(row.request, row.part)
        except GuardError:
            return None
        return tuple(built.ids.tolist()), built.prefix_length

    def read(self, rows: Sequence[Row]) -> list[Reading]:
        jobs: dict[int, Job] = {}
        readings: dict[int, Reading] = {}
        began = time.perf_counter()
        for index, row in enumerate(rows):
            try:
                built = self._builder.build(row.request, row.part)
                jobs[index] = Job(built.ids, built.prefix_length, self._program(row))
            except GuardError as error:
                readings[index] = Reading(None, error=error.kind)
        answers = self._answers(list(jobs.values()))
        ms = (time.perf_counter() - began) * 1e3
        for index, answer in zip(jobs, answers, strict=True):
            readings[index] = self._reading(rows[index], answer, len(jobs[index].ids), ms)
        return [readings[index] for index in range(len(rows))]

    def _answers(self, jobs: list[Job]) -> Sequence[Answer | GuardError | Exception]:
        if not jobs:
            return []
        try:
            return self._engine.run(jobs)
        except Exception as error:  # a broken engine refuses its rows; the comparison still says so of every one
            return [error] * len(jobs)

    def _reading(self, row: Row, answer: Answer | Exception, prompt_tokens: int, ms: float) -> Reading:
        if not isinstance(answer, Answer):
            kind = answer.kind if isinstance(answer, GuardError) else type(answer).__name__
            return Reading(None, ms=ms, prompt_tokens=prompt_tokens, error=kind)
        label = read_answer(
            answer.choice_logprobs,
            self._builder.decode_text(answer.ids),
            mode=row.mode,
            has_response=row.has_response,
            names=row.part.names,
            reasoning_source=self._bundle.reasoning_source,
            truncated=answer.truncated,
        )
        return of_label(label, margins_of_logprobs(answer.choice_logprobs), ms=ms, prompt_tokens=prompt_tokens)

    def _program(self, row: Row) -> Program:
        key = (row.mode, row.has_response, row.part.names)
        if key not in self._programs:
            self._programs[key] = program_for(
                row.mode,
                has_response=row.has_response,
                encode=self._builder.encode_text,
                end=self._builder.end_of_turn,
                names=row.part.names,
                think_budget=row.request.think_budget or DEFAULT_THINK_BUDGET,
                marks=self._builder.mark_ids,
            )
        return self._programs[key]

    def close(self) -> None:
        pass


class GuardSide:
    """Our server. Its verdicts carry probabilities as FP32, so margins are held within +-PROBABILITY_MARGINS."""

    margin_limit = PROBABILITY_MARGINS
    taxonomy: str | None = TAXONOMY_VERSION  # the contract's, and the contract's version travels with each request

    def __init__(self, guard: Guard, name: str, deadline_s: float, width: int) -> None:
        self._guard = guard
        self._deadline_s = deadline_s
        self._pool = ThreadPoolExecutor(width, thread_name_prefix="parity")
        self._seen: dict[str, str | None] = {"kind": "grpc"}
        self.name = name

    def describe(self) -> dict[str, str | None]:
        """Revisions are known from the first verdict on."""
        return dict(self._seen)

    def prompt_ids(self, row: Row) -> tuple[tuple[int, ...], int] | None:
        return None

    def read(self, rows: Sequence[Row]) -> list[Reading]:
        return list(self._pool.map(self._read, rows))

    def _read(self, row: Row) -> Reading:
        began = time.perf_counter()
        try:
            verdict = self._guard.check_request(row.request.model_copy(update={"deadline_s": self._deadline_s}))
        except GuardError as error:
            return Reading(None, ms=(time.perf_counter() - began) * 1e3, error=error.kind)
        return self._reading(row, verdict, (time.perf_counter() - began) * 1e3)

    def _reading(self, row: Row, verdict: Verdict, ms: float) -> Reading:
        record, label = verdict.record, verdict.label
        if record.model_revision is None:
            return Reading(None, ms=ms, error="no answer")  # `on_error` stood in for a server
        if record.judged != (row.part.name,):
            return Reading(None, ms=ms, error="the server judged other parts of the policy")
        seen = {
            "kind": "grpc",
            "target": record.engine,
            "precision": record.precision,
            "bundle_revision": record.bundle_revision,
            "model_revision": record.model_revision,
        }
        if self._seen.setdefault("bundle_revision", record.bundle_revision) != record.bundle_revision:
            return Reading(None, ms=ms, error="the server changed its bundle during the run")
        self._seen.update(seen)
        margins = [margin_of_probability(p) for _, _, p in label.sides if p is not None]
        return of_label(label, margins, ms=ms, prompt_tokens=record.prompt_tokens)

    def close(self) -> None:
        self._pool.shutdown()
        self._guard.close()
