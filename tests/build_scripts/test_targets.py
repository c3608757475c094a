"""`--target` picks whose script reads the rest of the command line; OpenVINO's where nothing is said."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from build_scripts import compile, quantize

COMMANDS = {"quantize": quantize, "compile": compile}


@pytest.fixture(params=COMMANDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def asked(name: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """(package, its command line) of every call of a target's script; none of them is imported."""
    calls: list[tuple[str, list[str]]] = []
    for package in ("openvino", "tensorrt_llm"):

        def main(argv: list[str], package: str = package) -> int:
            calls.append((package, argv))
            return 3

        monkeypatch.setitem(sys.modules, f"build_scripts.{package}.{name}", SimpleNamespace(main=main))  # type: ignore[arg-type]
    return calls


@pytest.mark.parametrize(
    ("line", "package", "rest"),
    [
        (["--out", "o"], "openvino", ["--out", "o"]),
        ([], "openvino", []),
        (["--target", "openvino", "--out", "o"], "openvino", ["--out", "o"]),
        (["--out", "o", "--target=openvino", "--force"], "openvino", ["--out", "o", "--force"]),
        (["--target", "tensorrt-llm", "--out", "o"], "tensorrt_llm", ["--out", "o"]),
        (["--target=tensorrt-llm"], "tensorrt_llm", []),
        (["--target", "openvino", "--help"], "openvino", ["--help"]),
        (["-h", "--target=tensorrt-llm"], "tensorrt_llm", ["--help"]),
        (["--tar", "x"], "openvino", ["--tar", "x"]),  # no abbreviation: --t may be a target's own
    ],
)
def test_the_targets_script_gets_the_rest_and_its_status_is_the_commands(
    name: str, asked: list[tuple[str, list[str]]], line: list[str], package: str, rest: list[str]
) -> None:
    assert COMMANDS[name].main(line) == 3
    assert asked == [(package, rest)]


def test_help_without_a_target_names_them(
    name: str, asked: list[tuple[str, list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert COMMANDS[name].main(["--help"]) == 0
    said = capsys.readouterr().out
    assert f"usage: python -m build_scripts.{name} " in said
    assert "{openvino,tensorrt-llm}" in said
    assert f"python -m build_scripts.{name} --target TARGET --help" in said
    assert asked == []


@pytest.mark.parametrize("line", [["--target", "onnx"], ["--target=onnx", "--help"], ["--target"]])
def test_an_unknown_target_is_wrong_usage(
    name: str, asked: list[tuple[str, list[str]]], line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        COMMANDS[name].main(line)
    assert raised.value.code == 2
    assert "--target" in capsys.readouterr().err
    assert asked == []


def test_the_targets_own_help_is_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        COMMANDS[name].main(["--target", "openvino", "--help"])
    assert raised.value.code == 0
    said = capsys.readouterr().out
    assert f"usage: python -m build_scripts.{name} --target openvino" in said
    assert "--checkpoint" in said
