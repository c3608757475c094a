"""The demo's judgement: at most one wrong label, and an error is never a right one."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console
from tritonguard import EXAMPLES, Example, Policy, Record, Safety, Unavailable, Verdict
from tritonguard.label import label_from_choices
from tritonguard.verdict import decide

from serving.demo import Row, conclusion, judge, main, passed, table


def verdict(safety: Safety) -> Verdict:
    p_unsafe = 0.9 if safety is Safety.UNSAFE else 0.1
    label = label_from_choices(np.log([[1 - p_unsafe, p_unsafe]]).astype(np.float32), has_response=False)
    policy = Policy()
    record = Record(
        contract_version=1,
        request_id="r",
        policy_name=policy.name,
        policy_sha256=policy.sha256,
        engine="openvino",
    )
    return Verdict(label, decide(label, policy), record)


def other(safety: Safety) -> Safety:
    return Safety.SAFE if safety is Safety.UNSAFE else Safety.UNSAFE


def rows(*, wrong: int) -> list[Row]:
    return [
        Row(example, 1.0, verdict(other(example.expected) if index < wrong else example.expected))
        for index, example in enumerate(EXAMPLES)
    ]


def shown(results: Sequence[Row], *, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table(results, width=width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(("wrong", "expected"), [(0, True), (1, True), (2, False), (len(EXAMPLES), False)])
def test_all_but_one_must_match(wrong: int, expected: bool) -> None:
    assert passed(rows(wrong=wrong)) is expected
    assert conclusion(rows(wrong=wrong)).plain.startswith("OK" if expected else "FAILED")


def test_a_guard_that_calls_everything_the_same_fails() -> None:
    for safety in (Safety.SAFE, Safety.UNSAFE):
        assert not passed([Row(example, 1.0, verdict(safety)) for example in EXAMPLES])


def test_examples_that_were_not_asked_do_not_pass() -> None:
    assert not passed(rows(wrong=0)[:-1])
    assert not passed([])


def test_an_error_is_a_wrong_answer_under_its_name() -> None:
    def check(text: str) -> Verdict:
        raise Unavailable("gone")

    row = judge(EXAMPLES[0], check)
    assert not row.as_expected
    assert row.said == "error: unavailable"
    assert not passed([judge(example, check) for example in EXAMPLES])


def test_each_example_is_sent_once_and_as_it_is() -> None:
    sent: list[str] = []

    def check(text: str) -> Verdict:
        sent.append(text)
        return verdict(Safety.SAFE)

    for example in EXAMPLES:
        judge(example, check)
    assert sent == [example.prompt for example in EXAMPLES]


def test_the_table_fits_a_narrow_terminal_with_every_verdict_whole() -> None:
    text = shown(rows(wrong=1), width=80)
    lines = text.splitlines()
    assert max(map(cell_len, lines)) <= 80
    for example in EXAMPLES:
        (line,) = [line for line in lines if line.split()[:1] == [example.id]]
        assert example.expected.value in line
    assert text.count("NO") == 1


def test_a_texts_control_characters_do_not_reach_the_terminal() -> None:
    example = Example("x", "en", "red \x1b[31m alert", Safety.SAFE, "")
    assert "\x1b[31m" not in shown([Row(example, 1.0, verdict(Safety.SAFE))], width=120)


def test_a_server_that_does_not_start_fails_the_demo_in_words(tmp_path: Path) -> None:
    out = io.StringIO()
    assert main(["--bundle", str(tmp_path)], console=Console(file=out, width=200)) == 1
    assert "no bundle" in out.getvalue()
