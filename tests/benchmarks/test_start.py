"""What a measurement of starts compares, and what it says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import start as script
from benchmarks.start import SHIPPED, WITHOUT, Start, main, measure, median_s, table, without_compiled
from engines.bundle import Bundle
from engines.manifest import read_manifest, write_manifest

FILES = {"graph.xml": "<net/>", "graph.bin": "weights", "graph.f32-g0.blob": "compiled", "notices/LICENSE": "terms"}


def bundle(folder: Path, *, without: str = "") -> Path:
    for name, content in FILES.items():
        if name != without:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
    write_manifest(folder, kind="bundle", inputs={"checkpoint_revision": "c"}, target="openvino", precision="f32")
    return folder


def takes(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float]) -> list[str]:
    """Starts take so long, by the name of the bundle's folder; which were started is added to the list."""
    started: list[str] = []

    def start(folder: Path, log: Path) -> Start:
        kind = WITHOUT if not list(folder.glob("*.blob")) else SHIPPED
        started.append(kind)
        return Start(seconds[kind] - 0.5, seconds[kind])

    monkeypatch.setattr(script, "start", start)
    return started


def test_the_copy_is_the_same_bundle_without_the_compiled_graph(tmp_path: Path) -> None:
    source = bundle(tmp_path / "b")
    copy = Bundle.open(without_compiled(source, tmp_path / "copy"))
    assert set(copy.manifest["files"]) == set(FILES) - {"graph.f32-g0.blob"}
    for name in copy.manifest["files"]:
        assert (copy.folder / name).samefile(source / name), name
    original = read_manifest(source)
    for name in set(original) - {"revision", "files"}:
        assert copy.manifest[name] == original[name], name
    Bundle.open(source)


def test_starts_are_taken_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = takes(monkeypatch, {SHIPPED: 2.0, WITHOUT: 6.0})
    source = bundle(tmp_path / "b")
    bundles = {SHIPPED: source, WITHOUT: without_compiled(source, tmp_path / "copy")}
    starts = measure(bundles, 3)
    assert started == [SHIPPED, WITHOUT, WITHOUT, SHIPPED, SHIPPED, WITHOUT]
    assert starts == {SHIPPED: [Start(1.5, 2.0)] * 3, WITHOUT: [Start(5.5, 6.0)] * 3}


def test_the_table_holds_median_least_and_most() -> None:
    starts = [Start(1.0, 2.0), Start(1.5, 9.0), Start(1.25, 2.5)]
    assert median_s(starts) == 2.5
    assert table({SHIPPED: starts}).splitlines()[2:] == [
        "| as shipped: ready | 3 | 1.250 | 1.000 | 1.500 |",
        "| as shipped: first verdict | 3 | 2.500 | 2.000 | 9.000 |",
    ]


@pytest.mark.parametrize(
    ("seconds", "arguments", "code"),
    [(2.9, [], 0), (3.1, [], 1), (3.1, ["--most", "4"], 0), (0.6, ["--most", "0.5"], 1)],
)
def test_the_median_decides_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, arguments: list[str], code: int
) -> None:
    started = takes(monkeypatch, {SHIPPED: seconds})
    assert main(["--bundle", str(bundle(tmp_path / "b")), "--times", "2", *arguments]) == code
    assert started == [SHIPPED] * 2


def test_the_ratio_is_printed_and_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    takes(monkeypatch, {SHIPPED: 2.0, WITHOUT: 5.0})
    assert main(["--bundle", str(bundle(tmp_path / "b")), "--times", "1", "--without-cache"]) == 0
    assert "ratio without / with the compiled graph: 2.50\n" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_what_cannot_be_compared_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    takes(monkeypatch, {})
    old = bundle(tmp_path / "b", without="graph.f32-g0.blob")
    arguments: list[Any] = ["--times", "1", "--without-cache", "--bundle"]
    assert main([*arguments, str(old)]) == 2
    assert "start: b has no compiled graph" in capsys.readouterr().err
    assert main([*arguments, str(tmp_path / "none")]) == 2
    assert "start: none has no readable manifest.json" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--times", "0"])
