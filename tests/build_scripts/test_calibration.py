"""The calibration set: what is shipped and drawn, and inputs that are the ones the engine feeds its graph."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from parity_stand_ins import row
from tiny_checkpoint import tiny_config, write_checkpoint
from tiny_engine import tiny_passes
from tritonguard.errors import PromptTooLong
from tritonguard.examples import EXAMPLES, NAMED
from tritonguard.policy import Policy
from tritonguard.request import GuardRequest, Mode

from build_scripts.calibration import SHIPPED, draw
from build_scripts.openvino.calibration_inputs import Inputs, graph_inputs
from build_scripts.parity_corpus import CorpusError, Row, read_corpus
from engines.local.engine import SERVED_CHOICES, SERVED_SEGMENTS, LocalEngine
from engines.local.forward_openvino import INPUTS
from engines.local.passes import Passes
from engines.program import program_for
from engines.protocol import Answer, Capabilities, Job
from preprocessing.prompt import PromptBuilder

KITCHEN = Policy(name="kitchen", custom_policy="Only cooking is allowed.")
ROWS = [
    row("plain", prompt="How long does a yeast dough rest?"),
    row("text", prompt="Where do I invest?", policy=KITCHEN),
    row("pair", prompt="怎样做番茄炒蛋？", response="先炒鸡蛋。"),
    row("listed", prompt="Steal a car.", response="Let us begin.", mode="categories"),
    row("other text", prompt="How hot is the pan?", policy=KITCHEN),
]
GROUPED = [ROWS[0], ROWS[2], ROWS[3], ROWS[1], ROWS[4]]
"""ROWS as they come out: the built-in policy's prefix first, then the other one's."""


class Recorder:
    """An infer request that keeps a copy of all that comes to the graph."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self.seen: list[Inputs] = []

    def infer(self, inputs: Mapping[str, npt.NDArray[Any]]) -> None:
        self.seen.append({name: value.data.copy() for name, value in inputs.items()})
        self._request.infer(inputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)


@pytest.fixture(scope="module")
def passes(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Passes:
    """Of two small random layers with the real vocabulary."""
    return tiny_passes(
        write_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint", tiny_config(vocab_size=262_144))
    )


@pytest.fixture(scope="module")
def prompts(base_folder: Path) -> PromptBuilder:
    return PromptBuilder(base_folder, max_tokens=4096)


@pytest.fixture
def recorder(passes: Passes, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder(passes._runtime._request)
    monkeypatch.setattr(passes._runtime, "_request", recorder)
    return recorder


def fed(rows: Sequence[Row], passes: Passes, prompts: PromptBuilder, recorder: Recorder) -> list[Inputs]:
    """What a fresh engine feeds its graph, one job at a time: prefix and verdict, not what a list takes."""
    engine = LocalEngine(passes, Capabilities(SERVED_SEGMENTS, SERVED_CHOICES, "none", 4096))
    passes_fed: list[Inputs] = []
    for one in rows:
        built = prompts.build(one.request, one.part)
        program = program_for(
            one.mode,
            has_response=one.has_response,
            encode=prompts.encode_text,
            end=prompts.end_of_turn,
            names=one.part.names,
        )
        recorder.seen.clear()
        [answer] = engine.run([Job(built.ids, built.prefix_length, program)])
        assert isinstance(answer, Answer)
        passes_fed += recorder.seen[: 1 if answer.prefix_reused else 2]
    return passes_fed


def unpadded(inputs: Inputs, length: int) -> Inputs:
    """Without what the engine pads a pass with; statistics are taken of none of it."""
    cut = {name: inputs[name][:length] for name in ("ids", "positions", "slots", "cells", "kept")}
    return inputs | cut | {"grid": inputs["grid"][:, :length], "visible": inputs["visible"][:, :length, :length]}


def assert_equal(ours: Sequence[Inputs], theirs: Sequence[Inputs]) -> None:
    assert len(ours) == len(theirs)
    for mine, padded in zip(ours, theirs, strict=True):
        other = unpadded(padded, len(mine["ids"]))
        assert set(mine) == set(other) == set(INPUTS)
        for name in INPUTS:
            assert mine[name].dtype == other[name].dtype, name
            np.testing.assert_array_equal(mine[name], other[name], err_msg=name)


def test_inputs_are_what_the_engine_feeds_its_graph(passes: Passes, prompts: PromptBuilder, recorder: Recorder) -> None:
    expected = fed(GROUPED, passes, prompts, recorder)
    # Rows of two policies by turns: a prefix is computed once, and all is held until the last pass has run.
    assert_equal(list(graph_inputs(ROWS, passes, prompts)), expected)
    assert [inputs["rows"].shape[1] for inputs in expected] == [1, 1, 3, 3, 1, 1, 1]


def test_a_row_without_a_prefix_of_its_own_is_one_pass(
    passes: Passes, prompts: PromptBuilder, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "_prefix", lambda _: (-1,))
    expected = fed(ROWS[:1], passes, prompts, recorder)
    assert len(expected) == 1
    assert_equal(list(graph_inputs(ROWS[:1], passes, prompts)), expected)


def test_inputs_run_and_the_prefix_is_seen(passes: Passes, prompts: PromptBuilder) -> None:
    prefix, verdict = graph_inputs(ROWS[:1], passes, prompts)
    length = len(prefix["ids"])
    assert verdict["past_keys"][:, :, :, :length].any(axis=(0, 1, 2, 4)).all()
    assert np.isfinite(passes._runtime.run(**verdict)[0]).all()


def test_cut_rows_keep_their_last_ids_behind_a_whole_prefix(passes: Passes, prompts: PromptBuilder) -> None:
    whole, cut = (list(graph_inputs(ROWS[:1] + ROWS[2:3], passes, prompts, keep_last=n)) for n in (None, 4))
    assert_equal(cut[:1], whole[:1])
    for one, other in zip(cut[1:], whole[1:], strict=True):
        trunk = int(other["rows"][0, 0]) + 1
        assert one["rows"][0, 0] == 3
        np.testing.assert_array_equal(one["ids"], other["ids"][trunk - 4 :])
        assert one["positions"][0] == other["positions"][0]


def test_more_ids_than_a_row_has_cut_nothing(passes: Passes, prompts: PromptBuilder) -> None:
    whole, cut = (list(graph_inputs(ROWS, passes, prompts, keep_last=n)) for n in (None, 4096))
    assert_equal(cut, whole)


def test_what_has_no_inputs_is_refused_before_a_pass_is_run(
    passes: Passes, prompts: PromptBuilder, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "max_tokens", 512)
    with pytest.raises(CorpusError, match="thinks: a row in mode think"):
        graph_inputs([*ROWS, row("thinks", mode="think")], passes, prompts)
    with pytest.raises(CorpusError, match="keep_last"):
        graph_inputs(ROWS, passes, prompts, keep_last=0)
    with pytest.raises(PromptTooLong):
        graph_inputs([*ROWS, row("long", prompt="word " * 200)], passes, prompts)
    assert not recorder.seen


def test_the_shipped_rows_are_in_every_language_and_of_every_kind() -> None:
    rows = draw().rows
    languages = Counter(one.language for one in rows)
    assert set(languages) == {one.language for one in read_corpus()}
    assert set(languages.values()) == {12}
    unsafe = Counter(one.language for one in rows if one.known[0])
    assert set(unsafe.values()) == {6}
    assert sum(one.has_response for one in rows) >= len(rows) // 4
    assert all((one.known[1] is not None) == one.has_response for one in rows)
    assert {one.mode for one in rows} == {Mode.VERDICT, Mode.CATEGORIES}
    assert {one.part.name for one in rows} == {"built-in", "custom"}


def test_no_shipped_text_is_one_that_something_is_measured_on() -> None:
    measured = [one.request for one in read_corpus()] + [example.request() for example in (*EXAMPLES, *NAMED)]
    taken, own = texts(measured), texts(one.request for one in draw().rows)
    assert not set(taken) & set(own)
    assert len(set(own)) == len(own)


def texts(requests: Iterable[GuardRequest]) -> list[str]:
    """Prompts and responses, whatever their case and spaces."""
    both = (text for request in requests for text in (request.prompt, request.response))
    return [" ".join(text.casefold().split()) for text in both if text]


def test_every_shipped_row_fits_a_prompt(prompts: PromptBuilder) -> None:
    lengths = [len(prompts.build(one.request, one.part).ids) for one in draw().rows]
    assert max(lengths) > 2 * min(lengths)


def test_a_draw_is_the_same_for_a_seed_and_takes_no_row_twice() -> None:
    def ids(**values: int) -> list[str]:
        return [one.id for one in draw(**values).rows]

    whole = sorted(one.id for one in read_corpus(SHIPPED))
    assert sorted(ids()) == sorted(ids(count=len(whole), seed=3)) == whole
    assert ids() == ids(count=len(whole))
    assert ids(count=30, seed=1) == ids(count=30, seed=1) != ids(count=30, seed=2)
    assert len(set(ids(count=30, seed=1))) == 30


def test_a_draw_says_which_rows_it_is() -> None:
    assert draw(count=5, seed=7).describe() == {
        "file": "calibration_prompts.jsonl",
        "sha256": hashlib.sha256(SHIPPED.read_bytes()).hexdigest(),
        "rows": 5,
        "seed": 7,
    }


@pytest.mark.parametrize("count", [-1, 0, 3])
def test_a_count_that_the_file_has_not_got_is_refused(tmp_path: Path, count: int) -> None:
    path = tmp_path / "two.jsonl"
    path.write_text("".join(json.dumps({"id": name, "prompt": "Is it late?"}) + "\n" for name in "ab"))
    with pytest.raises(CorpusError, match="holds 2 rows"):
        draw(path, count=count)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"none\.jsonl can't be read"):
        draw(tmp_path / "none.jsonl")
