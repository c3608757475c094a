"""Each mode's run through a guard in memory: what is asked, what is scored, which bars hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from tritonguard import CustomCategory, Guard, GuardRequest, Label, MockTransport, Mode, Policy, Record, Safety, Verdict
from tritonguard.policy_parts import parts_of
from tritonguard.verdict import decide

from benchmarks import modes
from benchmarks.mode_runs import Run, categories, kind_of, policies, replies, think
from benchmarks.report import Bar, Section
from benchmarks.served import Answers
from build_scripts.training_data import Row
from build_scripts.training_replies import Exchange
from build_scripts.training_subjects import Ruling, Text

Judge = Callable[[GuardRequest], Label]


def label(user: float, response: float | None = None, **values: object) -> Label:
    def said(p: float) -> Safety:
        return Safety.UNSAFE if p >= 0.5 else Safety.SAFE

    return Label(
        user_safety=said(user),
        p_unsafe_user=user,
        response_safety=None if response is None else said(response),
        p_unsafe_response=response,
        **values,
    )


def run_with(judge: Judge, *, model: str | None = "model") -> Run:
    def handler(request: GuardRequest) -> Verdict:
        said = judge(request)
        record = Record(
            contract_version=1,
            request_id=request.request_id,
            policy_name=request.policy.name,
            policy_sha256=request.policy.sha256,
            model_revision=model,
            timings_ms={"think": 7.0} if request.mode is Mode.THINK else {},
        )
        return Verdict(said, decide(said, request.policy), record)

    return Run(Guard(transport=MockTransport(handler)), 2, Answers())


def exchange(number: int, *, unsafe: bool | None, response_unsafe: bool) -> Exchange:
    response = f"{'bad' if response_unsafe else 'good'} answer {number}"
    return Exchange(
        f"s:{number}", f"source {number % 2}", "en", f"prompt {number}", response, unsafe, response_unsafe, ()
    )


def by_words(request: GuardRequest) -> Label:
    """Unsafe exactly where a text holds "bad"."""
    said = [0.9 if "bad" in text else 0.1 for text in (request.prompt, request.response) if text is not None]
    return label(*said)


def test_replies_are_scored_by_side_by_source_and_by_what_training_read() -> None:
    exchanges = [exchange(n, unsafe=(None, False)[n % 2], response_unsafe=n < 4) for n in range(8)]
    section = replies(run_with(by_words), exchanges, {"prompt 1"}, {"bad answer 0", "good answer 7"})
    figures = section.figures
    assert (figures["response"].rows, figures["response"].unsafe, figures["response"].f1) == (8, 4, 1.0)
    assert figures["response, its text not trained on"].rows == 6
    assert (figures["prompt"].rows, figures["prompt, not trained on"].rows) == (4, 3)
    assert {source: f.rows for source, f in figures["by source"].items()} == {"source 0": 4, "source 1": 4}
    assert [bar.met for bar in section.bars] == [True]


def test_the_bar_on_replies_fails_a_guard_that_calls_every_response_safe() -> None:
    exchanges = [exchange(n, unsafe=False, response_unsafe=n < 4) for n in range(8)]
    section = replies(run_with(lambda request: label(0.1, 0.1)), exchanges, set(), set())
    assert section.figures["response"].f1 == 0.0
    assert [bar.met for bar in section.bars] == [False]


def test_categories_are_asked_for_and_compared_by_name() -> None:
    rows = [Row(f"r:{n}", "s", "en", f"bad {n}", True, None, ("Malware",)) for n in range(4)]

    def judge(request: GuardRequest) -> Label:
        assert request.mode is Mode.CATEGORIES
        return label(0.9, categories=("Malware",) if request.prompt != "bad 3" else ("Violence",))

    figures = categories(run_with(judge), rows).figures["all"]
    assert (figures.rows, figures.exact, figures.top1, figures.micro_f1) == (4, 0.75, 0.75, 0.75)


def pair(number: int, unsafe: Policy, safe: Policy) -> tuple[Ruling, Ruling]:
    text = Text(f"t:{number}", f"about bees {number}", frozenset({"topic 1"}))
    return Ruling(text, parts_of(unsafe)[0], True, ("Bees",)), Ruling(text, parts_of(safe)[0], False, ())


def policy_pairs() -> list[tuple[Ruling, Ruling]]:
    bees, cats = (CustomCategory(name=name) for name in ("Bees", "Cats"))
    return [
        pair(0, Policy(name="list", custom_taxonomy=(bees,)), Policy(name="list", custom_taxonomy=(cats,))),
        pair(1, Policy(name="free-text", custom_policy="no Bees"), Policy(name="free-text", custom_policy="no Cats")),
        pair(2, Policy(name="kept", suppress=("Profanity",)), Policy(name="gone", suppress=("Malware",))),
    ]


def test_the_kind_of_a_pair_is_how_its_policies_are_written() -> None:
    assert [kind_of(first) for first, _ in policy_pairs()] == ["list", "free text", "suppressed"]
    assert [kind_of(second) for _, second in policy_pairs()] == ["list", "free text", "suppressed"]


def test_each_text_is_judged_under_both_of_its_policies() -> None:
    def reads_the_policy(request: GuardRequest) -> Label:
        policy = request.policy
        return label(0.9 if "Bees" in policy.canonical_json() or policy.name == "kept" else 0.1)

    languages = {"t:0": "en", "t:1": "hi"}
    section = policies(run_with(reads_the_policy), policy_pairs(), languages)
    assert section.figures["all"].flips == 1.0
    parts = section.figures["by kind and language"]
    assert {name: f.pairs for name, f in parts.items()} == {
        "free text": 1, "list": 1, "suppressed": 1, "en": 1, "hi": 1, "unknown language": 1
    }  # fmt: skip
    assert [bar.met for bar in section.bars] == [True, True]


@pytest.mark.parametrize("p", [0.9, 0.1])
def test_the_bars_on_policies_fail_a_guard_that_does_not_read_them(p: float) -> None:
    section = policies(run_with(lambda request: label(p)), policy_pairs(), {})
    assert (section.figures["all"].accuracy, section.figures["all"].flips) == (0.5, 0.0)
    assert [bar.met for bar in section.bars] == [False, False]


def think_rows() -> list[Row | Exchange]:
    rows = [Row(f"r:{n}", "s", "en", f"bad {n}", True, None) for n in range(6)]
    return [*rows, exchange(1, unsafe=True, response_unsafe=True)]


def reasoned(request: GuardRequest, **values: object) -> Label:
    said = by_words(request)
    if request.mode is not Mode.THINK:
        return said
    return said.model_copy(update={"reasoning": "it is so", "reasoning_source": "synthetic", **values})


def thinking(judge: Judge, rows: Sequence[Row | Exchange] | None = None, *, budget: int = 8) -> Section:
    chosen = think_rows() if rows is None else rows
    return think(run_with(judge), chosen, budget=budget, count=lambda text: len(text.split()))


def test_thinking_has_a_budget_and_is_compared_with_the_fast_verdict() -> None:
    asked: list[tuple[Mode, int | None, bool]] = []

    def judge(request: GuardRequest) -> Label:
        asked.append((request.mode, request.think_budget, request.response is not None))
        return reasoned(request)

    section = thinking(judge)
    figures = section.figures["all"]
    assert (figures.rows, figures.verdicts, figures.agreement, figures.median_tokens) == (7, 7, 1.0, 3.0)
    assert section.figures["reasoning p50 ms"] == 7.0
    assert all(bar.met for bar in section.bars)
    assert sorted(asked, key=str) == sorted(
        [(Mode.THINK, 8, False)] * 6
        + [(Mode.THINK, 8, True)]
        + [(Mode.VERDICT, None, False)] * 6
        + [(Mode.VERDICT, None, True)],
        key=str,
    )


def test_the_bars_on_thinking_fail_for_no_verdict_for_a_long_reasoning_and_for_contradictions() -> None:
    def silent(request: GuardRequest) -> Label:
        return Label.indeterminate("the reasoning was cut off", has_response=request.response is not None)

    assert [bar.met for bar in thinking(silent).bars] == [False, True, True]
    assert [bar.met for bar in thinking(reasoned, budget=2).bars] == [True, False, True]
    contradicting = thinking(lambda request: reasoned(request, reasoning_contradicts=True))
    assert [bar.met for bar in contradicting.bars] == [True, True, False]


def test_unanswered_questions_are_counted() -> None:
    run = run_with(by_words, model=None)
    categories(run, [Row("r:0", "s", "en", "bad", True, None, ("Malware",))])
    assert run.unanswered == 1


@pytest.mark.parametrize(
    ("value", "limit", "code"), [(0.9, [], 0), (0.1, [], 1), (0.1, ["--limit", "5"], 0)], ids=["met", "missed", "part"]
)
def test_a_missed_bar_of_the_full_run_decides_the_exit_code(
    value: float,
    limit: list[str],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    @contextmanager
    def connected(url: str | None, bundle: Path) -> Iterator[Guard]:
        yield run_with(by_words).guard

    section = Section("replies", ["| a |"], {"f1": value}, [Bar("F1", value, least=0.7)])
    monkeypatch.setattr(modes, "connected", connected)
    monkeypatch.setattr(modes, "sections", lambda args: {"replies": lambda run: section})
    out = tmp_path / "modes.json"
    assert modes.main(["--pool", "pool", "--only", "replies", "--out", str(out), *limit]) == code
    told = capsys.readouterr()
    assert told.out.startswith("### replies\n\n| a |")
    assert ("MISSED: F1" in told.err) == (value < 0.7)
    assert out.is_file()


def test_only_known_modes_can_be_chosen() -> None:
    assert modes.chosen_modes("think, replies") == ("replies", "think")
    with pytest.raises(SystemExit):
        modes.main(["--pool", "pool", "--only", "replys"])
