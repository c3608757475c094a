"""The levers' benchmark for a GPU, on a small random guard and this CPU: both ways of every lever are the same work."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_guard import guard_config
from torch import Tensor

from benchmarks.cuda_levers.__main__ import APART, main
from benchmarks.cuda_levers.figures import apart
from benchmarks.cuda_levers.guard import Fp8Linear, Guard, Past, quantized
from benchmarks.cuda_levers.ways import Ways

CONFIG = guard_config(vocab_size=3000, sliding_window=200)
BATCHES = (1, 2)


@pytest.fixture(scope="module")
def guard() -> Guard:
    return Guard.random(CONFIG, torch.device("cpu"))


def furthest(guard: Guard) -> dict[str, float]:
    """By lever, the largest over the batches."""
    found: dict[str, float] = {}
    with torch.inference_mode():
        for lever in Ways(guard, max(BATCHES)).levers(BATCHES):
            found[lever.name] = max(found.get(lever.name, 0.0), apart(lever))
    return found


def test_both_ways_of_every_lever_come_to_the_same_margins(guard: Guard) -> None:
    found = furthest(guard)
    assert len(found) == 7
    assert max(found.values()) <= APART


def test_a_pass_whose_branches_see_each_other_would_be_noticed(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = Guard.a_pass

    def as_one_text(self: Guard, ids: Tensor, past: Past, *, branches: Any = (), **how: Any) -> Any:
        """All behind the last branch's end: the trunk's logits, then those of the whole text."""
        if not branches:
            return real(self, ids, past, **how)
        ends = [ids.shape[1] - sum(branches[place:]) for place in range(len(branches))]
        passes = [real(self, ids[:, :end], past, **how) for end in (*ends, ids.shape[1])]
        return lambda: (torch.cat([each()[0] for each in passes[:1] + passes[2:]], dim=1), None, None)

    monkeypatch.setattr(Guard, "a_pass", as_one_text)
    found = furthest(guard)
    assert found["exchange in one pass, not in two"] > 10 * APART
    assert found["policy prefix reused"] <= APART


def test_an_own_past_behind_a_shared_one_stands_where_a_long_text_would(guard: Guard) -> None:
    """Over more tokens than the sliding window, in three pieces and at once."""
    ids = torch.randint(4, 3000, (1, 420), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        whole, _, _ = guard.a_pass(ids, guard.nothing)()
        shared = guard.prefix(ids[0, :150])
        own = Past(shared.shared, guard.states(ids[:, 150:400], shared))
        pieces, _, _ = guard.a_pass(ids[:, 400:], own)()
    assert own.length == 400
    assert float((whole - pieces).abs().max()) <= 1e-4 * float(whole.std())


def test_fp8_products_are_near_and_not_equal(guard: Guard) -> None:
    with torch.inference_mode():
        ways = Ways(guard, 2)
        linear = Fp8Linear.observed(guard, ways.texts, ways.behind_policy)
        exact = guard.a_pass(ways.texts, ways.behind_policy)()[0]
        got = replace(guard, linear=linear).a_pass(ways.texts, ways.behind_policy)()[0]
    assert 1e-3 < float((got - exact).norm() / exact.norm()) < 0.3


def test_what_is_too_large_for_e4m3_stays_finite() -> None:
    values = quantized(torch.tensor([1e6, -1e6, 1.0]), torch.ones(())).float()
    assert values.tolist() == [448.0, -448.0, 1.0]


def test_the_command_prints_its_tables_and_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, out = tmp_path / "config.json", tmp_path / "new" / "levers.json"
    config.write_text(json.dumps(CONFIG))
    few = ["--device", "cpu", "--batches", "1", "--passes", "1,2", "--rounds", "1"]
    assert main(["--config", str(config), *few, "--out", str(out)]) == 0
    printed, written = capsys.readouterr().out, json.loads(out.read_text())
    assert "| forced head, not decoded | 1 |" in printed
    assert [one["batch"] for one in written["passes"]] == [1, 2]
    assert {one["name"] for one in written["roundings"]} == {"bf16", "fp8", "fp8-kv"}
    assert written["GPU"] == "no GPU"


def test_what_can_not_be_measured_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu", "--config", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert main([]) == 2
        assert "no GPU" in capsys.readouterr().err
