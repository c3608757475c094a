"""The protocol page says what the contract's code says, and notices when it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from tritonguard import ERRORS, Record
from tritonguard.tensors import REQUEST, VERDICT

from build_scripts import protocol_document
from build_scripts.protocol_document import BLOCKS, DOCUMENT, document, main


def test_the_committed_page_is_what_would_be_written() -> None:
    assert main(["--check"]) == 0, "run python -m build_scripts.protocol_document"


def test_the_page_names_every_tensor_error_and_key() -> None:
    page = DOCUMENT.read_text(encoding="utf-8")
    names = [*(spec.name for spec in (*REQUEST, *VERDICT)), *ERRORS, *Record.model_fields]
    assert [name for name in names if f"| `{name}` |" not in page] == []


def test_a_stale_page_is_told_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = DOCUMENT.read_text(encoding="utf-8")
    stale = tmp_path / "protocol.md"
    stale.write_text(page.replace("| `overloaded` |", "| `crowded` |"), encoding="utf-8")
    monkeypatch.setattr(protocol_document, "DOCUMENT", stale)
    assert main(["--check"]) == 1
    assert "stale" in capsys.readouterr().err
    assert main([]) == 0
    assert stale.read_text(encoding="utf-8") == page


@pytest.mark.parametrize("block", BLOCKS)
def test_a_page_that_lost_a_block_is_refused(block: str) -> None:
    page = DOCUMENT.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="each of these blocks once"):
        document(page.replace(f"<!-- generated: {block} -->", ""))


def test_a_block_without_an_end_is_refused() -> None:
    before, end, after = DOCUMENT.read_text(encoding="utf-8").rpartition("<!-- end -->")
    assert end
    with pytest.raises(ValueError, match="no end"):
        document(before + after)


def test_a_kind_of_error_that_nobody_described_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol_document, "ERRORS", {**ERRORS, "novel": ERRORS["internal"]})
    with pytest.raises(KeyError, match="novel"):
        document(DOCUMENT.read_text(encoding="utf-8"))
