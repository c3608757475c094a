"""Child: OpenVINO GenAI's continuous batching with prefix caching, in the peers' environment.

settings: {"model": folder of an export, "scheduler": fields of its SchedulerConfig, "plugin": properties of the CPU
plugin}. One thread adds requests and takes steps, as the pipeline wants it; the workers of the loop are its counters.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.closed_loop import Run, answer_run, closed_loop
from benchmarks.peers.protocol import serve
from benchmarks.peers.question import CHECK, PLAIN, Question, Trick
from benchmarks.peers.w8a8 import inputs_of

GRAPH = "openvino_model.xml"


class GenAi:
    def load(self, message: Mapping[str, Any]) -> dict[str, Any]:
        began = time.perf_counter()
        settings = message["settings"]
        self._genai = importlib.import_module("openvino_genai")
        self._ov = importlib.import_module("openvino")
        scheduler = self._genai.SchedulerConfig()
        for name, value in settings["scheduler"].items():
            if not hasattr(scheduler, name):
                raise ValueError(f"SchedulerConfig has no {name}")
            setattr(scheduler, name, value)
        self._pipeline = self._genai.ContinuousBatchingPipeline(
            settings["model"], scheduler, "CPU", dict(settings["plugin"])
        )
        self._number = 0
        self._graph = Path(settings["model"], GRAPH)
        return {"seconds": time.perf_counter() - began}

    def run(self, message: Mapping[str, Any]) -> dict[str, Any]:
        return answer_run(message, self._check if message["way"] == CHECK else self._loop)

    def _check(self, questions: Sequence[Question], concurrency: int, way: str) -> Run:
        """On the exported graph itself, one at a time: the pipeline shows no logits, and its structured output can't
        be held to two tokens."""
        core = self._ov.Core()
        model = core.read_model(self._graph)
        keep_last_position(model, importlib.import_module("openvino.opset13"))
        request = core.compile_model(model, "CPU").create_infer_request()

        def likelier(question: Question, ids: Sequence[int]) -> int:
            request.reset_state()
            names = {name for port in request.model_inputs for name in port.get_names()}
            given = inputs_of(list(ids))
            request.infer({name: given[name] for name in names & given.keys()})
            logits = request.get_tensor("logits").data[0, -1]
            return question.safe if logits[question.safe] > logits[question.unsafe] else question.unsafe

        def answer(question: Question) -> Sequence[int]:
            return Trick(question).answered(lambda ids: likelier(question, ids))

        return closed_loop(questions, 1, answer)

    def _loop(self, questions: Sequence[Question], concurrency: int, way: str) -> Run:
        ms = [0.0] * len(questions)
        answers: list[Sequence[int]] = [()] * len(questions)
        waiting = iter(enumerate(questions))
        began = time.perf_counter()
        running: list[_Asked] = []
        while True:
            while len(running) < concurrency and (following := next(waiting, None)) is not None:
                running.append(_Asked(following[0], following[1], way, time.perf_counter()))
                self._add(running[-1])
            if not running:
                return Run(ms, time.perf_counter() - began, answers)
            self._pipeline.step()
            for asked in [each for each in running if each.is_answered()]:
                if asked.goes_on():
                    self._add(asked)
                    continue
                ms[asked.number] = (time.perf_counter() - asked.began) * 1e3
                answers[asked.number] = asked.answer
                running.remove(asked)

    def _add(self, asked: _Asked) -> None:
        config = self._genai.GenerationConfig()
        config.max_new_tokens = asked.most
        config.do_sample = False
        config.ignore_eos = True
        self._number += 1
        ids = np.array([asked.prompt], np.int64)
        asked.handle = self._pipeline.add_request(self._number, self._ov.Tensor(ids), config)


class _Asked:
    """A question under way. began: seconds of the performance counter."""

    def __init__(self, number: int, question: Question, way: str, began: float) -> None:
        self.number, self.question, self.began = number, question, began
        self._trick = None if way == PLAIN else Trick(question)
        self.most = question.tokens if way == PLAIN else 1
        self.answer: list[int] = []
        self.handle: Any = None

    @property
    def prompt(self) -> Sequence[int]:
        if self._trick is None:
            return self.question.ids
        assert self._trick.prompt is not None
        return self._trick.prompt

    def is_answered(self) -> bool:
        return "FINISHED" in str(self.handle.get_status())

    def goes_on(self) -> bool:
        """Takes what came; True where the trick has another step."""
        (output,) = self.handle.read_all()
        self.answer += output.generated_ids
        if self._trick is None:
            return False
        self._trick.said(output.generated_ids[0])
        return self._trick.prompt is not None


def keep_last_position(model: Any, ops: Any) -> None:
    """The graph computes the logits of its last position alone, instead of 262,144 of each. ops: OpenVINO's."""
    product = model.output("logits").get_node()
    while product.get_type_name() != "MatMul":
        product = product.input_value(0).get_node()
    last = ops.gather(product.input_value(0), np.array([-1]), np.array(1))
    product.input(0).replace_source_output(last.output(0))


if __name__ == "__main__":
    genai = GenAi()
    serve({"load": genai.load, "run": genai.run})
