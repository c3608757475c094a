"""What an engine said to the prompts of one request, and the labels that are in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonguard.errors import InternalError
from tritonguard.judgement import read_answer
from tritonguard.label import Label
from tritonguard.request import Mode


@dataclass(frozen=True)
class Answers:
    """One for each prompt, in order; the fields are those of `protocol.Answer`.

    choice_logprobs: float32 [choices of all prompts, 2]. texts: UTF-8.
    """

    choice_logprobs: npt.NDArray[np.float32]
    texts: tuple[bytes, ...]
    truncated: tuple[bool, ...]
    bounded: tuple[bool, ...]

    def labels(self, asked: Mapping[str, Any], *, reasoning_source: str) -> list[Label]:
        """The label of each prompt. asked: the JSON of ANSWER, or of CONTEXT, which says the same of the prompts.

        Raises InternalError where there is not one answer for each.
        """
        has_response, prompts = asked["has_response"], asked["prompts"]
        choices = 2 if has_response else 1
        told = [len(self.choice_logprobs) / choices, len(self.texts), len(self.truncated), len(self.bounded)]
        if any(count != len(prompts) for count in told):
            raise InternalError("there is not one answer for each prompt")
        return [
            read_answer(
                self.choice_logprobs[index * choices : (index + 1) * choices],
                text.decode("utf-8"),
                mode=Mode(prompt["mode"]),
                has_response=has_response,
                names=prompt["names"],
                reasoning_source=reasoning_source,
                truncated=truncated,
                bounded=bounded,
            )
            for index, (prompt, text, truncated, bounded) in enumerate(
                zip(prompts, self.texts, self.truncated, self.bounded, strict=True)
            )
        ]
