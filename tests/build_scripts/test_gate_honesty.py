"""The gate on a small model: limits from honest recalibrations let others pass, and refuse bundles with a fault."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from recalibrated import TEXT, Model, change, declare, of_file, quantized, write_model
from tiny_checkpoint import low_rank, projections, tiny_config
from tritonguard.request import Mode

from benchmarks.recalibrations import Remembered
from build_scripts import parity_corpus
from build_scripts.openvino.compile import compile_bundle
from build_scripts.parity import compare
from build_scripts.parity_corpus import Row, read_corpus
from build_scripts.parity_gate import Profile
from build_scripts.parity_limits import Recalibration, limits_of
from build_scripts.parity_report import Report, to_json
from build_scripts.parity_sides import BundleSide
from engines.checkpoint import TensorFile
from engines.local.runtime import multiplies_int8
from engines.manifest import extra_of, read_manifest, sha256_file, write_manifest

SETTING, OTHERS = range(12), range(12, 22)
"""Seeds. On so small a model drift has a long tail: in one of eight recalibrations it is half as large again."""
NONE = Profile("none", 1, 1, {})


def corpus() -> list[Row]:
    """The shipped prompts without those whose answer is written token by token.

    Without their labels, too: how often a random model agrees with them is chance, and F1 says nothing of a form.
    """
    return [replace(row, known=(None, None)) for row in read_corpus() if row.mode is Mode.VERDICT]


class Gate:
    """The model, its float bundle as the reference, and the limits that recalibrations set."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder = folder
        self.checkpoint = write_model(folder / "checkpoint", base)
        reference = BundleSide.load(compile_bundle(self.checkpoint, folder / "f32", precision="f32"))
        self.like, self.reference = reference, Remembered(reference)
        self.model = Model(self.checkpoint, reference._builder)
        self.rows = corpus()
        self.limits = NONE
        self.setting = [self.judged(self.model.recalibrated(self.like, seed)) for seed in SETTING]
        reports = [Recalibration.parse(to_json(one), f"{seed}.json") for seed, one in enumerate(self.setting)]
        self.limits = limits_of(reports, "honest")

    def judged(self, side: BundleSide) -> Report:
        sha256 = sha256_file(parity_corpus.SHIPPED)
        return compare(self.reference, side, self.rows, self.limits, sha256=sha256, batch=16)

    def changed(self, tmp_path: Path) -> Path:
        """A copy of the checkpoint to spoil."""
        return shutil.copytree(self.checkpoint, tmp_path / "checkpoint")


def missed(report: Report) -> set[str]:
    return {finding.figure for finding in report.findings if finding.met is False}


@pytest.fixture(scope="module")
def gate(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(tmp_path_factory.mktemp("gate"), base_folder)


@pytest.fixture(scope="module")
def served(gate: Gate) -> BundleSide:
    """With the rows of the first recalibration, made as a bundle is."""
    return quantized(gate.checkpoint, gate.folder / "served", seed=0)


def test_the_reference_tells_texts_apart(gate: Gate) -> None:
    report = gate.judged(gate.like)
    whole = report.groups["all", "all"]
    assert report.passed
    assert whole.drift_share < 0.01 * max(one.groups["all", "all"].drift_share for one in gate.setting)
    unsafe = [pair.a.unsafe[0] for pair in report.pairs]
    assert 0.2 < sum(unsafe) / len(unsafe) < 0.8


def test_a_bundle_as_it_is_made_is_the_recalibration_that_was_measured(gate: Gate, served: BundleSide) -> None:
    report = gate.judged(served)
    assert report.passed, report.refusals
    assert [pair.b.margins for pair in report.pairs] == [
        pytest.approx(pair.b.margins, abs=1e-3) for pair in gate.setting[0].pairs
    ]


def test_ten_other_recalibrations_pass(gate: Gate) -> None:
    refused = {}
    for seed in OTHERS:
        report = gate.judged(gate.model.recalibrated(gate.like, seed))
        if not report.passed:
            refused[seed] = report.refusals
    assert not refused


@pytest.mark.skipif(
    not multiplies_int8(), reason="with seven-bit weights the honest drift of so small a model hides this fault"
)
def test_scales_from_the_last_two_tokens_of_each_row_are_refused(gate: Gate, tmp_path: Path) -> None:
    report = gate.judged(quantized(gate.checkpoint, tmp_path, seed=0, keep_last=2))
    assert {"drift_share", "kl_mean", "shift_mean_abs"} <= missed(report)


def test_a_swapped_layer_is_refused(gate: Gate, tmp_path: Path) -> None:
    other = gate.changed(tmp_path)
    names = TensorFile.open(other / "model.safetensors").header
    layers = [f"{TEXT}layers.{layer}." for layer in (0, 1)]
    pairs = [(name, name.replace(*layers)) for name in names if name.startswith(layers[0])]
    change(other, {one: of_file(other, two) for pair in pairs for one, two in (pair, pair[::-1])})
    report = gate.judged(quantized(declare(other), tmp_path / "quantized", seed=0))
    assert {"drift_share", "kl_mean", "shift_mean_abs"} <= missed(report)


def test_another_policy_text_in_the_template_is_refused_with_the_reason(
    gate: Gate, served: BundleSide, tmp_path: Path
) -> None:
    other = shutil.copytree(gate.folder / "served" / "bundle", tmp_path / "other")
    template = other / "chat_template.jinja"
    text = template.read_text()
    assert "S1: Violence" in text
    template.write_text(text.replace("S1: Violence", "S1: Impoliteness"))
    manifest = read_manifest(other)
    extra = extra_of(manifest)
    write_manifest(other, kind="bundle", inputs=manifest["inputs"], **extra)
    report = gate.judged(BundleSide.load(other))
    assert not report.passed
    assert report.incomparable is not None
    assert report.incomparable.startswith("policy prefix")
    assert "chat template, its policy text" in report.incomparable


def test_a_foreign_adapter_merged_in_is_refused(gate: Gate, tmp_path: Path) -> None:
    other = gate.changed(tmp_path)
    modules = {name: shape for name, shape in projections(tiny_config()).items() if name.endswith(("q_proj", "v_proj"))}
    low = low_rank(modules)
    scale = 8  # lora_alpha / r of `adapter_config`
    change(
        other,
        {
            f"{TEXT}{name}.weight": of_file(other, f"{TEXT}{name}.weight")
            + scale * low[f"{name}.lora_B.weight"] @ low[f"{name}.lora_A.weight"]
            for name in modules
        },
    )
    model = Model(other, gate.like._builder)
    report = gate.judged(model.recalibrated(gate.like, 0))
    assert {"drift_share", "kl_mean", "shift_mean_abs"} <= missed(report)
