"""What is asked on the day: the shipped examples as jobs for the engine, and the ids behind them for the package."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from tritonguard.examples import EXAMPLES, PROMPTS
from tritonguard.policy_parts import BUILT_IN
from tritonguard.request import Mode

from engines.bundle import Bundle
from engines.program import Choice, Forced, program_for
from engines.protocol import Job
from engines.tensorrt_llm.engine_config import EngineConfig
from preprocessing.prompt import PromptBuilder, template_arguments

THINK_BUDGET = 64
KINDS = ("verdict", "pair", "image", "categories", "think")


@dataclass(frozen=True)
class Material:
    """Of one bundle. Everything here is text of this release's examples: nothing of a user's is ever recorded."""

    bundle: Bundle
    builder: PromptBuilder

    @classmethod
    def of(cls, bundle: Bundle) -> Material:
        """Raises BundleError."""
        return cls(bundle, PromptBuilder(bundle.folder, max_tokens=bundle.capabilities.max_tokens))

    def jobs(self, kind: str) -> list[Job]:
        """Of one of KINDS, each from another text."""
        if kind == "pair":
            pairs = [one for one in EXAMPLES if one.response and one.mode is Mode.VERDICT and one.policy is None]
            return [self._job(one.prompt, one.response, Mode.VERDICT) for one in pairs]
        mode = {"categories": Mode.CATEGORIES, "think": Mode.THINK}.get(kind, Mode.VERDICT)
        jobs = [self._job(one.prompt, None, mode, images=int(kind == "image")) for one in PROMPTS]
        if kind != "image":
            return jobs
        return [replace(job, pixels=self.picture(number)) for number, job in enumerate(jobs)]

    def picture(self, seed: int) -> npt.NDArray[np.uint8]:
        """uint8 [1, size, size, 3]: squares of random colours, another picture for another seed."""
        size = self.bundle.image_size
        squares = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        index = np.arange(size) * 8 // size
        return np.ascontiguousarray(squares[index][:, index][None])

    @cached_property
    def verdicts(self) -> list[tuple[int, ...]]:
        """Prompt and forced head of each plain example: the next token is the choice."""
        return [_headed(job) for job in self.jobs("verdict")]

    @cached_property
    def pair(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Prompt and forced head of an exchange; and the forced ids between its two choices."""
        job = self.jobs("pair")[0]
        heads = [segment.ids for segment in job.program.segments if isinstance(segment, Forced)]
        return _headed(job), heads[1]

    @cached_property
    def image(self) -> tuple[int, ...]:
        """Prompt with the block of an image, and the forced head."""
        return _headed(self._job(PROMPTS[0].prompt, None, Mode.VERDICT, images=1))

    @cached_property
    def open_end(self) -> tuple[int, ...]:
        """A text broken off in its middle, without the template: many tokens could come next."""
        words = self.builder.encode_text(PROMPTS[0].prompt)
        return (self.verdicts[0][0], *words[: len(words) // 2])

    def long(self, length: int) -> tuple[int, ...]:
        """A prompt of exactly `length` ids, made of an example's over and over."""
        first, *rest = self.verdicts[0]
        return (first, *(rest or [first]) * length)[:length]

    @property
    def limit(self) -> int:
        """max_num_tokens and max_seq_len of the engine."""
        return EngineConfig.read(self.bundle.folder).max_seq_len

    @property
    def end_of_turn(self) -> int:
        return self.builder.end_of_turn

    @property
    def choice(self) -> Choice:
        return self.jobs("verdict")[0].program.choices[0]

    def _job(self, prompt: str, response: str | None, mode: Mode, *, images: int = 0) -> Job:
        ids = self.builder.tokens(prompt, response, template_arguments(mode, BUILT_IN), images=images)
        program = program_for(
            mode,
            has_response=response is not None,
            encode=self.builder.encode_text,
            end=self.end_of_turn,
            think_budget=THINK_BUDGET,
            marks=self.builder.mark_ids if mode is Mode.THINK else frozenset(),
        )
        return Job(np.asarray(ids, np.int32), 0, program)


def _headed(job: Job) -> tuple[int, ...]:
    head = job.program.segments[0]
    assert isinstance(head, Forced)
    return (*job.ids.tolist(), *head.ids)
