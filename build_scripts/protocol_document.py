"""Writes the tables of docs/protocol.md from the contract's own.

    python -m build_scripts.protocol_document            # write them anew
    python -m build_scripts.protocol_document --check    # exit status 1 where the file is not what would be written

The prose of that page is written by hand. A table stands between `<!-- generated: NAME -->` and `<!-- end -->` and is
made from the tensors, errors, record, label and limits of the client package, so that the page never says anything
else than the code. What a key means and whether an error is worth another try is said here, once for each: a new key
or kind without its line is an error.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tritonguard import limits, verdict
from tritonguard.errors import ERRORS, ErrorSpec
from tritonguard.label import Label, Safety
from tritonguard.request import DEFAULT_THINK_BUDGET
from tritonguard.tensors import CONTRACT_VERSION, REQUEST, SUPPORTED_CONTRACTS, VERDICT, TensorSpec
from tritonguard.verdict import Decision, Outcome, Record, Verdict

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "protocol.md"
EXAMPLE = ROOT / "examples" / "curl.sh"

GRPC_STATUS: Mapping[str, str] = {
    "INVALID_ARG": "INVALID_ARGUMENT",
    "UNSUPPORTED": "UNIMPLEMENTED",
    "CANCELLED": "CANCELLED",
    "UNAVAILABLE": "UNAVAILABLE",
    "INTERNAL": "INTERNAL",
}
"""What Triton 2.51 answers by gRPC to each code of `pb_utils.TritonError`; `tests/e2e/test_e2e_protocol.py` asks it."""

HTTP_STATUS: Mapping[str, int] = {
    "INVALID_ARG": 400,
    "UNSUPPORTED": 501,
    "CANCELLED": 400,
    "UNAVAILABLE": 503,
    "INTERNAL": 500,
}
"""And by HTTP."""

RETRY: Mapping[str, str] = {
    "invalid_request": "no",
    "prompt_too_long": "no",
    "invalid_image": "no",
    "image_too_large": "no",
    "unsupported_contract": "no",
    "unimplemented": "no",
    "deadline_exceeded": "only with new time",
    "overloaded": "later, not at once",
    "unavailable": "yes, with growing pauses",
    "internal": "no",
    "bundle": "no",
    "indeterminate": "no",
}

MEANINGS: Mapping[str, str] = {
    "reasoning_truncated": "the budget ended the reasoning",
    "probability_bounded": "a p_unsafe is a bound: one of its options was not among the tokens that the engine reports",
    "reasoning_contradicts": "its last statement about a side says the opposite of the label",
    "flagged_by": "parts of the policy under which a side is unsafe: `built-in`, `custom`, `floor`",
    "text_only": "label of the texts alone, where images could not be judged: `user_safety`, `response_safety`, "
    "`p_unsafe_user`, `p_unsafe_response`",
    "p_unsafe_user": "the first value of P_UNSAFE; null in the place of NaN",
    "p_unsafe_response": "the second",
    "contract_version": "that the server answered in",
    "request_id": "the caller's",
    "policy_name": "of the policy that was judged",
    "policy_sha256": "of its canonical JSON; of a named policy, the server's",
    "judged": "parts of the policy that were judged: `built-in`, `custom`, `floor`",
    "floor_sha256": "of the operator's floor, if that was one of them",
    "image_sha256": "of each image's decoded pixels",
    "model_revision": "of the model; null: not known",
    "bundle_revision": "of the compiled bundle; null: not known",
    "engine": "that ran it; null: not known",
    "precision": "it ran in; null: not known",
    "prompt_tokens": "of all rendered prompts",
    "prefix_tokens": "of them, those whose keys and values were in the cache of prefixes",
    "cached": "the answer was kept from the same request before, as the policy's `cache` allows; no model ran",
    "timings_ms": "milliseconds by stage; the stages' names may change",
}


def document(text: str) -> str:
    """`text` with the contents of its blocks made anew. Raises ValueError for an unknown, lost or repeated block."""
    found = re.findall(r"<!-- generated: (.*?) -->", text)
    if sorted(found) != sorted(BLOCKS):
        raise ValueError(f"the page needs each of these blocks once: {', '.join(BLOCKS)}; it has {', '.join(found)}")

    def fresh(match: re.Match[str]) -> str:
        return f"<!-- generated: {match[1]} -->\n{BLOCKS[match[1]]()}\n<!-- end -->"

    written, count = re.subn(r"<!-- generated: ([^\n]*?) -->\n.*?<!-- end -->", fresh, text, flags=re.DOTALL)
    if count != len(BLOCKS):
        raise ValueError("a block has no end")
    return written


def requests() -> str:
    """The table of inputs."""
    rows = [
        (*_tensor(spec), "no" if spec.optional else "yes", _bytes(limits.REQUEST_BYTES.get(spec.name)), _cell(spec.doc))
        for spec in REQUEST
    ]
    return _table(("tensor", "type", "shape", "required", "most, each", "what it holds"), rows)


def verdicts() -> str:
    """The table of outputs."""
    return _table(("tensor", "type", "shape", "what it holds"), [(*_tensor(spec), _cell(spec.doc)) for spec in VERDICT])


def errors() -> str:
    """The table of errors, with the statuses that arrive."""
    rows = [
        (f"`{kind}`", spec.meaning, _grpc(spec), str(_http(spec)), "yes" if spec.on_error else "no", RETRY[kind])
        for kind, spec in ERRORS.items()
    ]
    return _table(("kind", "when", "gRPC", "HTTP", "`on_error`", "the same again"), rows)


def details() -> str:
    """The keys of LABEL_DETAILS, as `to_tensors` writes them."""
    sample = Verdict(
        Label(user_safety=Safety.SAFE, p_unsafe_user=0.25),
        Outcome(decision=Decision.ALLOW, reason="a sample"),
        Record(contract_version=CONTRACT_VERSION, request_id="1", policy_name="built-in", policy_sha256="0" * 64),
    )
    written = json.loads(verdict.to_tensors(sample)["LABEL_DETAILS"][0, 0])
    return _keys(Label.model_json_schema(), written)


def record() -> str:
    """The keys of RECORD."""
    return _keys(Record.model_json_schema(), Record.model_fields)


def bounds() -> str:
    """The limits that are no size of a tensor, which are in the table of inputs."""
    seconds = limits.MAX_DEADLINE_S
    rows = [
        ("DEADLINE_MS", f"1 to {round(seconds * 1000)}"),
        ("THINK_BUDGET", f"1 to {limits.MAX_THINK_BUDGET} tokens; {DEFAULT_THINK_BUDGET} where none is given"),
        ("IMAGES", f"{limits.MAX_IMAGES}; each {limits.MAX_IMAGE_PIXELS} pixels, {limits.MAX_IMAGE_SIDE} a side"),
        ("prompt as rendered", "the token budget of the bundle; `prompt_too_long` says which"),
    ]
    return _table(("what", "at most"), rows)


def versions() -> str:
    """The contract versions of this release."""
    known = ", ".join(str(number) for number in sorted(SUPPORTED_CONTRACTS))
    return f"This release speaks contract version {CONTRACT_VERSION}; its server answers: {known}."


def example() -> str:
    """The curl example, whole."""
    return f"```sh\n{EXAMPLE.read_text().rstrip()}\n```"


BLOCKS: Mapping[str, Callable[[], str]] = {
    "versions": versions,
    "curl": example,
    "request": requests,
    "limits": bounds,
    "verdict": verdicts,
    "label details": details,
    "record": record,
    "errors": errors,
}


def _grpc(spec: ErrorSpec) -> str:
    return GRPC_STATUS[spec.triton_code]


def _http(spec: ErrorSpec) -> int:
    return HTTP_STATUS[spec.triton_code]


def _tensor(spec: TensorSpec) -> tuple[str, str, str]:
    shape = ", ".join("n" if size == -1 else str(size) for size in (1, *spec.dims))
    return f"`{spec.name}`", spec.dtype, f"[{shape}]"


def _bytes(most: int | None) -> str:
    if most is None:
        return ""
    for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if most >= size and most % size == 0:
            return f"{most // size} {unit}"
    return f"{most} bytes"


def _keys(schema: Mapping[str, Any], keys: Iterable[str]) -> str:
    rows = [(f"`{key}`", _kind(schema["properties"][key]), MEANINGS[key]) for key in keys]
    return _table(("key", "value", "what it says"), rows)


def _kind(schema: Mapping[str, Any]) -> str:
    """A value's JSON type in words."""
    if "anyOf" in schema:
        return " or ".join(_kind(choice) for choice in schema["anyOf"])
    if "$ref" in schema:
        return "object"
    kind = str(schema["type"])
    if kind == "array":
        return f"list of {_kind(schema['items'])}s"
    return f"object of {_kind(schema['additionalProperties'])}s" if kind == "object" else kind


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the tables of docs/protocol.md from the contract.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 where the page is stale")
    chosen = parser.parse_args(arguments)
    committed = DOCUMENT.read_text(encoding="utf-8")
    fresh = document(committed)
    if chosen.check:
        if committed != fresh:
            print(f"{DOCUMENT.name} is stale: run python -m build_scripts.protocol_document", file=sys.stderr)
        return int(committed != fresh)
    DOCUMENT.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
