"""The requests of a workload, drawn with its seed: each measurement asks the same ones, but for their images."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image
from tritonguard.errors import InvalidRequest
from tritonguard.policy import CustomCategory, Policy
from tritonguard.request import GuardRequest, Mode

from benchmarks.latency.texts import LengthDraw, Text, Texts, ruler_of
from benchmarks.latency.workload import Workload
from build_scripts.parity_corpus import Row

_GRID = 24
T = TypeVar("T")


@dataclass(frozen=True)
class Planned:
    """key: of all that decides the verdict, without a word of it. kind: for tables. known: is the user's text unsafe,
    is the response; None where nobody said."""

    request: GuardRequest
    key: str
    kind: str
    language: str
    known: tuple[bool | None, bool | None]


class Mix:
    """What a workload asks of texts. folder: of the workload's file, for what it names.

    Raises InvalidRequest for a language or a response that the texts have none of.
    """

    def __init__(self, workload: Workload, texts: Texts, *, tokenizer: Path | None, folder: Path) -> None:
        self.workload = workload
        self._texts = texts
        self._ruler = ruler_of(workload.length, tokenizer)
        self._response_ruler = ruler_of(workload.response_length, tokenizer)
        self._length = LengthDraw(workload.length, self._ruler, folder)
        self._response_length = LengthDraw(workload.response_length, self._response_ruler, folder)
        self._rows = texts.by_language(response=False)
        self._pairs = texts.by_language(response=True)
        self._languages = workload.languages or {language: len(rows) for language, rows in self._rows.items()}
        self._policies = _policies(workload)
        asked = {language for language, weight in self._languages.items() if weight > 0}
        _refuse_missing(asked, self._rows, "text")
        if workload.responses > 0:
            _refuse_missing(asked, self._pairs, "response")

    def stream(self, name: str) -> Iterator[Planned]:
        """Requests without end. Their texts, lengths, modes and policies are those of the seed alone; images also
        depend on `name`, so that none that is distinct was seen by another measurement."""
        generator = random.Random(f"{self.workload.seed}")
        pictures: list[bytes] = []
        while True:
            yield self._planned(generator, pictures, name)

    def one_of_each_policy(self) -> Iterator[Planned]:
        """For warming up."""
        generator = random.Random(f"{self.workload.seed} policies")
        for policy, weight in self._policies.items():
            if weight > 0:
                yield self._request(generator, policy, Mode.VERDICT, response=False, images=())

    def _planned(self, generator: random.Random, pictures: list[bytes], name: str) -> Planned:
        workload = self.workload
        policy = _weighted(generator, self._policies)
        mode = _weighted(generator, workload.modes)
        response = generator.random() < workload.responses
        with_image, repeated = generator.random() < workload.images.share, generator.random() < workload.images.repeated
        images: tuple[bytes, ...] = ()
        if with_image:
            if not (repeated and pictures):
                pictures.append(picture(f"{workload.seed} {name} {len(pictures)}", workload.images.side))
                images = (pictures[-1],)
            else:
                images = (generator.choice(pictures),)
        return self._request(generator, policy, mode, response=response, images=images)

    def _request(
        self,
        generator: random.Random,
        policy: Policy | str,
        mode: Mode,
        *,
        response: bool,
        images: tuple[bytes, ...],
    ) -> Planned:
        language = _weighted(generator, self._languages)
        row = generator.choice((self._pairs if response else self._rows)[language])
        prompt, answer = self._sides(generator, row, response=response)
        named = isinstance(policy, str)
        request = GuardRequest(
            prompt=prompt.text,
            response=None if answer is None else answer.text,
            images=images,
            policy=Policy() if isinstance(policy, str) else policy,
            policy_name=policy if isinstance(policy, str) else None,
            mode=mode,
            think_budget=self.workload.think_budget if mode is Mode.THINK else None,
            deadline_s=self.workload.deadline_s,
        )
        # What an authored text is was said under the built-in policy, and of texts alone.
        labelled = not named and policy == Policy() and not images
        known = (prompt.known, None if answer is None else answer.known) if labelled else (None, None)
        kind = "+".join([mode.value, *(["response"] if answer else []), *(["image"] if images else [])])
        return Planned(request, key_of(request), kind, language, known)

    def _sides(self, generator: random.Random, row: Row, *, response: bool) -> tuple[Text, Text | None]:
        texts, language = self._texts, row.language
        own = Text(row.request.prompt, row.known[0])
        prompt = texts.of_length(own, language, self._length.draw(generator), self._ruler, generator)
        if not response or row.request.response is None:
            return prompt, None
        size = self._response_length.draw(generator)
        answer = Text(row.request.response, row.known[1])
        return prompt, texts.of_length(answer, language, size, self._response_ruler, generator)


def key_of(request: GuardRequest) -> str:
    """SHA-256, 32 hexadecimal digits, of what decides the verdict: equal for equal requests in every run."""
    parts = [
        request.prompt,
        request.response,
        [hashlib.sha256(image).hexdigest() for image in request.images],
        request.policy_name or request.policy.sha256,
        request.mode.value,
        request.think_budget,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def picture(seed: str, side: int) -> bytes:
    """A JPEG of soft colours, another one for each seed."""
    colours = random.Random(seed).randbytes(_GRID * _GRID * 3)
    file = io.BytesIO()
    Image.frombytes("RGB", (_GRID, _GRID), colours).resize((side, side)).save(file, "JPEG", quality=85)
    return file.getvalue()


def _refuse_missing(asked: set[str], there: Mapping[str, list[Row]], what: str) -> None:
    missing = sorted(asked - set(there))
    if missing or not asked:
        raise InvalidRequest(f"the texts have no {what} in: {', '.join(missing) or 'any language'}", field="languages")


def _policies(workload: Workload) -> dict[Policy | str, float]:
    """Weights of the policies themselves and, as text, of the named ones."""
    asked = workload.policies
    policies: dict[Policy | str, float] = {Policy(): asked.built_in}
    policies.update(asked.named)
    for number in range(asked.custom_count if asked.custom > 0 else 0):
        subject = CustomCategory(name=f"Subject {number}", definition=f"what the house rule number {number} forbids")
        policies[Policy(name=f"custom-{number}", inject=(subject,))] = asked.custom / asked.custom_count
    return policies


def _weighted(generator: random.Random, weights: Mapping[T, float]) -> T:
    (drawn,) = generator.choices(list(weights), list(weights.values()))
    return drawn
