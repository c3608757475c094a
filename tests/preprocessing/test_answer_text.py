"""What the decode stage knows of the tokenizer without reading it, and that it reads it once."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoint import TOKENIZER_FILES
from tritonguard.errors import BundleError
from tritonguard.request import Mode

from build_scripts.answers import write_answers
from engines.program import program_for
from preprocessing import prompt
from preprocessing.answer_text import ANSWERS, AnswerText
from preprocessing.prompt import PromptBuilder

MAX_TOKENS = 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in TOKENIZER_FILES.items():
        (tmp_path / name).write_text(content)
    write_answers(tmp_path, max_tokens=MAX_TOKENS)
    return tmp_path


class Reading:
    """In place of the prompt builder: counts how often the tokenizer is read, and lets no reading end before `go`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        self.began, self.go = threading.Event(), threading.Event()
        monkeypatch.setattr(prompt, "PromptBuilder", self._read)

    def _read(self, folder: Path, *, max_tokens: int) -> PromptBuilder:
        self.times += 1
        self.began.set()
        assert self.go.wait(10)
        return PromptBuilder(folder, max_tokens=max_tokens)


def join_reader() -> None:
    for thread in threading.enumerate():
        if thread.name == "tokenizer":
            thread.join(10)
            assert not thread.is_alive()


@pytest.mark.parametrize("has_response", [False, True])
@pytest.mark.parametrize("mode", Mode)
def test_every_program_of_the_built_in_policy_is_known(
    folder: Path, monkeypatch: pytest.MonkeyPatch, mode: Mode, has_response: bool
) -> None:
    builder = PromptBuilder(folder, max_tokens=MAX_TOKENS)
    expected = program_for(mode, has_response=has_response, encode=builder.encode_text, end=builder.end_of_turn)
    reading = Reading(monkeypatch)
    text = AnswerText(folder, max_tokens=MAX_TOKENS)
    assert program_for(mode, has_response=has_response, encode=text.encode, end=text.end) == expected
    assert reading.times == 0


def test_every_verdict_is_spelled_without_the_tokenizer(base_folder: Path, tmp_path: Path) -> None:
    for name in TOKENIZER_FILES:
        (tmp_path / name).symlink_to((base_folder / name).resolve())
    write_answers(tmp_path, max_tokens=4096)
    (tmp_path / "tokenizer.json").unlink()
    text = AnswerText(tmp_path, max_tokens=4096)
    said = ["User Safety:", " safe", "\nResponse Safety:", " unsafe"]
    for words in (said, said[:2], [said[0], said[3]], [*said[:3], said[1]]):
        assert text.decode([id for word in words for id in text.encode(word)]) == "".join(words)
    warm_up = text.warm_up(deadline_s=1.0)
    assert int(warm_up["PROMPT_LENGTHS"][0, 0]) == warm_up["INPUT_IDS"].shape[1] > 338
    assert 300 < int(warm_up["PREFIX_LENGTHS"][0, 0]) < 400
    assert json.loads(warm_up["ANSWER"][0, 0])["prompts"][0]["mode"] == "verdict"
    with pytest.raises(BundleError, match="lacks a readable tokenizer"):
        text.decode([5])


def test_what_is_not_known_is_asked_of_the_tokenizer(folder: Path) -> None:
    builder = PromptBuilder(folder, max_tokens=MAX_TOKENS)
    text = AnswerText(folder, max_tokens=MAX_TOKENS)
    assert text.encode("never seen") == builder.encode_text("never seen")
    assert text.decode([4, 2]) == builder.decode_text([4, 2]) != ""
    assert text.marks() == builder.mark_ids


def test_the_tokenizer_is_read_soon_and_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = AnswerText(folder, max_tokens=MAX_TOKENS)
    reading = Reading(monkeypatch)
    for _ in range(3):
        text.read_soon()
    assert reading.began.wait(10)
    assert [thread.name for thread in threading.enumerate()].count("tokenizer") == 1
    with ThreadPoolExecutor(max_workers=4) as pool:
        waiting = [pool.submit(text.encode, "never seen") for _ in range(4)]
        assert text.encode(" safe") == [3]  # meanwhile
        assert not any(one.done() for one in waiting)
        reading.go.set()
        assert [one.result(10) for one in waiting] == [[0]] * 4
    text.read_soon()
    join_reader()
    assert reading.times == 1


def test_what_was_needed_first_is_not_read_again_soon(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = AnswerText(folder, max_tokens=MAX_TOKENS)
    reading = Reading(monkeypatch)
    reading.go.set()
    text.marks()
    text.read_soon()
    join_reader()
    assert reading.times == 1


def test_a_tokenizer_that_breaks_costs_those_who_need_it_and_no_verdict(folder: Path) -> None:
    text = AnswerText(folder, max_tokens=MAX_TOKENS)
    (folder / "tokenizer.json").write_text("{")
    text.read_soon()
    join_reader()
    with pytest.raises(BundleError, match="lacks a readable tokenizer"):
        text.encode("never seen")
    assert text.encode(" unsafe") == [4]


@pytest.mark.parametrize(
    "damage",
    [
        lambda known: None,
        lambda known: [],
        lambda known: {**known, "encoded": []},
        lambda known: {**known, "decoded": [[1]]},
        lambda known: {**known, "end": None},
        lambda known: {**known, "warm_up": {**known["warm_up"], "ids": "none"}},
        lambda known: {name: value for name, value in known.items() if name != "warm_up"},
    ],
)
def test_a_bundle_without_readable_answers_says_what_to_do(folder: Path, damage: Callable[[Any], Any]) -> None:
    path = folder / ANSWERS
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(BundleError, match=r"no readable answers\.json; compile it anew"):
        AnswerText(folder, max_tokens=MAX_TOKENS)
    path.unlink()
    with pytest.raises(BundleError, match=r"no readable answers\.json; compile it anew"):
        AnswerText(folder, max_tokens=MAX_TOKENS)


def test_a_tokenizer_that_splits_a_choice_is_refused(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "Split", "pattern": {"String": "s"}, "behavior": "Isolated", "invert": False}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(BundleError, match="splits ' safe' into"):
        write_answers(folder, max_tokens=MAX_TOKENS)
