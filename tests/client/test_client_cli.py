from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from answers import always, by_text
from cli_calls import Run, lines
from tritonguard import ERRORS, Guard, GuardRequest, MockTransport, Policy, Readiness, Verdict
from tritonguard.cli import main
from tritonguard.cli_input import count_rows
from tritonguard.cli_output import printable
from tritonguard.retries import Retries
from tritonguard.tls import Tls


def failing(kind: str) -> Callable[[GuardRequest], Verdict]:
    def handler(request: GuardRequest) -> Verdict:
        raise ERRORS[kind].error("told", field="prompt")

    return handler


@pytest.mark.parametrize(
    ("texts", "code"),
    [(["good"], 0), (["bad"], 1), (["good", "bad", "good"], 1), (["", "bad"], 2), (["x", ""], 2)],
)
def test_the_exit_code_is_the_worst_that_applies(run: Run, texts: list[str], code: int) -> None:
    assert run("check", *texts)[0] == code


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("invalid_request", 2),
        ("prompt_too_long", 2),
        ("invalid_image", 2),
        ("image_too_large", 2),
        ("unimplemented", 2),
        ("unavailable", 3),
        ("overloaded", 3),
        ("deadline_exceeded", 3),
        ("internal", 3),
        ("bundle", 3),
        ("unsupported_contract", 3),
    ],
)
def test_errors_have_their_exit_code_and_no_traceback(run: Run, kind: str, code: int) -> None:
    got, out, err = run("check", "text", handler=failing(kind))
    assert got == code
    assert "Traceback" not in out + err


def test_an_indeterminate_verdict_is_flagged_not_a_server_error(run: Run) -> None:
    assert run("check", "text", handler=always(None))[0] == 1


def test_a_review_is_flagged(run: Run, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("thresholds: {review_margin: 0.1}", encoding="utf-8")
    assert run("check", "odd")[0] == 0
    code, out, _ = run("check", "odd", "--policy", str(policy), "--format", "json")
    assert code == 1
    assert lines(out)[0]["outcome"]["decision"] == "review"


def test_a_policy_of_the_server_is_asked_for_by_its_name(run: Run) -> None:
    names: list[str | None] = []

    def handler(request: GuardRequest) -> Verdict:
        names.append(request.policy_name)
        return by_text(request.model_copy(update={"policy": Policy(name="strict"), "policy_name": None}))

    code, out, _ = run("check", "good", "--policy-name", "strict", "--format", "json", handler=handler)
    assert (code, names) == (0, ["strict"])
    assert lines(out)[0]["record"]["policy_name"] == "strict"


def test_a_policy_and_a_name_exclude_each_other(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run("check", "good", "--policy", "f.yaml", "--policy-name", "strict")
    assert caught.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


def test_the_table_shows_text_verdict_and_reason(run: Run) -> None:
    _, out, _ = run("check", "good text", "bad text")
    for part in (
        "good text",
        "safe",
        "0.030",
        "allow",
        "bad text",
        "unsafe",
        "0.970",
        "block",
        ">= threshold",
    ):
        assert part in out


def test_the_table_shows_text_as_it_is_and_nothing_that_a_terminal_obeys(run: Run) -> None:
    _, out, _ = run("check", "[red]x[/red] :bomb: \x1b[31m")
    assert "[red]x[/red] :bomb: ·[31m" in out
    assert "\x1b" not in out


def test_json_lines_hold_the_verdict_and_not_the_text(run: Run) -> None:
    _, out, _ = run("check", "a good secret", "--format", "json")
    (line,) = lines(out)
    assert line["id"] == "text 1"
    assert line["label"]["user_safety"] == "safe"
    assert line["outcome"]["decision"] == "allow"
    assert line["record"]["model_revision"] == "test"
    assert line["latency_ms"] >= 0
    assert "secret" not in out


def test_each_file_is_one_text(run: Run, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_text("good\nlines\n", encoding="utf-8")
    bad.write_text("bad", encoding="utf-8")
    code, out, _ = run("check", "--file", str(good), "--file", str(bad), "--format", "json")
    assert code == 1
    assert [(line["id"], line["outcome"]["decision"]) for line in lines(out)] == [
        (str(good), "allow"),
        (str(bad), "block"),
    ]


def test_a_file_that_cannot_be_judged_is_answered_and_the_others_too(run: Run, tmp_path: Path) -> None:
    binary, good = tmp_path / "binary", tmp_path / "good"
    binary.write_bytes(b"\xff\xfe")
    good.write_text("good", encoding="utf-8")
    names = [str(tmp_path / "absent"), str(binary), str(good)]
    code, out, _ = run("check", *(part for name in names for part in ("--file", name)), "--format", "json")
    assert code == 2
    absent, not_text, judged = lines(out)
    assert [absent["error"]["kind"], not_text["error"]["kind"]] == ["invalid_request"] * 2
    assert "UTF-8" in not_text["error"]["message"]
    assert judged["outcome"]["decision"] == "allow"


def test_a_dash_is_one_text_from_standard_input(run: Run) -> None:
    code, out, _ = run("check", "--file", "-", "--format", "json", stdin=b"bad\nlines")
    assert code == 1
    assert len(lines(out)) == 1


ROWS = b"""\
{"prompt": "good", "id": "first"}

{"prompt": "bad", "id": 7}
not json
{"prompt": "good", "respnse": "typo"}
{"id": "no prompt"}
[1]
{"prompt": "lone \\ud800"}
{"prompt": "\xff"}
{"prompt": "good", "response": 5}
{"prompt": "good", "id": [1]}
{"prompt": "good", "response": "fine"}
"""


def test_every_row_is_answered_the_malformed_ones_with_their_line(run: Run) -> None:
    code, out, err = run("check", "--jsonl", "-", "--format", "json", stdin=ROWS)
    answers = lines(out)
    assert code == 2
    assert json.loads(err)["rows"] == 11
    assert [answer["id"] for answer in answers] == [
        "first",
        "7",
        "line 4",
        "line 5",
        "line 6",
        "line 7",
        "line 8",
        "line 9",
        "line 10",
        "line 11",
        "line 12",
    ]
    judged = {answer["id"]: answer["outcome"]["decision"] for answer in answers if "outcome" in answer}
    assert judged == {"first": "allow", "7": "block", "line 12": "allow"}
    fields = [answer["error"]["field"] for answer in answers if "error" in answer]
    assert fields == ["row", "respnse", "prompt", "row", "prompt", "row", "response", "id"]
    assert answers[-1]["label"]["response_safety"] == "safe"


def test_a_jsonl_file_is_read_and_counted(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(ROWS)
    assert count_rows(str(file)) == 11
    assert count_rows("-") is None
    assert len(lines(run("check", "--jsonl", str(file), "--format", "json")[1])) == 11


def test_the_server_going_away_is_said_for_every_row(run: Run) -> None:
    code, out, _ = run(
        "check",
        "--jsonl",
        "-",
        "--format",
        "json",
        stdin=b'{"prompt": "a"}\n' * 3,
        handler=failing("unavailable"),
    )
    assert code == 3
    assert [line["outcome"]["reason"] for line in lines(out)] == ["on_error=block: unavailable"] * 3


@pytest.mark.parametrize("form", ["json", "table"])
def test_answers_go_to_a_file(run: Run, tmp_path: Path, form: str) -> None:
    file = tmp_path / "out"
    code, out, _ = run("check", "good", "--format", form, "--out", str(file))
    assert (code, out) == (0, "")
    assert "allow" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["check"],
        ["chekc", "x"],
        ["check", "x", "--format", "xml"],
        ["check", "x", "--deadline", "soon"],
        ["check", "--file", "-", "--jsonl", "-"],
        ["check", "--file", "-", "--response-file", "-"],
        ["check", "--response", "y"],
        ["check", "x", "--response", "y", "--response-file", "f"],
        ["check", "x", "z", "--response", "y"],
        ["check", "x", "--file", "f", "--image", "i.png"],
        ["check", "--jsonl", "-", "--image", "i.png"],
        ["check", "x", "--jsonl", "-", "--response", "y"],
        ["check", "x", "--mode", "reason"],
        ["check", "x", "--jsonl", "-"],
        ["check", "x", "--think-budget", "9"],
        ["check", "x", "--concurrency", "2"],
        ["check", "--in", "-", "--concurrency", "0"],
        ["check", "x", "--out", "o", "--restart"],
        ["check", "--in", "r", "--retry-errors"],
        ["check", "--in", "r", "--out", "-", "--restart"],
        ["check", "--in", "r", "--out", "/dev/null", "--retry-errors"],
        ["check", "--in", "r", "--out", "o", "--restart", "--retry-errors"],
        ["check", "--in", "r", "--out", "o", "--format", "table"],
        ["check", "x", "--mode", "think", "--think-budget", "many"],
    ],
)
def test_wrong_usage_exits_with_2(run: Run, argv: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*argv)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["check", "x", "--policy", "{absent}"], "No such file"),
        (["check", "x", "--policy", "{policy}"], "policy.thresold"),
        (["check", "--jsonl", "{absent}"], "No such file"),
        (["check", "x", "--out", "{absent}/out"], "No such file"),
        (["check", "x", "--response-file", "{absent}"], "No such file"),
        (["check", "x", "--response-file", "{binary}"], "not valid UTF-8"),
        (["check", "x", "--response-file", ""], "Is a directory"),
        (["check", "--in", "{binary}", "--out", "{binary}"], "the same file"),
        (["check", "--in", "{binary}", "--out", "{absent}/out"], "No such file"),
        (["check", "x", "--tls-cert", "{binary}"], "come together"),
        (["health", "--tls-key", "{binary}"], "come together"),
        (["health", "--retries", "-1"], "attempts"),
    ],
)
def test_a_wrong_call_is_explained_before_anything_is_judged(
    run: Run, tmp_path: Path, argv: list[str], said: str
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("thresold: 1", encoding="utf-8")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    places = {"absent": str(tmp_path / "absent"), "policy": str(policy), "binary": str(binary)}
    code, out, err = run(*(part.format(**places) for part in argv))
    assert (code, out) == (2, "")
    assert err.startswith("tritonguard: ")
    assert said in err


def test_a_deadline_out_of_range_is_an_input_that_cannot_be_judged(run: Run) -> None:
    assert run("check", "x", "--deadline", "0")[0] == 2


def test_an_interrupt_ends_without_traceback_and_keeps_what_is_judged(run: Run) -> None:
    def handler(request: GuardRequest) -> Verdict:
        if request.prompt == "stop":
            raise KeyboardInterrupt
        return by_text(request)

    code, out, err = run("check", "good", "stop", "--format", "json", handler=handler)
    assert code == 130
    assert [line["id"] for line in lines(out)] == ["text 1"]
    assert err == ""


@pytest.mark.parametrize("form", ["table", "json"])
def test_health_is_0_for_right_verdicts_and_3_for_wrong_ones(run: Run, form: str) -> None:
    assert run("health", "--format", form)[0] == 0
    assert run("health", "--format", form, handler=always(0.03))[0] == 3
    code, out, _ = run("health", "--format", form, handler=failing("unavailable"))
    assert code == 3
    assert "unavailable" in out


def test_health_of_a_server_that_is_not_ready_is_3(capsys: pytest.CaptureFixture[str]) -> None:
    down = Readiness(live=False, ready=False, model_ready=False)
    assert main(["health"], transport=MockTransport(by_text, readiness=down)) == 3
    assert "unhealthy" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["--help"], ["check", "--help"], ["health", "--help"]])
def test_help_teaches_by_examples_and_documents_the_exit_codes(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 0
    out = capsys.readouterr().out
    for taught in ("tritonguard check --in rows.jsonl --out verdicts.jsonl", "--retry-errors", "--restart"):
        assert taught in out
    assert "exit codes" in out


def test_printable_keeps_letters_of_all_languages() -> None:
    assert printable("परीक्षा 请 é") == "परीक्षा 请 é"
    assert printable("a\u202eb\r") == "a·b·"


def test_urls_and_tls_files_reach_the_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[tuple[object, dict[str, object]]] = []

    def guard(url: object, **options: object) -> Guard:
        made.append((url, options))
        return Guard(transport=MockTransport(by_text))

    monkeypatch.setattr("tritonguard.cli.Guard", guard)
    ca = tmp_path / "ca.pem"
    argv = ["--url", "a:1", "--url", "b:2", "--tls-ca", str(ca), "--tls-server-name", "guard.example", "--retries", "4"]
    assert main(["health", *argv]) == 0
    assert main(["check", "good"]) == 0
    assert main(["check", "good", "--tls"]) == 0
    (two, options), (one, plain), (_, bare) = made
    assert (two, one) == (["a:1", "b:2"], "127.0.0.1:8001")
    assert options["tls"] == Tls(ca=ca, server_name="guard.example")
    assert options["retries"] == Retries(attempts=5)
    assert (plain["tls"], plain["retries"], bare["tls"]) == (None, Retries(), Tls())
