"""A bundle is warmed by the real engine over the package's double, in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from gpu_machine import PACKAGES, be_there
from small_guard import guard_config, write_guard
from tritonguard.errors import BundleError
from tritonguard.examples import EXAMPLES
from tritonguard.request import Mode

from build_scripts.exit_status import REFUSED
from build_scripts.tensorrt_llm import warm_up
from build_scripts.tensorrt_llm.compile import compile_bundle
from build_scripts.tensorrt_llm.profiles import PROFILES
from build_scripts.tensorrt_llm.quantize import quantize
from engines.bundle import Bundle


@pytest.fixture(scope="module")
def bf16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("warm_up")
    small = guard_config(num_hidden_layers=1, hidden_size=32, intermediate_size=32)
    return quantize(write_guard(folder / "download", small), folder / "bf16", PROFILES["bf16"])


def test_the_real_engine_answers_every_form(bf16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    be_there(monkeypatch, tmp_path / "machine")
    measured = Bundle.open(compile_bundle(bf16, tmp_path / "b")).manifest["measured"]
    assert measured["load_s"] > 0
    assert list(measured["forms"]) == ["text", "pair", "categories", "think", "image"]
    for form in measured["forms"].values():
        assert form["median_ms"] > 0
        assert form["said"] in ("safe", "unsafe", "indeterminate")


def test_an_engine_that_can_not_be_loaded_ends_the_build(
    bf16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    be_there(monkeypatch, tmp_path / "machine")
    # Recorded as installed, and not to be imported.
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "machine" / "records"))
    with pytest.raises(BundleError, match="the warm-up failed with exit status 2; the reason stands above"):
        compile_bundle(bf16, tmp_path / "b")
    assert "warm_up: TensorRT-LLM could not load the bundle" in capfd.readouterr().err
    assert not (tmp_path / "b").exists()


def test_a_machine_that_does_not_fit_is_found_by_the_engine_too(
    bf16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = compile_bundle(bf16, tmp_path / "b", warmed=False)
    be_there(monkeypatch, tmp_path / "machine", packages=PACKAGES | {"openai": "1.107.3"})
    assert warm_up.main([str(bundle), str(tmp_path / "measured.json")]) == REFUSED
    assert "the openai package is 1.107.3" in capsys.readouterr().err
    assert not (tmp_path / "measured.json").exists()


def test_each_form_has_its_example() -> None:
    examples = {example.id: example for example in EXAMPLES}
    chosen = {form: examples[id] for form, id in warm_up.FORMS.items()}
    assert chosen["pair"].response is not None
    assert chosen["image"].image is not None
    modes = [chosen[form].mode for form in ("text", "pair", "categories", "think", "image")]
    assert modes == [Mode.VERDICT, Mode.VERDICT, Mode.CATEGORIES, Mode.THINK, Mode.VERDICT]
