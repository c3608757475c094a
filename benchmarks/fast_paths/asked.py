"""The requests of a workload as the engine's jobs: one for each part of a request's policy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np
import numpy.typing as npt
from tritonguard.errors import PromptTooLong
from tritonguard.policy_parts import PolicyPart
from tritonguard.request import DEFAULT_THINK_BUDGET, GuardRequest, Mode

from benchmarks.chaos.server import ROOT
from benchmarks.latency.mix import Mix, Planned
from build_scripts.parity_corpus import Row
from engines.bundle import Bundle
from engines.program import CATEGORIES_HEAD, Program, program_for
from engines.protocol import Job
from preprocessing.images import model_pixels, read_images
from preprocessing.policies import PolicyStore
from preprocessing.prompt import PromptBuilder


@dataclass(frozen=True)
class Asked:
    """One prompt. id: SHA-256 of all that decides the answer: equal in every run. policy: how it is written."""

    id: str
    row: Row
    job: Job
    kind: str
    policy: str


@dataclass(frozen=True)
class Request:
    """What goes to the scheduler together: a prompt for each part of the policy. priority: 0, or 1 for some."""

    parts: tuple[Asked, ...]
    priority: int = 0


class Asking:
    """Makes jobs with a bundle's tokenizer and template."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleError for a folder whose files don't fit together."""
        self.builder = PromptBuilder(bundle.folder, max_tokens=bundle.capabilities.max_tokens)
        self._image_size = bundle.image_size
        self._store = PolicyStore(ROOT / "policies", allow_callers=True)
        self._program = lru_cache(maxsize=None)(self._compute_program)

    def requests(self, mix: Mix, count: int) -> list[Request]:
        """The first `count` of a workload that the bundle reads; those that are too long for it are passed over.

        Images are left out where it has no tower.
        """
        return list(islice((request for one in mix.stream("fast-paths") if (request := self._request(one))), count))

    def list_of(self, ids: tuple[int, ...]) -> str:
        """The text of an answer's category list; empty where it has none."""
        return self.builder.decode_text(ids).partition(CATEGORIES_HEAD)[2]

    def _request(self, planned: Planned) -> Request | None:
        request = planned.request
        if request.images and not self._image_size:
            request = request.model_copy(update={"images": ()})
        try:
            parts = tuple(self._parts(planned, request))
        except PromptTooLong:
            return None
        return Request(parts, priority=int(planned.key[0] == "0"))

    def _parts(self, planned: Planned, request: GuardRequest) -> Iterator[Asked]:
        pixels = self._pixels(request)
        for part in self._store.resolve(request).parts:
            built = self.builder.build(request, part)
            budget = request.think_budget or DEFAULT_THINK_BUDGET
            shape = (request.mode, request.response is not None, part.names, budget)
            job = Job(built.ids, built.prefix_length, self._program(*shape), pixels)
            id = hashlib.sha256(json.dumps(shape).encode() + job.ids.tobytes())
            id.update(b"" if pixels is None else pixels.tobytes())
            row = Row(id.hexdigest(), request, part, planned.language, planned.known)
            yield Asked(row.id, row, job, planned.kind, form_of(part))

    def _pixels(self, request: GuardRequest) -> npt.NDArray[np.uint8] | None:
        if not request.images:
            return None
        return np.stack([model_pixels(image, self._image_size) for image in read_images(request.images)])

    def _compute_program(
        self, mode: Mode, has_response: bool, names: tuple[str, ...] | None, think_budget: int
    ) -> Program:
        return program_for(
            mode,
            has_response=has_response,
            encode=self.builder.encode_text,
            end=self.builder.end_of_turn,
            names=names,
            think_budget=think_budget,
            marks=self.builder.mark_ids if mode is Mode.THINK else frozenset(),
        )


def form_of(part: PolicyPart) -> str:
    """How the model is told the policy: "built-in", "list" or "free text"."""
    if part.custom_policy is not None:
        return "free text"
    return "built-in" if part.custom_taxonomy is None else "list"
