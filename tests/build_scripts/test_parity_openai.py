"""An OpenAI-compatible endpoint as a side: what is asked, and that only a whole answer with its numbers is read."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from parity_stand_ins import row
from tritonguard.label import Safety
from tritonguard.policy import Policy

from build_scripts.parity_openai import OpenAiSide, body_of, choice_logprobs, reading_of
from build_scripts.parity_reading import SideError, margins_of_logprobs

Reply = Callable[[dict[str, Any]], tuple[int, bytes]]


def token(text: str, logprob: float = -0.01, **others: float) -> dict[str, Any]:
    """A token of a reply; `others` by word, in the token's own spelling of the space before it."""
    space = " " if text.startswith(" ") else ""
    top = [{"token": text, "logprob": logprob}, *({"token": space + name, "logprob": p} for name, p in others.items())]
    return {"token": text, "logprob": logprob, "top_logprobs": top}


def reply(tokens: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    choice = {
        "message": {"role": "assistant", "content": "".join(one["token"] for one in tokens)},
        "finish_reason": "stop",
        "logprobs": {"content": tokens},
    }
    return {"choices": [choice | changes], "usage": {"prompt_tokens": 480}}


def head(name: str) -> list[dict[str, Any]]:
    return [token(name), token(" Safety"), token(":")]


UNSAFE = [*head("User"), token(" unsafe", -0.2, safe=-1.7)]
PAIR = [*UNSAFE, token("\n"), *head("Response"), token(" safe", -0.5, unsafe=-0.93)]


def test_the_margin_is_the_difference_of_the_two_words_log_probabilities() -> None:
    found = reading_of(reply(UNSAFE), row(), ms=3.0)
    assert found.label is not None
    assert found.label.user_safety is Safety.UNSAFE
    assert found.margins == pytest.approx((1.5,), abs=1e-5)
    assert (found.ms, found.prompt_tokens) == (3.0, 480)


def test_both_choices_of_an_exchange_are_read() -> None:
    found = reading_of(reply(PAIR), row(response="Yes."), ms=1.0)
    assert found.unsafe == (True, False)
    assert found.margins == pytest.approx((1.5, -0.43), abs=1e-5)


def test_words_in_the_reasoning_are_no_choices() -> None:
    trace = [
        token("<think>"),
        token("\n"),
        *head("User"),
        token(" safe", -0.1, unsafe=-3.0),
        token("\n</th"),
        token("ink>"),
    ]
    found = reading_of(reply([*trace, *UNSAFE]), row(mode="think"), ms=1.0)
    assert found.unsafe == (True,)
    assert found.margins == pytest.approx((1.5,), abs=1e-5)


def test_the_pair_is_normalised_over_the_two_words() -> None:
    rows = choice_logprobs([*head("User"), token(" safe", -2.0, unsafe=-4.0)], sides=1)
    np.testing.assert_allclose(np.exp(rows).sum(axis=1), 1.0, atol=1e-6)
    assert margins_of_logprobs(rows) == pytest.approx((-2.0,), abs=1e-5)


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        (reply(UNSAFE, finish_reason="length"), "did not end"),
        (reply(UNSAFE, logprobs=None), "no chat completion"),
        (reply([*head("User"), token(" unsafe")]), "the other word"),
        (reply([*head("User"), token(" un"), token("safe")]), "not exactly one token"),
        (reply([*head("User"), token(" unsafe", float("nan"), safe=-1.0)]), "not a finite number"),
        (reply([*UNSAFE, token("\n"), *UNSAFE]), "not exactly one token"),
        (reply(UNSAFE, message={"content": None}), "no text"),
        ({"choices": []}, "no chat completion"),
        ([], "no chat completion"),
        (None, "no chat completion"),
    ],
)
def test_a_reply_without_a_whole_answer_is_an_error_and_never_a_label(broken: Any, error: str) -> None:
    found = reading_of(broken, row(), ms=1.0)
    assert found.label is None
    assert found.error is not None
    assert error in found.error
    assert not found.judged


@pytest.mark.parametrize(
    "text",
    [
        "User Safety: safe",
        "User Safety: unsafe\nI think.",
        "User Safety: unsafe\nSafety Categories: Violence",
        "unsafe",
    ],
)
def test_a_text_that_is_no_answer_or_contradicts_its_numbers_is_indeterminate(text: str) -> None:
    found = reading_of(reply(UNSAFE, message={"content": text}), row(), ms=1.0)
    assert found.label is not None
    assert found.label.is_indeterminate
    assert not found.judged


def test_what_is_asked_is_the_published_interface() -> None:
    body = body_of(row(prompt="P", response="R", mode="categories"), "m")
    assert body["messages"] == [{"role": "user", "content": "P"}, {"role": "assistant", "content": "R"}]
    assert body["chat_template_kwargs"] == {"enable_thinking": False, "request_categories": "/categories"}
    assert (body["model"], body["temperature"], body["logprobs"], body["top_logprobs"]) == ("m", 0, True, 20)
    thinking = body_of(row(mode="think"), "m")
    assert thinking["chat_template_kwargs"]["enable_thinking"] is True
    assert thinking["max_tokens"] > body["max_tokens"]
    text = body_of(row(policy=Policy(custom_policy="Only cooking.")), "m")
    assert text["chat_template_kwargs"] == {"enable_thinking": False, "custom_policy": "Only cooking."}
    listed = body_of(row(policy=Policy.from_json('{"custom_taxonomy": ["Violence"]}')), "m")
    assert listed["chat_template_kwargs"]["custom_taxonomy"] == "- Violence"


@contextmanager
def endpoint(answer: Reply) -> Iterator[tuple[str, list[tuple[str, dict[str, Any], str | None]]]]:
    seen: list[tuple[str, dict[str, Any], str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, body, self.headers.get("Authorization")))
            status, content = answer(body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"openai+http://127.0.0.1:{server.server_address[1]}/v1#guard", seen
        finally:
            server.shutdown()
            thread.join()


def test_rows_go_to_the_endpoint_and_come_back_in_order() -> None:
    def answer(body: dict[str, Any]) -> tuple[int, bytes]:
        word, other = (" unsafe", "safe") if "bad" in body["messages"][0]["content"] else (" safe", "unsafe")
        return 200, json.dumps(reply([*head("User"), token(word, -0.2, **{other: -1.7})])).encode()

    with endpoint(answer) as (target, seen):
        side = OpenAiSide(target, deadline_s=5.0, width=3, api_key="k")
        found = side.read([row(str(index), prompt="bad" if index % 2 else "good") for index in range(6)])
        side.close()
    assert [one.unsafe for one in found] == [(False,), (True,)] * 3
    assert {(path, key, body["model"]) for path, body, key in seen} == {("/v1/chat/completions", "Bearer k", "guard")}


@pytest.mark.parametrize(
    ("status", "content", "error"), [(503, b"{}", "HTTP 503"), (200, b"<html>", "no JSON"), (302, b"", "HTTP 302")]
)
def test_a_reply_that_is_none_is_an_error_of_its_row(status: int, content: bytes, error: str) -> None:
    with endpoint(lambda body: (status, content)) as (target, _):
        side = OpenAiSide(target, deadline_s=5.0, width=1)
        (found,) = side.read([row()])
        side.close()
    assert found.error is not None
    assert error in found.error


def test_no_endpoint_is_an_error_of_its_row() -> None:
    with endpoint(lambda body: (200, b"{}")) as (target, _):
        pass
    side = OpenAiSide(target, deadline_s=2.0, width=1)
    (found,) = side.read([row()])
    side.close()
    assert found.error == "no answer: ConnectionRefusedError"


@pytest.mark.parametrize("address", ["h:1/v1", "h:x/v1#m", "/v1#m", "u:p@h:1/v1#m", "h:1/v1?key=1#m"])
def test_an_address_without_host_or_model_or_with_a_secret_is_refused(address: str) -> None:
    with pytest.raises(SideError) as caught:
        OpenAiSide(f"openai+http://{address}", deadline_s=1.0, width=1)
    assert "u:p" not in str(caught.value)
