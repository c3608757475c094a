"""`tritonguard check` in every mode: what is sent, and how the answer is shown."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from answers import by_text
from cli_calls import Run, lines
from tritonguard import GuardRequest, Label, Mode, Policy, Safety, Verdict
from tritonguard.label import TextLabel
from tritonguard.verdict import decide


class Listening:
    """A server that keeps the requests and answers each with the label that it is given."""

    def __init__(self, **label: Any) -> None:
        self.requests: list[GuardRequest] = []
        self._label = label

    def __call__(self, request: GuardRequest) -> Verdict:
        self.requests.append(request)
        policy = Policy(name=request.policy_name) if request.policy_name else request.policy
        verdict = by_text(request.model_copy(update={"policy": policy, "policy_name": None}))
        return replace(verdict, label=verdict.label.model_copy(update=self._label))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "loaf.png"
    file.write_bytes(b"the bytes of a picture")
    return file


def test_one_text_is_sent_with_its_response_images_mode_and_budget(run: Run, picture: Path) -> None:
    server = Listening()
    argv = ["check", "good", "--response", "fine", "--image", str(picture), "--image", str(picture)]
    assert run(*argv, "--mode", "think", "--think-budget", "7", handler=server)[0] == 0
    (request,) = server.requests
    assert (request.prompt, request.response) == ("good", "fine")
    assert request.images == (b"the bytes of a picture",) * 2
    assert (request.mode, request.think_budget) == (Mode.THINK, 7)


def test_a_response_can_come_from_a_file_or_from_standard_input(run: Run, tmp_path: Path) -> None:
    server = Listening()
    file = tmp_path / "response"
    file.write_text("eine Antwort\nmit ß", encoding="utf-8")
    run("check", "good", "--response-file", str(file), handler=server)
    run("check", "--file", str(file), "--response-file", "-", handler=server, stdin=b"piped")
    assert [request.response for request in server.requests] == ["eine Antwort\nmit ß", "piped"]


def test_a_blank_response_is_refused_and_not_left_out(run: Run) -> None:
    server = Listening()
    code, out, _ = run("check", "good", "--response", "", "--format", "json", handler=server)
    assert (code, server.requests) == (2, [])
    assert lines(out)[0]["error"]["field"] == "response"


def test_an_image_can_be_judged_alone(run: Run, picture: Path) -> None:
    server = Listening()
    code, out, _ = run("check", "--image", str(picture), handler=server)
    assert code == 0
    assert [(request.prompt, len(request.images)) for request in server.requests] == [("", 1)]
    assert "[1 image]" in out


def test_plain_texts_are_sent_as_before(run: Run) -> None:
    server = Listening()
    run("check", "good", "odd", handler=server)
    same = {"request_id": "x"}
    assert [request.model_copy(update=same) for request in server.requests] == [
        GuardRequest(prompt=text, **same) for text in ("good", "odd")
    ]


@pytest.mark.parametrize(
    "name", ["http://127.0.0.1/x.png", "https://a.example/x.png", "file:///x", "data:image/png;base64,AA"]
)
@pytest.mark.parametrize("where", ["option", "row"])
def test_an_address_is_no_image(run: Run, name: str, where: str) -> None:
    server = Listening()
    row = json.dumps({"prompt": "good", "images": [name]}).encode()
    argv = ["good", "--image", name] if where == "option" else ["--jsonl", "-"]
    code, out, _ = run("check", *argv, "--format", "json", handler=server, stdin=row)
    assert (code, server.requests) == (2, [])
    (line,) = lines(out)
    assert (line["error"]["kind"], line["error"]["field"]) == ("invalid_request", "images.0")
    assert "address" in line["error"]["message"]
    assert name not in line["error"]["message"]


def test_an_image_that_cannot_be_read_says_which_and_why(run: Run, picture: Path, tmp_path: Path) -> None:
    pipe, empty = tmp_path / "pipe", tmp_path / "empty"
    os.mkfifo(pipe)
    empty.touch()
    wrong = {str(tmp_path): "plain file", str(pipe): "plain file", str(tmp_path / "absent"): "No such", str(empty): ""}
    for name, said in wrong.items():
        argv = ["check", "good", "--image", str(picture), "--image", name, "--format", "json"]
        code, out, _ = run(*argv)
        assert code == 2
        error = lines(out)[0]["error"]
        assert (error["kind"], error["field"]) == ("invalid_request", "images.1")
        assert said in error["message"]
        assert str(tmp_path) not in error["message"]


def test_an_endless_image_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setattr("tritonguard.cli_input.MAX_IMAGE_FILE_BYTES", 8)
    for size, code in ((8, 0), (9, 2)):
        (tmp_path / "image").write_bytes(b"x" * size)
        got, out, _ = run("check", "good", "--image", str(tmp_path / "image"), "--format", "json")
        assert got == code
    assert lines(out)[0]["error"]["kind"] == "image_too_large"


def test_a_row_brings_images_mode_budget_and_policy(run: Run, picture: Path, tmp_path: Path) -> None:
    server = Listening()
    rows = [
        {"prompt": "good", "images": ["loaf.png"], "mode": "categories"},
        {"images": [str(picture)], "id": "alone"},
        {"prompt": "good", "mode": "think", "think_budget": 5, "policy_name": "strict"},
        {"prompt": "good", "mode": "think"},
        {"prompt": "good", "mode": None, "images": [], "policy_name": None, "think_budget": None},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    argv = ["check", "--jsonl", str(file), "--mode", "categories", "--think-budget", "9", "--policy-name", "mild"]
    code, out, _ = run(*argv, "--format", "json", handler=server)
    assert (code, [line["id"] for line in lines(out)]) == (0, ["line 1", "alone", "line 3", "line 4", "line 5"])
    sent = [(len(r.images), r.mode.value, r.think_budget, r.policy_name) for r in server.requests]
    assert sent == [
        (1, "categories", None, "mild"),
        (1, "categories", None, "mild"),
        (0, "think", 5, "strict"),
        (0, "think", 9, "mild"),
        (0, "categories", None, "mild"),
    ]


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"prompt": "good", "images": "loaf.png"}, "images"),
        ({"prompt": "good", "images": [1]}, "images"),
        ({"prompt": "good", "images": [""]}, "images"),
        ({"prompt": "good", "images": {}}, "images"),
        ({"prompt": "good", "images": ["\0"]}, "images.0"),
        ({"prompt": "good", "images": ["absent.png"]}, "images.0"),
        ({"images": []}, "prompt"),
        ({"prompt": None, "images": ["x.png"]}, "prompt"),
        ({"prompt": "good", "mode": "reason"}, "mode"),
        ({"prompt": "good", "mode": ""}, "mode"),
        ({"prompt": "good", "mode": ["think"]}, "mode"),
        ({"prompt": "good", "think_budget": 5}, "think_budget"),
        ({"prompt": "good", "mode": "think", "think_budget": 0}, "think_budget"),
        ({"prompt": "good", "mode": "think", "think_budget": "5"}, "think_budget"),
        ({"prompt": "good", "mode": "think", "think_budget": True}, "think_budget"),
        ({"prompt": "good", "policy_name": 5}, "policy_name"),
        ({"prompt": "good", "policy_name": ""}, "policy_name"),
    ],
)
def test_a_wrong_value_of_a_row_is_named_and_the_rows_after_it_are_judged(
    run: Run, tmp_path: Path, row: dict[str, Any], field: str
) -> None:
    server = Listening()
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{json.dumps(row)}\n{{"prompt": "good"}}', encoding="utf-8")
    code, out, _ = run("check", "--jsonl", str(file), "--format", "json", handler=server)
    refused, judged = lines(out)
    assert (code, len(server.requests)) == (2, 1)
    assert (refused["id"], refused["error"]["kind"], refused["error"]["field"]) == ("line 1", "invalid_request", field)
    assert judged["outcome"]["decision"] == "allow"


def test_the_table_shows_both_sides_categories_parts_and_the_trace(run: Run) -> None:
    server = Listening(
        categories=("Threat", "Violence"),
        flagged_by=("custom", "built-in"),
        reasoning="The user input\nis \x1b[31munsafe.",
        reasoning_source="synthetic",
    )
    code, out, _ = run("check", "bad text", "--response", "an answer", "--mode", "think", handler=server)
    assert code == 1
    for part in ("bad text", "> an answer", "unsafe / unsafe", "0.970 / 0.970", "categories: Threat, Violence"):
        assert part in out
    assert "flagged by: custom, built-in" in out
    (told,) = [line for line in out.splitlines() if line.startswith("text 1 reasoned")]
    assert told == (
        "text 1 reasoned (source: synthetic, learnt from sentences made by rule): The user input is ·[31munsafe."
    )


def test_a_trace_that_was_cut_or_contradicts_says_so(run: Run) -> None:
    server = Listening(
        reasoning="It is safe.", reasoning_source="model", reasoning_truncated=True, reasoning_contradicts=True
    )
    out = run("check", "bad", "--mode", "think", handler=server)[1]
    assert "text 1 reasoned (source: model, cut off at its budget, CONTRADICTS THE VERDICT): It is safe." in out


def test_no_category_and_the_texts_alone_are_shown(run: Run) -> None:
    def blind(request: GuardRequest) -> Verdict:
        verdict = by_text(request)
        text_only = TextLabel(user_safety=Safety.UNSAFE, p_unsafe_user=0.9)
        label = Label.indeterminate("vision_untrained", has_response=False)
        label = label.model_copy(update={"text_only": text_only, "categories": ()})
        return Verdict(label, decide(label, request.policy), verdict.record)

    code, out, _ = run("check", "good", handler=blind)
    assert code == 1
    for part in ("indeterminate", "block", "(text only, user)", "categories: none", "texts alone: unsafe"):
        assert part in out


def test_json_lines_keep_their_shape_in_every_mode(run: Run) -> None:
    server = Listening(categories=("Threat",), flagged_by=("built-in",), reasoning="r", reasoning_source="model")
    (line,) = lines(run("check", "bad", "--response", "r", "--format", "json", handler=server)[1])
    assert list(line) == ["id", "latency_ms", "label", "outcome", "record"]
    assert line["label"]["categories"] == ["Threat"]
    assert line["label"]["reasoning"] == "r"
