"""A child process that answers a JSON object a line, whatever else it prints."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.peers.exports import Exports
from benchmarks.peers.pool import Children, key_of
from benchmarks.peers.protocol import Child, PeerError
from benchmarks.peers.question import PLAIN, Question
from benchmarks.peers.roster import Peer

CHILD = """
import os
from benchmarks.peers.closed_loop import answer_run, closed_loop
from benchmarks.peers.protocol import serve

def load(message):
    print("an engine's own words")
    if message["settings"].get("broken"):
        raise ValueError("no such weights")
    return {"seconds": 0.0}

def run(message):
    return answer_run(message, lambda asked, concurrency, way: closed_loop(asked, concurrency, lambda one: one.ids[:1]))

def die(message):
    os.write(2, b"out of memory\\n")
    os._exit(3)

serve({"load": load, "run": run, "die": die})
"""
QUESTION = Question((7, 8), 1, ((11,),), 1, 2, 5, "verdict")


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    started = Child([sys.executable, "-c", CHILD], tmp_path / "child.log")
    yield started
    started.close()


def test_answers_come_back_and_the_engines_words_go_to_the_log(child: Child) -> None:
    assert child.ask("load", settings={}) == {"seconds": 0.0}
    answer = child.ask("run", questions=[QUESTION.written()] * 3, concurrency=2, way=PLAIN)
    assert answer["answers"] == [[7]] * 3
    assert len(answer["ms"]) == 3
    child.close()
    assert "an engine's own words" in child.log.read_text()


def test_an_error_is_an_answer_and_the_child_goes_on(child: Child) -> None:
    with pytest.raises(PeerError, match="ValueError: no such weights"):
        child.ask("load", settings={"broken": True})
    assert child.ask("load", settings={}) == {"seconds": 0.0}


def test_a_child_that_dies_is_told_with_its_last_words(child: Child) -> None:
    with pytest.raises(PeerError, match=r"(?s)status 3.*out of memory"):
        child.ask("die")
    with pytest.raises(PeerError, match="status 3"):
        child.ask("load", settings={})


def test_a_child_is_kept_for_its_setting_and_ends_with_the_others(tmp_path: Path) -> None:
    module = tmp_path / "stand_in.py"
    module.write_text(CHILD)
    peer = Peer("stand-in", "stand_in", Path(sys.executable), {})
    exports = Exports(tmp_path, tmp_path, tmp_path)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(tmp_path))
        with Children(exports, tmp_path) as children:
            for setting in ({"a": 1}, {"a": 2}, {"a": 1}):
                run = children.run(peer, setting, [QUESTION], 1, PLAIN)
                assert run.answers == [[7]]
            assert set(children._loaded) == {key_of(peer, {"a": 1}), key_of(peer, {"a": 2})}
            processes = [kept._process for kept in children._loaded.values()]
            with pytest.raises(PeerError, match="no such weights"):
                children.run(peer, {"broken": True}, [QUESTION], 1, PLAIN)
            assert len(children._loaded) == 2
    assert [process.returncode for process in processes] == [0, 0]
