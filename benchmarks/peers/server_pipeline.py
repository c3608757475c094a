"""Inside the peer's Triton: OpenVINO GenAI's continuous batching, in the serving environment.

Triton's Python backend needs numpy 1, the peers' environment has numpy 2. Both have the same OpenVINO, so GenAI's two
packages alone are put beside the serving environment's own (`packages`), and this process reads them from there.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

VARIABLE = "TRITONGUARD_PEER"
"""JSON of what GenAi's `load` takes as settings, with "packages": the folder of GenAI's own."""
ROOT = Path(__file__).parents[2]

Done = Callable[[list[int] | Exception], None]


@dataclass(eq=False)
class _Asked:
    ids: Sequence[int]
    count: int
    done: Done
    handle: Any = None


class Pipeline:
    """Adds requests and takes steps in one thread, as the pipeline wants it. Thread-safe."""

    def __init__(self, engine: Any, genai: Any, tensor: Callable[[Any], Any]) -> None:
        """engine: a ContinuousBatchingPipeline. genai: its module. tensor: from an array."""
        self._engine, self._genai, self._tensor = engine, genai, tensor
        self._new: list[_Asked] = []
        self._closed = False
        self._changed = threading.Condition()
        self._number = 0
        self._thread = threading.Thread(target=self._work, name="steps", daemon=True)
        self._thread.start()

    @classmethod
    def of_environment(cls) -> Pipeline:
        """As VARIABLE says. Raises ValueError for a field that SchedulerConfig has not."""
        settings = json.loads(os.environ[VARIABLE])
        sys.path.append(settings["packages"])
        genai, openvino = importlib.import_module("openvino_genai"), importlib.import_module("openvino")
        scheduler = genai.SchedulerConfig()
        for name, value in settings["scheduler"].items():
            if not hasattr(scheduler, name):
                raise ValueError(f"SchedulerConfig has no {name}")
            setattr(scheduler, name, value)
        engine = genai.ContinuousBatchingPipeline(settings["model"], scheduler, "CPU", dict(settings["plugin"]))
        return cls(engine, genai, openvino.Tensor)

    def submit(self, ids: Sequence[int], count: int, done: Done) -> None:
        """Write so many tokens, the likeliest each time, whatever they are. `done` is called once, from the pipeline's
        thread, with them or with what went wrong."""
        with self._changed:
            self._new.append(_Asked(ids, count, done))
            self._changed.notify()

    def close(self) -> None:
        """Finish what is here."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        running: list[_Asked] = []
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._new or self._closed or running)
                if self._closed and not self._new and not running:
                    return
                new, self._new = self._new, []
            try:
                for asked in new:
                    self._add(asked)
                    running.append(asked)
                self._engine.step()
                ended = [asked for asked in running if "FINISHED" in str(asked.handle.get_status())]
                answers = [list(asked.handle.read_all()[0].generated_ids) for asked in ended]
            except Exception as error:
                # A pipeline that failed once answers nothing any more: everybody is told, and waits no longer.
                for asked in {*new, *running}:
                    asked.done(error)
                running.clear()
                continue
            for asked, said in zip(ended, answers, strict=True):
                running.remove(asked)
                asked.done(said)

    def _add(self, asked: _Asked) -> None:
        config = self._genai.GenerationConfig()
        config.max_new_tokens = asked.count
        config.do_sample = False
        config.ignore_eos = True
        self._number += 1
        asked.handle = self._engine.add_request(self._number, self._tensor(np.array([asked.ids], np.int64)), config)


def installed(folder: Path, pinned: Path = ROOT / "locks" / "peers.in") -> Path:
    """The folder with GenAI's packages in the versions of the peers' environment, installed where they are not there.

    Raises CalledProcessError.
    """
    lines = [line.strip() for line in pinned.read_text().splitlines()]
    wanted = [line for line in lines if line.startswith(("openvino-genai==", "openvino-tokenizers=="))]
    noted = folder / "installed.json"
    if not noted.is_file() or json.loads(noted.read_text()) != wanted:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--upgrade"]
        subprocess.run([*pip, "--no-deps", "--target", str(folder), *wanted], check=True, stdout=sys.stderr)
        noted.write_text(json.dumps(wanted))
    return folder
