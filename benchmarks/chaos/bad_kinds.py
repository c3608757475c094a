"""The table of bad requests, written before any was sent: what is wrong with each kind, and what it must get.

The kind of error is the one that a client reads off the wire. Triton itself refuses some before our code runs; its
status then stands for a kind (`tritonguard.errors.from_wire`) and may be named too (`code`). Of every HTTP body that it
cannot parse, Triton's own reader says 500.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tritonguard.tensors import CONTEXT, DECODED, MODEL_INPUT, pack, pack_text

from benchmarks.chaos import bad_images as pictures
from benchmarks.chaos.bad_makers import Maker
from benchmarks.chaos.wire import Sent, request

_INVALID, _LONG, _UNAVAILABLE, _INTERNAL = "invalid_request", "prompt_too_long", "unavailable", "internal"


@dataclass(frozen=True)
class Kind:
    """name: of the kind. wrong: what is, in a line. error: the kind of error that it must get.

    code: the status that must carry it; "": whatever the error's own is.
    """

    name: str
    wrong: str
    error: str
    make: Callable[[Maker], Sent]
    code: str = ""


KINDS: tuple[Kind, ...] = (
    # The tensors of the request.
    Kind("missing-tensor", "a required tensor is not there", _INVALID, lambda m: m.missing(beside=False)),
    Kind("missing-beside", "the same, beside an optional one", _INVALID, lambda m: m.missing(beside=True)),
    Kind("wrong-dtype", "a tensor of another type", _INVALID, Maker.of_wrong_dtype),
    Kind("wrong-shape", "a tensor of another shape", _INVALID, Maker.of_wrong_shape),
    Kind("two-rows", "a batch that the caller made", _INVALID, lambda m: m.of_rows(m.one_of(2, 8))),
    Kind("too-many-rows", "more rows than a batch may have", _INVALID, lambda m: m.of_rows(m.one_of(9, 64))),
    Kind("no-rows", "a batch without a request in it", _INVALID, lambda m: m.of_rows(0)),
    Kind("uneven-rows", "one tensor with two rows, the others with one", _INVALID, Maker.of_uneven_rows),
    Kind(
        "unknown-tensor",
        "a tensor that the contract does not know",
        _INVALID,
        lambda m: m.changed(**{m.one_of("COLOUR", "INPUT_IDS", "PIXELS", "prompt"): pack("PRIORITY", [1])}),
    ),
    Kind("tensor-twice", "one tensor given twice", _INVALID, Maker.twice),
    Kind("unknown-datatype", "a type that Triton does not know", _INVALID, Maker.of_unknown_datatype),
    Kind("wrong-length", "content of another length than the shape's", _INVALID, Maker.of_wrong_length),
    Kind("element-length", "a text that is shorter than it says", _INVALID, Maker.of_wrong_element_length),
    Kind("no-content", "fewer contents than tensors", _INVALID, Maker.without_content),
    # Texts.
    Kind("not-utf8", "a text tensor that is not UTF-8", _INVALID, Maker.not_utf8),
    Kind("blank-prompt", "nothing to judge", _INVALID, lambda m: m.texts(PROMPT=m.one_of("", " ", "\n\t", "\u3000"))),
    Kind("blank-response", "no response in the response", _INVALID, lambda m: m.texts(RESPONSE=m.one_of("", " \n"))),
    Kind("long-prompt", "more tokens than the model reads", _LONG, lambda m: m.of_many_tokens("PROMPT")),
    Kind("long-response", "the same in the response", _LONG, lambda m: m.of_many_tokens("RESPONSE")),
    Kind("large-prompt", "more than a MiB of text", _INVALID, lambda m: m.of_many_bytes("PROMPT")),
    Kind(
        "contract-version",
        "a version that is not spoken here",
        "unsupported_contract",
        lambda m: m.numbers(CONTRACT_VERSION=m.one_of(-1, 0, 2, 7, 2**31 - 1)),
    ),
    Kind(
        "unknown-mode",
        "a mode that is not one",
        _INVALID,
        lambda m: m.texts(MODE=m.one_of(m.mark, "", "VERDICT", "verdict ", "think\0")),
    ),
    # Numbers.
    Kind(
        "budget-alone",
        "a think budget without thinking",
        _INVALID,
        lambda m: m.changed(
            MODE=m.one_of(*(pack_text("MODE", mode) for mode in ("verdict", "categories"))),
            THINK_BUDGET=pack("THINK_BUDGET", [m.random.randrange(1, 100)]),
        ),
    ),
    Kind("budget-range", "a think budget out of range", _INVALID, lambda m: m.think(m.one_of(0, -1, 32_769, -(2**31)))),
    Kind("budget-room", "a think budget that the model has no room for", _LONG, lambda m: m.think(32_768)),
    Kind("no-time", "a deadline that is over", _INVALID, lambda m: m.numbers(DEADLINE_MS=m.one_of(0, -1, -(2**31)))),
    Kind(
        "much-time", "a deadline too far off", _INVALID, lambda m: m.numbers(DEADLINE_MS=m.one_of(600_001, 2**31 - 1))
    ),
    Kind("priority", "a negative priority", _INVALID, lambda m: m.numbers(PRIORITY=m.one_of(-1, -(2**31)))),
    # Policies.
    Kind(
        "policy-json",
        "a policy that is no JSON",
        _INVALID,
        lambda m: m.texts(POLICY=m.one_of("", "{", m.mark, f'{{"name": "{m.mark}",}}')),
    ),
    Kind(
        "policy-type",
        "values of another type than the policy's",
        _INVALID,
        lambda m: m.policy(
            m.one_of(
                [m.mark],
                m.mark,
                7,
                None,
                {"suppress": 5},
                {"thresholds": {"user": m.mark}},
                {"allow_list": [1]},
                {"floor": "yes"},
                {"custom_policy": [m.mark]},
                {"thresholds": {"user": 1.5}},
            )
        ),
    ),
    Kind(
        "policy-key",
        "a key that policies do not have",
        _INVALID,
        lambda m: m.policy({m.one_of("colour", "supress"): m.mark}),
    ),
    Kind(
        "policy-category",
        "suppresses what is no category, or the one that must stay",
        _INVALID,
        lambda m: m.policy({"suppress": [m.one_of(m.mark, "S7", "S99", "")]}),
    ),
    Kind("policy-nested", "a policy as deep as memory", _INVALID, Maker.nested_policy),
    Kind(
        "policy-large",
        "a policy of more than a MiB",
        _INVALID,
        lambda m: m.policy({"custom_policy": m.text("a" * (1 << 20))}),
    ),
    Kind(
        "policy-and-name",
        "a policy and a policy's name",
        _INVALID,
        lambda m: m.texts(POLICY=f'{{"custom_policy":"No {m.mark}."}}', POLICY_NAME=m.one_of("finance", "built-in")),
    ),
    Kind("policy-name", "a policy that is not on the server", _INVALID, lambda m: m.texts(POLICY_NAME=f"{m.mark}")),
    Kind(
        "policy-path",
        "a path for a policy's name",
        _INVALID,
        lambda m: m.texts(
            POLICY_NAME=m.one_of(
                "../policies/finance", "/etc/passwd", "finance.yaml", "./finance", "..", "finance\0", "a" * 129
            )
        ),
    ),
    # Images.
    Kind(
        "five-images",
        "more images than a request may have",
        "image_too_large",
        lambda m: m.images(*(pictures.picture(m.random) for _ in range(m.one_of(5, 9)))),
    ),
    Kind("image-cut", "an image that ends too early", "invalid_image", lambda m: m.images(pictures.cut(m.random))),
    Kind(
        "image-format",
        "no PNG, JPEG or WebP",
        "invalid_image",
        lambda m: m.images(pictures.of_another_format(m.random, m.mark)),
    ),
    Kind(
        "image-empty",
        "an image of no bytes",
        _INVALID,
        lambda m: m.images(*m.one_of((b"",), (pictures.picture(m.random), b""))),
    ),
    Kind(
        "image-size",
        "a header of hundreds of megapixels",
        "image_too_large",
        lambda m: m.images(pictures.of_huge_size(m.random)),
    ),
    Kind(
        "image-bomb",
        "data that unpacks to much more than the header says",
        "invalid_image",
        lambda m: m.images(pictures.of_much_data(m.random)),
    ),
    # Who asks, and for what.
    Kind(
        "turns",
        "earlier turns, which are not served yet",
        "unimplemented",
        lambda m: m.texts(TURNS=f'[{{"role":"user","content":"{m.mark}"}}]'),
    ),
    Kind(
        "turns-wrong",
        "turns that are none",
        _INVALID,
        lambda m: m.texts(TURNS=m.one_of("", "[", "7", "[]", "[7]", f'["{m.mark}"]')),
    ),
    Kind(
        "request-id",
        "an id that could forge a line of the log, or fill it",
        _INVALID,
        lambda m: m.texts(REQUEST_ID=m.one_of("", "a\nb", "a\x1b[31m", "\0", "é", "a" * 129)),
    ),
    Kind(
        "tenant",
        "a tenant that could do the same",
        _INVALID,
        lambda m: m.texts(TENANT=m.one_of("", "a\r\nb", "\x7f", "ü", "t" * 129)),
    ),
    Kind(
        "unknown-model",
        "a model that is not served",
        _UNAVAILABLE,
        lambda m: Sent(request(m.tensors(), model=m.one_of("gard", "../guard", "", "guard/1")).SerializeToString()),
        code="NOT_FOUND",
    ),
    Kind(
        "unknown-version",
        "a version of the model that is not served",
        _UNAVAILABLE,
        lambda m: Sent(request(m.tensors(), version=m.one_of("2", "999")).SerializeToString()),
        code="NOT_FOUND",
    ),
    Kind(
        "unknown-output",
        "an output that is not given",
        _INVALID,
        lambda m: Sent(
            request(m.tensors(), outputs=(m.one_of("COLOUR", "INPUT_IDS", "OUTPUT_TEXT"),)).SerializeToString()
        ),
    ),
    Kind(
        "stage-preprocess",
        "the first stage with another contract's tensors",
        "unsupported_contract",
        lambda m: m.of_stage("preprocess", "CONTRACT_VERSION", "REQUEST_ID", "PROMPT", "MODE", "DEADLINE_MS"),
    ),
    Kind(
        "stage-decode",
        "the second stage called with nonsense",
        _INTERNAL,
        lambda m: m.of_stage("decode", *(spec.name for spec in MODEL_INPUT)),
    ),
    Kind(
        "stage-verdict",
        "the third stage called with nonsense",
        _INTERNAL,
        lambda m: m.of_stage("verdict", *(spec.name for spec in (*DECODED, *CONTEXT))),
    ),
    # Other ways in.
    Kind("no-message", "bytes that are no message", _INTERNAL, Maker.noise),
    Kind(
        "http-json",
        "an HTTP body that is no JSON, or not of its shape",
        _INTERNAL,
        lambda m: m.http(m.one_of("{", m.mark, f'["{m.mark}"', '{"inputs": 7}')),
        code="500",
    ),
    Kind(
        "http-missing",
        "a required tensor is not in the HTTP body",
        _INVALID,
        lambda m: m.http_tensors(**{m.one_of("PROMPT", "MODE", "DEADLINE_MS"): None}),
    ),
    Kind(
        "http-type",
        "a value of another type in the HTTP body",
        _INTERNAL,
        lambda m: m.http_tensors(**{m.one_of("PROMPT", "MODE"): m.one_of(7, 1.5, {})}),
        code="500",
    ),
    Kind("http-value", "a wrong value by HTTP", _INVALID, lambda m: m.http_tensors(MODE=m.mark)),
)
