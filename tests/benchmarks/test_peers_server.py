"""Server against server: what a peer's Triton does between two steps, and what ours is asked and taken to have said."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from grpc_server import Server, serving
from small_guard import write_guard
from tritonguard.label import Label, Safety
from tritonguard.request import Mode

from benchmarks.peers import server, server_ours, server_pipeline
from benchmarks.peers.closed_loop import Run
from benchmarks.peers.exports import Exports
from benchmarks.peers.protocol import PeerError
from benchmarks.peers.question import CHECK, PLAIN, Question
from benchmarks.peers.roster import GENAI, OURS, Peer, Setting
from benchmarks.peers.server_ours import ServedQuestions, Servers, written
from benchmarks.peers.server_pipeline import Pipeline, installed
from benchmarks.peers.sweep import KINDS, kind_name
from benchmarks.peers.workloads import WORKLOADS
from preprocessing.prompt import PromptBuilder


class StandIn:
    """A pipeline that writes one token a step for each request: its last id and one more. batches: requests a step."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.may_step = threading.Semaphore(0)
        self.fails = False
        self._running: list[SimpleNamespace] = []

    def add_request(self, number: int, ids: Any, config: Any) -> Any:
        assert not config.do_sample
        assert config.ignore_eos
        asked = SimpleNamespace(said=[], last=int(ids[0, -1]), count=config.max_new_tokens)
        asked.get_status = lambda: "FINISHED" if len(asked.said) == asked.count else "RUNNING"
        asked.read_all = lambda: [SimpleNamespace(generated_ids=asked.said)]
        self._running.append(asked)
        return asked

    def step(self) -> None:
        self.may_step.acquire()
        if self.fails:
            raise RuntimeError("out of blocks")
        self.batches.append(len(self._running))
        for asked in self._running:
            asked.said.append(asked.last + len(asked.said) + 1)
        self._running = [asked for asked in self._running if len(asked.said) < asked.count]


@contextmanager
def pipeline(engine: StandIn) -> Iterator[Pipeline]:
    made = Pipeline(engine, SimpleNamespace(GenerationConfig=SimpleNamespace), lambda array: array)
    try:
        yield made
    finally:
        engine.may_step.release(100)
        made.close()


def submitted(made: Pipeline, ids: list[int], count: int) -> Future[list[int] | Exception]:
    came: Future[list[int] | Exception] = Future()
    made.submit(ids, count, came.set_result)
    return came


def test_requests_join_between_steps_and_get_their_own_tokens() -> None:
    engine = StandIn()
    with pipeline(engine) as made:
        first = submitted(made, [1, 10], 3)
        engine.may_step.release()
        while not engine.batches:
            pass
        # While the first one is under way: its next step has both.
        second = submitted(made, [1, 20], 1)
        engine.may_step.release(3)
        assert first.result(5) == [11, 12, 13]
        assert second.result(5) == [21]
    assert engine.batches[0] == 1
    assert 2 in engine.batches


def test_a_step_that_fails_is_told_to_all_and_ends_nothing() -> None:
    engine = StandIn()
    with pipeline(engine) as made:
        engine.fails = True
        came = [submitted(made, [1, number], 2) for number in (1, 2)]
        engine.may_step.release(2)
        assert all(isinstance(one.result(5), RuntimeError) for one in came)
        engine.fails = False
        after = submitted(made, [1, 5], 1)
        engine.may_step.release()
        assert after.result(5) == [6]


def test_genai_s_packages_are_installed_once_in_the_peers_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(command))
    pinned = tmp_path / "peers.in"
    pinned.write_text("# c\nopenvino==1\nopenvino-genai==1.0\nopenvino-tokenizers==1.0\ntorch==2\n")
    (tmp_path / "to").mkdir()
    assert installed(tmp_path / "to", pinned) == installed(tmp_path / "to", pinned) == tmp_path / "to"
    (command,) = commands
    assert command[-2:] == ["openvino-genai==1.0", "openvino-tokenizers==1.0"]
    assert "--no-deps" in command
    pinned.write_text("openvino-genai==2.0\n")
    installed(tmp_path / "to", pinned)
    assert commands[-1][-1] == "openvino-genai==2.0"


def label(**values: Any) -> Label:
    return Label(**{"user_safety": Safety.SAFE, "p_unsafe_user": 0.1, **values})


def test_a_label_is_the_answer_that_it_was_read_from() -> None:
    assert written(label()) == "User Safety: safe"
    unsafe = {"user_safety": Safety.UNSAFE, "p_unsafe_user": 0.9}
    pair = label(response_safety=Safety.UNSAFE, p_unsafe_response=0.9)
    assert written(pair) == "User Safety: safe\nResponse Safety: unsafe"
    listed = label(**unsafe, categories=("Violence", "Threat"))
    assert written(listed) == "User Safety: unsafe\nSafety Categories: Violence, Threat"
    assert written(label(**unsafe, categories=())) == "User Safety: unsafe"
    with pytest.raises(PeerError, match="overloaded"):
        written(Label.indeterminate("overloaded", has_response=False))


class Texts:
    """Of one length, numbered."""

    def __init__(self) -> None:
        self.drawn = 0

    def draw(self, count: int, *, response: bool, generator: Any) -> list[tuple[str, str | None]]:
        self.drawn += count
        numbers = range(self.drawn - count, self.drawn)
        return [(f"unsafe {number}", f"reply {number}" if response else None) for number in numbers]


class Noting:
    """A runner that notes who was asked in which way."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def run(self, peer: Peer, setting: Setting, questions: Any, concurrency: int, way: str) -> Run:
        self.asked.append((peer.module, way))
        return Run([1.0], 1.0, [[]])


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> PromptBuilder:
    return PromptBuilder(write_guard(tmp_path_factory.mktemp("guard") / "g"), max_tokens=4096)


@pytest.fixture
def stood_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """In the place of our server, a stand-in that speaks its protocol."""
    stand_in = Server()
    with serving(stand_in) as (url, _):

        @contextmanager
        def started(settings: Any) -> Iterator[Any]:
            yield SimpleNamespace(endpoints=SimpleNamespace(grpc=url))

        monkeypatch.setattr(server_ours, "TritonServer", started)
        yield stand_in


def test_ours_is_asked_the_texts_of_the_questions(builder: PromptBuilder, stood_in: Server) -> None:
    questions = ServedQuestions(builder, Texts(), seed=0)
    for workload in WORKLOADS:
        drawn = questions.draw(workload, 3)
        assert [questions.request(one).mode for one in drawn] == [workload.mode] * 3
        assert len({questions.request(one).policy.sha256 for one in drawn}) == min(3, workload.policies)
    with Servers(Noting(), questions, builder.encode_text, most=8) as servers:
        ours = Peer(OURS, "", Path(), {})
        asked = questions.draw(WORKLOADS[3], 5)
        before = len(stood_in.calls)
        run = servers.run(ours, {"bundle": "b"}, asked, 2, PLAIN)
        again = servers.run(ours, {"bundle": "b"}, asked[:1], 1, PLAIN)
    # One request more, which sees that the server answers.
    assert len(stood_in.calls) - before == 5 + 1 + 1
    assert [one.labels(answer) for one, answer in zip(asked, run.answers, strict=True)] == [(False, False)] * 5
    assert len(again.ms) == 1
    assert min(run.ms) > 0


def test_a_refusal_of_ours_is_a_failure_of_the_engine(builder: PromptBuilder, stood_in: Server) -> None:
    questions = ServedQuestions(builder, Texts(), seed=0)
    with Servers(Noting(), questions, builder.encode_text, most=8) as servers:
        servers.run(Peer(OURS, "", Path(), {}), {"bundle": "b"}, questions.draw(WORKLOADS[0], 1), 1, PLAIN)
        stood_in.infer = lambda call, context: {}
        with pytest.raises(PeerError):
            servers.run(Peer(OURS, "", Path(), {}), {"bundle": "b"}, questions.draw(WORKLOADS[0], 1), 1, PLAIN)


def test_only_choices_are_asked_of_somebody_else(builder: PromptBuilder) -> None:
    others, beside = Noting(), Noting()
    genai = Peer(GENAI, "server", Path(), {})
    checks = {GENAI: (Peer(GENAI, "in-process", Path(), {}), beside)}
    questions: list[Question] = []
    with Servers(others, ServedQuestions(builder, Texts(), seed=0), list, most=1, checks=checks) as servers:  # type: ignore[arg-type]
        for way in (PLAIN, CHECK):
            servers.run(genai, {}, questions, 1, way)
            servers.run(Peer("llama.cpp", "llama", Path(), {}), {}, questions, 1, way)
    assert others.asked == [("server", PLAIN), ("llama", PLAIN), ("llama", CHECK)]
    assert beside.asked == [("in-process", CHECK)]


def test_peers_take_the_best_settings_of_an_earlier_run(tmp_path: Path) -> None:
    best = {kind_name(kind): {"slots": number} for number, kind in enumerate(KINDS)}
    file = tmp_path / "peers.json"
    file.write_text(json.dumps({"sweeps": {GENAI: {"best": best}}}))
    found = server.chosen(file, [GENAI, "llama.cpp"])
    assert found[GENAI].setting_for(PLAIN, 32) == {"slots": 1}
    assert list(found) == [GENAI]
    assert server.chosen(None, [GENAI]) == {}
    file.write_text(json.dumps({"sweeps": {GENAI: {"best": {}}}}))
    for path in (file, tmp_path / "none.json"):
        with pytest.raises(ValueError, match="holds no sweep"):
            server.chosen(path, [GENAI])


def test_genai_s_child_is_told_where_its_packages_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "installed", lambda folder: folder)
    exports = Exports(tmp_path / "merged", tmp_path / "peers", tmp_path / "env")
    peer = server.served_peer(GENAI, exports, tmp_path / "bundle")
    assert peer.command[1:3] == ["-m", "benchmarks.peers.server_genai"]
    assert peer.command[3:] == [str(tmp_path / "peers" / "genai_packages"), str(tmp_path / "bundle")]
    assert server.served_peer("llama.cpp", exports, tmp_path).module == "benchmarks.peers.llama"


def test_the_one_bar_is_that_of_eight_callers_plain() -> None:
    bars = {one.name: one.bars for one in server.SERVED if one.bars}
    assert list(bars) == ["text c=8"]
    ((limit,),) = bars.values()
    assert (limit.way, limit.value) == (PLAIN, 1.5)
    assert {one.name for one in server.SERVED} >= {"text c=1", "text c=32", "policies c=8", "categories c=8"}
    assert any(one.mode is Mode.CATEGORIES for one in server.SERVED)


@pytest.mark.parametrize("arguments", [["--workloads", "text c=7"], ["--peers", "transformers"]])
def test_an_unknown_name_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        server.parsed(arguments)
    assert ended.value.code == 2
    assert arguments[1] in capsys.readouterr().err


def test_the_model_and_its_configuration_name_the_same_tensors() -> None:
    folder = server_pipeline.ROOT / "benchmarks" / "peers" / "server_repository" / "guard"
    config, model = (folder / "config.pbtxt").read_text(), (folder / "1" / "model.py").read_text()
    for name in ("INPUT_IDS", "COUNT", "SAID_IDS"):
        assert f'name: "{name}"' in config
        assert f'"{name}"' in model
