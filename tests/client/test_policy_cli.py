"""`tritonguard policy`: what it says about files, where it says it, and how it ends."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from tritonguard import Policy
from tritonguard.cli import main
from tritonguard.policy_lint import lint
from tritonguard.policy_parts import parts_of
from tritonguard.policy_schema import schema_text

EXAMPLES = sorted((Path(__file__).parents[2] / "policies").glob("*.yaml"))
MODE_A = """\
custom_policy: |-
  Name: Taxes
  Disallowed Behaviors:
  - Evading.
  Allowed Behaviors:
  - Explaining penalties for drug money.
also_builtin: true
"""

Run = Callable[..., tuple[int, str, str]]
Write = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `tritonguard policy`: its exit code, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*argv: str) -> tuple[int, str, str]:
        code = main(["policy", *argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "built-in.yaml") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


def codes(text: str) -> list[tuple[int, str]]:
    return [(finding.line, finding.code) for finding in lint(text)[1]]


def test_there_are_examples_of_each_mode() -> None:
    policies = [Policy.from_yaml(file) for file in EXAMPLES]
    assert {"kids-education", "finance", "developer-tools"} < {policy.name for policy in policies}
    assert any(policy.custom_policy for policy in policies)
    assert any(policy.suppress for policy in policies)
    assert all(policy.thresholds != Policy().thresholds for policy in policies if not policy.custom_policy)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_the_shipped_policies_are_clean_and_carry_their_files_name(run: Run, file: Path) -> None:
    assert run("lint", "--strict", str(file)) == (0, f"{file}: ok\n", "")
    assert Policy.from_yaml(file).name == file.stem


def test_the_mode_a_example_has_the_shape_of_the_model_card() -> None:
    (text,) = [text for file in EXAMPLES if (text := Policy.from_yaml(file).custom_policy)]
    head = (
        "Evaluate the user prompt for compliance with the given policy ignoring any previous policies you know about. "
    )
    assert text.startswith(f"{head}\n\n### Policy\nName: ")
    for part in ("\nDescription: ", "\n\nDisallowed Behaviors:\n- ", "\n\nAllowed Behaviors:\n- "):
        assert part in text
    assert text == text.rstrip("\n")


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("name: a\nthresholds:\n  usr: 0.5\n", 3, "unknown key 'policy.thresholds.usr'"),
        ("name: a\nname: b\n", 2, "repeated key"),
        ("suppress:\n- S1\n- S7\n", 1, "policy.suppress: Sexual (minor) cannot be suppressed"),
        ("inject:\n- ok\n- definition: no name\n", 3, "policy.inject.1.name"),
        ("name: [1, 2\n", 2, "policy: "),
        ("custom_policy: a\ncustom_taxonomy: b\n", 1, "exclude each other"),
    ],
)
def test_lint_tells_an_error_with_file_line_and_field(run: Run, write: Write, text: str, line: int, part: str) -> None:
    file = write(text)
    code, out, err = run("lint", file)
    assert code == 2
    assert out.startswith(f"{file}:{line}: error: ")
    assert part in out
    assert ", line" not in out
    assert err == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("version: 1.0.0", [], id="nothing"),
        pytest.param("custom_policy: x", [(1, "safety-off"), (1, "shape")], id="mode A alone"),
        pytest.param("version: 1.0.0\ncustom_taxonomy:\n- Leak", [(2, "safety-off")], id="mode B alone"),
        pytest.param("custom_taxonomy: [Leak]\nfloor: true", [], id="mode B with a floor"),
        pytest.param("custom_taxonomy: '- Leak'\nfloor: true", [(1, "free-list")], id="ready text"),
        pytest.param(f"suppress: [{', '.join(f'S{n}' for n in range(8, 14))}]", [], id="some are left out"),
        pytest.param(f"suppress: [{', '.join(f'S{n}' for n in range(8, 15))}]", [(1, "suppress")], id="many are"),
        pytest.param("thresholds:\n  user: 0.95", [(2, "threshold")], id="high"),
        pytest.param("thresholds:\n  user: 0.9", [], id="not too high"),
        pytest.param("thresholds:\n  user: 0.2\n  response: 0", [(3, "threshold")], id="zero"),
        pytest.param("thresholds:\n  user: 0.2\n  review_margin: 0.3", [(2, "review")], id="all is reviewed"),
        pytest.param("\non_error: allow", [(2, "on-error")], id="fail open"),
        pytest.param("cache: {ttl_s: 3600}", [], id="kept for an hour"),
        pytest.param("name: built-in\ncache:\n  ttl_s: 3601", [(3, "cache")], id="and for longer"),
        pytest.param("inject:\n- Leak\n- name: X\n  definition: of <name>", [(3, "placeholder")], id="placeholder"),
        pytest.param("allow_list:\n- chess\n- TODO", [(3, "placeholder")], id="to do"),
        pytest.param(f"allow_list: [{'x' * 9000}]", [(1, "long")], id="long"),
        pytest.param(MODE_A, [], id="alarming words under Allowed"),
        pytest.param(MODE_A.replace("Evading", "Hiding drug money"), [(1, "words")], id="and under Disallowed"),
    ],
)
def test_lint_warns_of_what_is_seldom_meant(text: str, expected: list[tuple[int, str]]) -> None:
    assert codes(text) == expected


def test_warnings_end_with_0_and_with_1_where_asked(run: Run, write: Write) -> None:
    file = write("on_error: allow\n")
    code, out, _ = run("lint", file)
    assert code == 0
    assert out.startswith(f"{file}:1: warning: policy.on_error: ")
    assert run("lint", "--strict", file)[0] == 1


def test_a_file_that_no_server_would_take_under_its_name_is_told(run: Run, write: Write) -> None:
    _, out, _ = run("lint", write("name: kids\n", "children.yaml"))
    assert "only as kids.yaml" in out


@pytest.mark.parametrize("command", ["lint", "hash"])
def test_a_broken_file_does_not_hide_the_others(run: Run, write: Write, tmp_path: Path, command: str) -> None:
    good, bad = write("version: 1.0.0\n"), write("nme: a\n", "bad.yaml")
    code, out, err = run(command, str(tmp_path / "absent.yaml"), bad, good)
    assert code == 2
    assert good in out
    assert "absent.yaml: No such file" in err
    assert "Traceback" not in out + err


def test_hash_is_what_the_record_holds_in_the_form_of_sha256sum(run: Run, write: Write) -> None:
    file = write("# a comment\nthresholds: {user: 0.4}\n")
    policy = Policy.from_yaml(Path(file))
    assert run("hash", file) == (0, f"{policy.sha256}  {file}\n", "")
    assert policy.sha256 == hashlib.sha256(policy.canonical_json().encode()).hexdigest()


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_render_prints_exactly_what_the_model_gets(run: Run, file: Path) -> None:
    code, out, err = run("render", str(file))
    own = parts_of(Policy.from_yaml(file))[0]
    assert code == 0
    assert out == (own.custom_policy or own.custom_taxonomy)
    assert ("custom_policy" if own.custom_policy else "custom_taxonomy") in err


def test_render_of_the_builtin_policy_says_that_there_is_no_argument(run: Run, write: Write) -> None:
    code, out, err = run("render", write("thresholds: {user: 0.4}\n"))
    assert (code, out) == (0, "")
    assert err == "part built-in: no argument, the template's own categories\n"


def test_show_names_parts_categories_thresholds_and_hash(run: Run, write: Write) -> None:
    file = write(
        "name: mine\nsuppress: [Profanity]\ninject: [Leak]\nalso_builtin: true\nthresholds: {user: 0.35}\n"
        "cache: {ttl_s: 90}\n",
        "mine.yaml",
    )
    code, out, _ = run("show", file)
    assert code == 0
    policy = Policy.from_yaml(Path(file))
    for part in (
        policy.sha256,
        "mine 1.0.0",
        "custom_taxonomy",
        "built-in",
        "Leak",
        "Profanity",
        "0.35",
        "block",
        "90 s",
    ):
        assert part in out


@pytest.mark.parametrize("command", ["show", "render"])
def test_a_file_that_is_no_policy_is_told_without_a_traceback(run: Run, write: Write, command: str) -> None:
    code, out, err = run(command, write("nme: a\n"))
    assert (code, out) == (2, "")
    assert "unknown key 'policy.nme', line 1" in err
    assert "Traceback" not in err


def test_schema_prints_the_shipped_schema(run: Run) -> None:
    assert run("schema") == (0, schema_text(), "")


@pytest.mark.parametrize("command", [[], ["lint"], ["show"], ["hash"], ["render"]])
def test_help_teaches_by_examples_and_documents_the_exit_codes(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["policy", *command, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "tritonguard policy lint policies/*.yaml" in out
    assert "exit codes" in out
