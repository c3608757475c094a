"""Child: llama.cpp's own server on loopback, asked with token ids, in the peers' environment.

settings: {"server": path of llama-server, "model": GGUF file, "arguments": of the server}. What HTTP adds to a request
is about a millisecond.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.peers.closed_loop import Run, answer_run, closed_loop
from benchmarks.peers.protocol import serve
from benchmarks.peers.question import CHECK, PLAIN, TRICK, Question, Trick

START_S = 120.0
_HOST = "127.0.0.1"
_FAR = 1000.0
"""Added to the logits of the options: more than any other has."""


class Llama:
    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._own = threading.local()

    def load(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Raises RuntimeError: the server ended, or is not there in time."""
        began = time.perf_counter()
        settings = message["settings"]
        self._port = free_port()
        command = [settings["server"], "--model", settings["model"], "--host", _HOST, "--port", str(self._port)]
        self._server = subprocess.Popen([*command, *settings["arguments"]], stdout=sys.stderr)
        while not self._is_ready():
            if self._server.poll() is not None:
                raise RuntimeError(f"llama-server ended with status {self._server.returncode}")
            if time.perf_counter() - began > START_S:
                raise RuntimeError(f"llama-server was not ready in {START_S:.0f} s")
            time.sleep(0.1)
        return {"seconds": time.perf_counter() - began}

    def run(self, message: Mapping[str, Any]) -> dict[str, Any]:
        def run(questions: Sequence[Question], concurrency: int, way: str) -> Run:
            ways = {PLAIN: self._plain, TRICK: self._trick, CHECK: self._check}
            return closed_loop(questions, concurrency, ways[way])

        return answer_run(message, run)

    def close(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait()

    def _plain(self, question: Question) -> Sequence[int]:
        return self._complete(question.ids, question.tokens)

    def _trick(self, question: Question) -> Sequence[int]:
        return Trick(question).answered(lambda ids: self._complete(ids, 1)[0])

    def _check(self, question: Question) -> Sequence[int]:
        favoured = [[id, _FAR] for id in (question.safe, question.unsafe)]
        return Trick(question).answered(lambda ids: self._complete(ids, 1, logit_bias=favoured)[0])

    def _complete(self, ids: Sequence[int], count: int, **more: Any) -> Sequence[int]:
        """The likeliest tokens behind the ids. Raises RuntimeError for an error of the server."""
        asked = {
            "prompt": list(ids),
            "n_predict": count,
            "ignore_eos": True,
            "temperature": 0.0,
            "top_k": 1,
            "samplers": ["top_k"],
            "cache_prompt": True,
            "return_tokens": True,
            **more,
        }
        status, answer = self._post("/completion", asked)
        if status != 200:
            raise RuntimeError(f"llama-server answered {status}: {answer}")
        tokens: list[int] = answer["tokens"]
        return tokens

    def _post(self, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        """On this thread's own connection, which is kept."""
        if not hasattr(self._own, "connection"):
            self._own.connection = http.client.HTTPConnection(_HOST, self._port, timeout=600)
        self._own.connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = self._own.connection.getresponse()
        return response.status, json.loads(response.read())

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection(_HOST, self._port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind((_HOST, 0))
        port: int = listening.getsockname()[1]
        return port


if __name__ == "__main__":
    llama = Llama()
    try:
        serve({"load": llama.load, "run": llama.run})
    finally:
        llama.close()
