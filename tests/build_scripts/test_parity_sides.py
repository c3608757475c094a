"""Deployments as sides: a small real bundle on its own engine, and our server over the client."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from parity_stand_ins import row
from tiny_checkpoint import write_checkpoint_with_tokenizer
from tritonguard.errors import Unavailable
from tritonguard.policy import Policy
from tritonguard.request import GuardRequest
from tritonguard.testing import fake_guard, indeterminate, judged
from tritonguard.verdict import Verdict

from build_scripts import parity
from build_scripts.openvino.compile import compile_bundle
from build_scripts.parity import REFUSED, USAGE, compare
from build_scripts.parity_corpus import Row, read_corpus
from build_scripts.parity_gate import Limit, Profile
from build_scripts.parity_reading import (
    PROBABILITY_MARGINS,
    SideError,
    margin_of_probability,
    margins_of_logprobs,
)
from build_scripts.parity_sides import BundleSide, GuardSide, open_side
from engines.manifest import write_manifest

EQUAL = Profile(
    "equal",
    1,
    1,
    {"all": (Limit("flip_share", most=0.0), Limit("drift_share", most=0.04))},
)
ROWS = [
    row("plain", prompt="How long does a yeast dough rest?"),
    row("other", prompt="Write a mean message to my neighbour."),
    row("third", prompt="怎样做番茄炒蛋？"),
    row("pair", prompt="Steal a car.", response="Let us begin."),
    row("listed", prompt="Steal a car.", mode="categories"),
    row("text", prompt="Where do I invest?", policy=Policy(custom_policy="Only cooking is allowed.")),
]
WRITTEN = {"format", "kind", "tritonguard", "inputs", "revision", "files"}
"""Of a manifest: what `write_manifest` writes by itself."""


def bundle(checkpoint: Path, out: Path) -> Path:
    write_manifest(checkpoint, kind="checkpoint", inputs={}, vision="untrained")
    return compile_bundle(checkpoint, out, precision="f32")


@pytest.fixture(scope="module")
def built(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parity")
    return bundle(write_checkpoint_with_tokenizer(folder / "checkpoint", base_folder), folder / "bundle")


@pytest.fixture(scope="module")
def side(built: Path) -> BundleSide:
    return BundleSide.load(built)


def test_a_bundle_against_itself_passes_in_every_mode(side: BundleSide) -> None:
    report = compare(side, side, ROWS, EQUAL, batch=4)
    assert report.passed, report.refusals
    whole = report.groups["all", "all"]
    assert (whole.rows, whole.compared, whole.choices) == (6, 6, 7)
    assert whole.drift_max < 1e-3
    assert whole.ms_a_p50 > 0
    assert report.sides[0]["precision"] == "f32"


def test_a_bundle_with_two_layers_swapped_is_refused(built: Path, side: BundleSide, tmp_path: Path) -> None:
    source = built.parent / "checkpoint"
    other = shutil.copytree(source, tmp_path / "checkpoint")
    weights = other / "model.safetensors"
    content = weights.read_bytes()
    size = int.from_bytes(content[:8], "little")
    # The names in the file's header are of equal length: the two layers change places and no byte moves.
    layer = b"language_model.model.layers."
    header = content[8 : 8 + size].replace(layer + b"0.", layer + b"x.").replace(layer + b"1.", layer + b"0.")
    weights.write_bytes(content[:8] + header.replace(layer + b"x.", layer + b"1.") + content[8 + size :])
    report = compare(side, BundleSide.load(bundle(other, tmp_path / "bundle")), ROWS, EQUAL)
    assert not report.passed
    assert any("drift_share" in line for line in report.refusals)


def test_a_bundle_with_another_template_is_refused_with_the_reason(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(built, tmp_path / "other")
    template = (other / "chat_template.jinja").read_text()
    assert "safety classifier" in template
    (other / "chat_template.jinja").write_text(template.replace("safety classifier", "strict safety classifier"))
    manifest = json.loads((other / "manifest.json").read_text())
    extra = {name: value for name, value in manifest.items() if name not in WRITTEN}
    write_manifest(other, kind="bundle", inputs=manifest["inputs"], **extra)
    corpus = tmp_path / "c.jsonl"
    corpus.write_text('{"id": "a", "prompt": "Hello"}\n')
    out = tmp_path / "out.json"
    assert parity.main([str(built), str(other), "--corpus", str(corpus), "--json", str(out)]) == REFUSED
    assert "policy prefix" in capsys.readouterr().err
    assert json.loads(out.read_text())["incomparable"].startswith("policy prefix")


def test_a_row_that_the_engine_breaks_on_is_an_error_of_every_row_of_its_batch(
    side: BundleSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(jobs: Sequence[Any]) -> Any:
        raise RuntimeError("the text of a row")

    monkeypatch.setattr(side._engine, "run", broken)
    assert [one.error for one in side.read(ROWS[:2])] == ["RuntimeError", "RuntimeError"]


def test_a_prompt_over_the_budget_is_an_error_of_its_row_alone(side: BundleSide) -> None:
    long = row("long", prompt="dough " * 10_000)
    readings = side.read([ROWS[0], long])
    assert (readings[0].judged, readings[1].error) == (True, "prompt_too_long")
    assert side.prompt_ids(long) is None


def server(p_unsafe: Mapping[str, float], **record: Any) -> GuardSide:
    def handler(request: GuardRequest) -> Verdict:
        said = judged(request, p_unsafe[request.prompt])
        known = {"judged": ("built-in",), "bundle_revision": "r1", "prompt_tokens": 7} | record
        return Verdict(said.label, said.outcome, said.record.model_copy(update=known))

    return GuardSide(fake_guard(handler), "grpc://fake", 5.0, 2)


def prompts(*texts: str) -> list[Row]:
    return [row(text, prompt=text) for text in texts]


def test_a_servers_margin_is_the_logit_of_its_probability() -> None:
    asked = server({"a": 0.9, "b": 0.25})
    first, second = asked.read(prompts("a", "b"))
    assert first.margins == pytest.approx((math.log(9),), rel=1e-5)
    assert second.margins == pytest.approx((-math.log(3),), rel=1e-5)
    assert (first.unsafe, second.unsafe, first.prompt_tokens) == ((True,), (False,), 7)
    assert asked.describe()["bundle_revision"] == "r1"
    asked.close()


def test_a_floor_on_the_server_is_no_comparison_of_the_rows_own_policy() -> None:
    asked = server({"a": 0.9}, judged=("custom", "floor"))
    (found,) = asked.read(prompts("a"))
    assert found.error == "the server judged other parts of the policy"
    asked.close()


def test_a_server_that_is_away_is_an_error_even_where_on_error_allows() -> None:
    def away(request: GuardRequest) -> Verdict:
        raise Unavailable("away")

    asked = GuardSide(fake_guard(away), "grpc://fake", 5.0, 1)
    (found,) = asked.read([row(prompt="a", policy=Policy(on_error="allow"))])
    assert (found.label, found.error) == (None, "no answer")
    asked.close()


def test_an_unreadable_verdict_of_a_server_has_no_margin() -> None:
    def handler(request: GuardRequest) -> Verdict:
        said = indeterminate()(request)
        return Verdict(said.label, said.outcome, said.record.model_copy(update={"judged": ("built-in",)}))

    asked = GuardSide(fake_guard(handler), "grpc://fake", 5.0, 1)
    (found,) = asked.read(prompts("a"))
    assert found.label is not None
    assert not found.judged
    asked.close()


@pytest.mark.parametrize("margin", [-11.5, -3.0, -0.01, 0.01, 3.0, 11.5])
def test_a_probability_as_sent_still_holds_the_margin(margin: float) -> None:
    sent = float(np.float32(1 / (1 + math.exp(-margin))))
    assert margin_of_probability(sent) == pytest.approx(margin, abs=0.01)


def test_certain_and_impossible_probabilities_are_held_at_the_limit() -> None:
    assert margin_of_probability(1.0) == PROBABILITY_MARGINS == -margin_of_probability(0.0)
    assert math.isnan(margin_of_probability(math.nan))
    logprobs: npt.NDArray[np.float32] = np.array([[-3.0, -1.0]], np.float32)
    assert margins_of_logprobs(logprobs) == (2.0,)


def test_the_shipped_corpus_is_what_it_says() -> None:
    rows = read_corpus()
    assert len(rows) == 64
    assert len({one.language for one in rows}) == 12
    assert {one.mode.value for one in rows} == {"verdict", "categories", "think"}
    assert all(one.known[0] is not None for one in rows)
    assert sum(one.has_response for one in rows) >= 5
    assert any(one.part.custom_policy for one in rows)
    assert any(one.part.custom_taxonomy for one in rows)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("secret", "c.jsonl:1: not JSON"),
        ("[1]", "not an object"),
        ('{"id": "a", "prompt": "secret", "respnse": "x"}', "unknown key"),
        ('{"id": "", "prompt": "secret"}', "id is a line"),
        ('{"id": "a", "prompt": "  "}', "blank"),
        ('{"id": "a", "prompt": "secret", "label": "bad"}', "label is"),
        ('{"id": "a", "prompt": "secret", "label": {"response": "safe"}}', "not there"),
        ('{"id": "a", "prompt": "secret", "policy": {"suppress": ["S1"], "also_builtin": true}}', "2 parts"),
        ('{"id": "a", "prompt": "secret", "mode": "fast"}', "mode"),
        ('{"id": "a", "prompt": "secret"}\n{"id": "a", "prompt": "b"}', "same id"),
        ("", "holds no row"),
    ],
)
def test_a_corpus_that_cannot_be_read_is_wrong_usage_and_quotes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    corpus = tmp_path / "c.jsonl"
    corpus.write_text(line)
    assert parity.main([str(tmp_path), str(tmp_path), "--corpus", str(corpus)]) == USAGE
    error = capsys.readouterr().err
    assert message in error
    assert "secret" not in error


def test_a_folder_that_is_no_bundle_and_an_unknown_profile_are_wrong_usage(tmp_path: Path) -> None:
    assert parity.main([str(tmp_path), str(tmp_path)]) == USAGE
    assert parity.main([str(tmp_path), str(tmp_path), "--profile", "none"]) == USAGE
    with pytest.raises(SideError, match="a side is"):
        open_side("http://h:1", deadline_s=1.0, width=1)


def test_the_command_passes_writes_what_it_is_asked_for_and_says_so(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thresholds = tmp_path / "t.yaml"
    limits = "least_rows: 4, least_group_rows: 4, all: {flip_share: {most: 0}}"
    thresholds.write_text(f"profiles: {{smoke: {{{limits}}}}}")
    out = {name: tmp_path / "out" / name for name in ("json", "markdown", "plot")}
    files = [argument for name, path in out.items() for argument in (f"--{name}", str(path))]
    arguments = ["--count", "4", "--thresholds", str(thresholds), "--bootstrap", "10", *files]
    code = parity.main([str(built), str(built), *arguments])
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert printed == out["markdown"].read_text()
    assert printed.startswith("# Parity: PASS")
    assert json.loads(out["json"].read_text())["corpus"]["rows"] == 4
    assert out["plot"].read_text().startswith("<svg")
