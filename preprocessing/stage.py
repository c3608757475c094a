"""The preprocess stage: REQUEST tensors -> MODEL_INPUT and CONTEXT tensors.

A request becomes one prompt for each part of its policy. With images that the bundle can't judge it becomes two:
one with the images, run for real, and one with the texts alone, whose label is given apart.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tritonguard import tensors as wire
from tritonguard.errors import Overloaded, PromptTooLong
from tritonguard.policy_parts import PolicyPart
from tritonguard.request import DEFAULT_THINK_BUDGET, GuardRequest, Mode, from_tensors, refuse_unbuilt

from preprocessing.images import model_pixels, read_images
from preprocessing.policies import PolicyStore, Resolved
from preprocessing.prompt import ModelInput, PromptBuilder


@dataclass(frozen=True)
class _Prompt:
    """mode: of its answer. sees: the images are in it."""

    part: PolicyPart
    mode: Mode
    sees: bool
    built: ModelInput


class PrepareStage:
    """vision: "trained", "untrained" or "none", as the bundle declares it. image_size: pixels of the tower's side.
    done_ns: when the engine could be done with one more request of the lowest priority, ns of the monotonic clock.
    """

    def __init__(
        self,
        builder: PromptBuilder,
        store: PolicyStore,
        *,
        vision: str = "none",
        image_size: int = 0,
        done_ns: Callable[[], int] = lambda: 0,
    ) -> None:
        self._builder = builder
        self._store = store
        self._vision = vision
        self._image_size = image_size
        self._done_ns = done_ns

    def run(self, tensors: Mapping[str, wire.Array]) -> dict[str, wire.Array]:
        """The door of the server: validate, find the policy, read the images, render and tokenise.

        Raises GuardError (InvalidRequest, UnsupportedContract, Unimplemented, InvalidImage, ImageTooLarge,
        PromptTooLong; Overloaded, before the costly part, where the engine's queue would only refuse it).
        """
        began = time.monotonic_ns()
        request = from_tensors(tensors)
        refuse_unbuilt(request)
        deadline_ns = began + round(request.deadline_s * 1e9)
        resolved = self._store.resolve(request)
        keep = self._keep(request, resolved)
        # One of a higher priority may take another's place, which only the queue can tell, and one that was answered
        # before needs none.
        if request.priority == 0 and keep is None and self._done_ns() > deadline_ns:
            raise Overloaded("too many requests are waiting for this deadline")
        image_sha256, pixels = self._images(request)
        prompts = [prompt for part in resolved.parts for prompt in self._prompts(request, part)]
        sees = any(prompt.sees for prompt in prompts)
        has_response = request.response is not None
        floor = resolved.floor
        answer = {
            "has_response": has_response,
            "think_budget": _budget(request),
            "priority": request.priority,
            "prompts": [_described(prompt) for prompt in prompts],
        }
        context = {
            **answer,
            "request_id": request.request_id,
            "policy": resolved.policy.canonical_json(),
            "floor": None if floor is None or floor is resolved.policy else floor.canonical_json(),
            "parts": [part.name for part in resolved.parts],
            "mode": request.mode.value,
            "vision": self._vision if request.images else None,
            "image_sha256": image_sha256,
            "prompt_tokens": sum(len(prompt.built.ids) for prompt in prompts),
            "received_ns": began,
            "preprocess_ms": (time.monotonic_ns() - began) / 1e6,
        }
        return {
            "INPUT_IDS": wire.pack(
                "INPUT_IDS", np.concatenate([np.empty(0, np.int32), *(p.built.ids for p in prompts)])
            ),
            "PROMPT_LENGTHS": wire.pack("PROMPT_LENGTHS", [len(prompt.built.ids) for prompt in prompts]),
            "PREFIX_LENGTHS": wire.pack("PREFIX_LENGTHS", [prompt.built.prefix_length for prompt in prompts]),
            "PIXELS": wire.pack("PIXELS", [pixels if sees else b""]),
            "ANSWER": wire.pack_text("ANSWER", json.dumps({**answer, "cache": keep})),
            "DEADLINE_NS": wire.pack("DEADLINE_NS", [deadline_ns]),
            "CONTEXT": wire.pack_text("CONTEXT", json.dumps(context)),
        }

    def _keep(self, request: GuardRequest, resolved: Resolved) -> dict[str, Any] | None:
        """How long the decode stage may keep the answers, for whom and under what; None: not at all.

        The switch is the policy's that was asked for: a floor has none. What can't be judged is never kept.
        """
        caching = resolved.policy.cache
        if caching is None or (request.images and self._vision != "trained"):
            return None
        return {
            "ttl_s": caching.ttl_s,
            "tenant": request.tenant,
            "policy": resolved.policy.sha256,
            "floor": resolved.floor.sha256 if resolved.floor else None,
        }

    def _prompts(self, request: GuardRequest, part: PolicyPart) -> list[_Prompt]:
        """What is asked under one part. No prompt at all: an image alone, and a bundle without a tower."""
        if not request.images:
            return [self._prompt(request, part, sees=False)]
        texts = request.model_copy(update={"images": ()})
        prompts = [] if self._vision == "none" else [self._prompt(request, part, sees=True)]
        if self._vision != "trained" and request.prompt.strip():
            prompts.append(self._prompt(texts, part, sees=False))
        return prompts

    def _prompt(self, request: GuardRequest, part: PolicyPart, *, sees: bool) -> _Prompt:
        mode = request.mode
        if sees and self._vision == "untrained":
            # Its verdict is all that is run, and only to be called indeterminate.
            mode = Mode.VERDICT
            request = request.model_copy(update={"mode": mode, "think_budget": None})
        built = self._builder.build(request, part)
        if mode is Mode.THINK and len(built.ids) + _budget(request) > self._builder.max_tokens:
            raise PromptTooLong(
                f"prompt and think_budget have {len(built.ids) + _budget(request)} tokens together, "
                f"this server reads at most {self._builder.max_tokens}",
                field="think_budget",
            )
        return _Prompt(part, mode, sees, built)

    def _images(self, request: GuardRequest) -> tuple[list[str], bytes]:
        """SHA-256 of each image's pixels, and all of them at the tower's size. One whole image at a time in memory."""
        hashes: list[str] = []
        pixels: list[bytes] = []
        for image in read_images(request.images):
            hashes.append(image.sha256)
            if self._image_size:
                pixels.append(model_pixels(image, self._image_size).tobytes())
        return hashes, b"".join(pixels)


def _budget(request: GuardRequest) -> int:
    return request.think_budget or DEFAULT_THINK_BUDGET


def _described(prompt: _Prompt) -> dict[str, Any]:
    return {
        "part": prompt.part.name,
        "names": prompt.part.names,
        "mode": prompt.mode.value,
        "sees": prompt.sees,
    }
