"""The plain path's answers, kept in a file of JSON lines: a run that was ended goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fast_paths.asked import Asked
from benchmarks.fast_paths.plain import Graphs, plain_answer
from benchmarks.served import followed, whole_lines
from engines.protocol import Answer


class PlainAnswers:
    """By the prompt's id. bundle: revision of the bundle that answers now; what another one answered stays in the file
    and is asked again. No text is in the file, but the ids of what the model wrote are."""

    def __init__(self, path: Path | None, *, bundle: str) -> None:
        self._path = path
        self._bundle = bundle
        self._known: dict[str, Answer] = {}
        for line in whole_lines(path) if path is not None else ():
            values: dict[str, Any] = json.loads(line)
            if values["bundle"] == bundle:
                self._known[values["id"]] = _answer(values)

    def __getitem__(self, id: str) -> Answer:
        return self._known[id]

    def complete(self, graphs: Graphs, asked: Iterable[Asked]) -> None:
        """Answer what is not known yet, one after the other."""
        every = {one.id: one for one in asked}
        left = [one for id, one in every.items() if id not in self._known]
        for one in followed(left, total=len(left), title=f"plain path ({len(every) - len(left)} known)"):
            self._keep(one.id, plain_answer(graphs, one.job))

    def _keep(self, id: str, answer: Answer) -> None:
        self._known[id] = answer
        if self._path is None:
            return
        values = {
            "id": id,
            "bundle": self._bundle,
            # As Python floats: JSON then gives back the same FP32.
            "logprobs": answer.choice_logprobs.astype(np.float64).tolist(),
            "ids": answer.ids,
            "truncated": answer.truncated,
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def _answer(values: dict[str, Any]) -> Answer:
    logprobs = np.array(values["logprobs"], np.float32)
    return Answer(logprobs, tuple(values["ids"]), 0, values["truncated"])
