"""The whole command against the behavioural double: every answer is recorded, as the double's, and taken up nowhere."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from gpu_machine import be_there, double_on_path
from small_guard import guard_config, write_guard

from benchmarks.gpu_day_one import __main__ as command
from benchmarks.gpu_day_one import parity, served
from benchmarks.gpu_day_one.apply import apply
from benchmarks.gpu_day_one.findings import SHIPPED, BehaviourError, read_behaviour
from benchmarks.gpu_day_one.recording import Recording
from benchmarks.gpu_day_one.statements import ROOT
from build_scripts.parity_corpus import read_corpus
from build_scripts.tensorrt_llm import quantize
from build_scripts.tensorrt_llm.compile import compile_bundle

TEMPLATE = """\
{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}\
{% if part.type == 'image' %}<start_of_image>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<end_of_turn>
{% endfor %}<start_of_turn>model
"""
WRONG = "stop_ids_trimmed"
"""An assumption that the test turns round."""
UNLIKE_A_GUARD = ("one request of one token", "judge a safe and an unsafe example right", "those of bf16")
"""Questions that random weights answer otherwise than the guard does."""


@pytest.fixture(scope="module")
def double() -> Iterator[None]:
    with double_on_path():
        yield


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random guard with a short template, quantized to bf16 and compiled, as a user would."""
    folder = tmp_path_factory.mktemp("day")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "head_dim": 16, "num_hidden_layers": 2}
    source = write_guard(folder / "downloaded", guard_config(**sizes))
    (source / "chat_template.jinja").write_text(TEMPLATE)
    arguments = ["--profile", "bf16", "--checkpoint", str(source), "--out", str(folder / "bf16")]
    assert quantize.main(arguments) == 0
    return compile_bundle(folder / "bf16", folder / "bundle", max_tokens=300, warmed=False)


def here(function: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
    """In this process, since the double dies of nothing that it is asked; what would go to another one can go there."""
    function, arguments = pickle.loads(pickle.dumps((function, arguments)))
    return pickle.loads(pickle.dumps(function(*arguments)))


@pytest.fixture(scope="module")
def day(double: None, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path, str]:
    """Exit status, folder of the record, and what was printed, with one assumption turned round."""
    folder = tmp_path_factory.mktemp("record")
    assumed = read_behaviour()
    assumed[WRONG]["value"] = not assumed[WRONG]["value"]
    (folder / "behaviour.json").write_text(json.dumps(assumed))
    with pytest.MonkeyPatch.context() as patch:
        be_there(patch, folder / "machine")
        patch.setattr(parity, "read_corpus", lambda: read_corpus()[:8])
        patch.setattr(served, "ROWS", (("verdict", 2), ("image", 1), ("categories", 1)))
        arguments = ["--bundle", str(bundle), "--reference", str(bundle), "--record", str(folder), "--seconds", "0"]
        with redirect_stdout(StringIO()) as printed:
            status = command.main([*arguments, "--behaviour", str(folder / "behaviour.json")], run=here)
    return status, folder, printed.getvalue()


def recorded(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / command.RECORDING).read_text())
    return values


def test_each_assumption_that_can_be_asked_is_answered(day: tuple[int, Path, str]) -> None:
    values, assumed = recorded(day[1]), read_behaviour()
    asked = values["behaviours"].keys() & assumed.keys()
    assert len(asked) >= 18
    assert {name: values["behaviours"][name]["value"] for name in asked} == {
        name: assumed[name]["value"] for name in asked
    }
    assert {one["evidence"] for one in values["behaviours"].values()} == {"double"}
    assert values["evidence"] == "double"


def test_another_behaviour_than_assumed_is_told_in_plain_words(day: tuple[int, Path, str]) -> None:
    status, folder, printed = day
    assert status == command.DIFFERS
    assert "Is a stop token taken out of the ids?" in printed
    assert "assumed: false; found: true" in printed
    assert "what to do: engines/tensorrt_llm/replies.py" in printed
    differences = "\n".join(recorded(folder)["differences"])
    assert differences.count("(DIFFERS)") == 1 + len(UNLIKE_A_GUARD)
    assert all(question in differences for question in UNLIKE_A_GUARD)
    assert "COULD NOT BE TOLD" not in differences
    assert "assumed: false; found: true" in (folder / command.REPORT).read_text()


def test_what_was_measured_is_recorded(day: tuple[int, Path, str]) -> None:
    values = recorded(day[1])
    assert [row["kind"] for row in values["measured"]["latency"]] == ["verdict", "image", "categories"]
    assert all(row["answered"] and not row["failed"] for row in values["measured"]["latency"])
    assert "0 of " in values["statements"]["parity-bf16"]
    assert "loads-bf16-h100" in values["statements"]
    assert values["hardware"]["gpu"] == "NVIDIA H100 80GB HBM3"
    assert values["command"] == "python -m benchmarks.gpu_day_one --bundle bundle --reference bundle"


def test_nothing_is_taken_up_from_the_double(day: tuple[int, Path, str], tmp_path: Path) -> None:
    for name in ("tests/tensorrt_llm_double/behaviour.json", "docs/gpu_statements.json", "docs/gpu.md", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(BehaviourError, match="only what the real tensorrt_llm answered on a GPU"):
        apply(day[1] / command.RECORDING, tmp_path)
    assert {path: path.read_bytes() for path in before} == before
    assert command.main(["--apply", str(day[1] / command.RECORDING)]) == command.CANNOT_RUN


def test_a_recording_of_the_real_package_is_taken_up(day: tuple[int, Path, str], tmp_path: Path) -> None:
    for name in ("tests/tensorrt_llm_double/behaviour.json", "docs/gpu_statements.json", "docs/gpu.md", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    real = replace(Recording.read(day[1] / command.RECORDING), evidence="recorded")
    real.write(tmp_path / "recording.json")
    assert len(apply(tmp_path / "recording.json", tmp_path)) == 4
    merged = read_behaviour(tmp_path / "tests/tensorrt_llm_double/behaviour.json")
    assert list(merged) == list(read_behaviour(SHIPPED))
    assert "H100" in (tmp_path / "README.md").read_text()
    assert apply(tmp_path / "recording.json", tmp_path) == ["nothing changed"]


def test_a_machine_that_cannot_run_it_loads_nothing(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setenv("PATH", str(tmp_path))
    assert command.main(["--bundle", str(bundle), "--record", str(tmp_path / "r")], run=never) == command.CANNOT_RUN
    printed = capsys.readouterr().err
    assert "there is no nvidia-smi" in printed
    assert "what to do" in printed
    assert not (tmp_path / "r").exists()


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--bundle", str(tmp_path)]) == command.CANNOT_RUN
    assert "manifest" in capsys.readouterr().err
