"""A chat-completions endpoint as a side: the published interface, its text read by our fail-closed parser.

The server renders the checkpoint's own template; what is asked goes in `chat_template_kwargs`, an assistant turn
carries the response. The margin of a choice is the difference of two log-probabilities that the server lists for the
token behind `User Safety:` or `Response Safety:`; where it doesn't list both words there is no margin, and the row
counts as an error. NIM takes `custom_policy` without `request_categories` only; that one is sent alone.
"""

from __future__ import annotations

import http.client
import json
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import SplitResult, urlsplit

import numpy as np
from tritonguard.judgement import read_answer
from tritonguard.request import DEFAULT_THINK_BUDGET, Mode

from build_scripts.parity_corpus import Row
from build_scripts.parity_reading import EXACT_MARGINS, Reading, SideError, margins_of_logprobs, of_label
from preprocessing.prompt import template_arguments

PREFIXES = ("openai+http://", "openai+https://")
TOP_LOGPROBS = 20
ANSWER_TOKENS = 100
"""Most tokens of an answer without reasoning; the publisher's own setting."""
MAX_REPLY_BYTES = 16 * 2**20

_HEADS = ("User Safety:", "Response Safety:")
_THINK_END = "</think>"
_OTHER = {"safe": "unsafe", "unsafe": "safe"}


class Unreadable(Exception):
    """A reply without a usable answer. One line, nothing of the reply in it."""


def is_openai(target: str) -> bool:
    return target.startswith(PREFIXES)


def body_of(row: Row, model: str) -> dict[str, Any]:
    """The request body. Greedy; `max_tokens` leaves room for the reasoning's budget in mode think."""
    kwargs = template_arguments(row.mode, row.part)
    if row.part.custom_policy is not None and row.mode is not Mode.CATEGORIES:
        kwargs.pop("request_categories")
    messages = [{"role": "user", "content": row.request.prompt}]
    if row.request.response is not None:
        messages.append({"role": "assistant", "content": row.request.response})
    budget = row.request.think_budget or DEFAULT_THINK_BUDGET if row.mode is Mode.THINK else 0
    return {
        "model": model,
        "messages": messages,
        "chat_template_kwargs": kwargs,
        "temperature": 0,
        "max_tokens": ANSWER_TOKENS + budget,
        "logprobs": True,
        "top_logprobs": TOP_LOGPROBS,
    }


def reading_of(reply: Any, row: Row, *, ms: float) -> Reading:
    """The reading of a chat completion. Whatever is missing or contradicts itself is an error or indeterminate."""
    try:
        choice = reply["choices"][0]
        text = choice["message"]["content"]
        if choice.get("finish_reason") != "stop":
            raise Unreadable("the answer did not end by itself")
        if not isinstance(text, str):
            raise Unreadable("the reply has no text")
        listed = choice["logprobs"]["content"]
        logprobs = choice_logprobs(listed, sides=2 if row.has_response else 1)
    except Unreadable as error:
        return Reading(None, ms=ms, error=str(error))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return Reading(None, ms=ms, error="the reply is no chat completion with log-probabilities")
    label = read_answer(
        logprobs,
        text,
        mode=row.mode,
        has_response=row.has_response,
        names=row.part.names,
        reasoning_source="model",
    )
    usage = reply.get("usage")
    tokens = usage.get("prompt_tokens") if isinstance(usage, Mapping) else None
    return of_label(
        label, margins_of_logprobs(logprobs), ms=ms, prompt_tokens=tokens if isinstance(tokens, int) else None
    )


def choice_logprobs(listed: Sequence[Mapping[str, Any]], *, sides: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32 [sides, 2]: log P(safe), log P(unsafe), normalised over the two, from a reply's token list.

    A choice is the one token, `safe` or `unsafe` with or without a space, that follows its head behind the last
    `</think>`. Raises Unreadable where one is missing, stands twice, or the list leaves out the other word.
    """
    start = max((i + 1 for i in range(len(listed)) if _THINK_END in _tail(listed, i)), default=0)
    found: list[list[float]] = []
    for head in _HEADS[:sides]:
        places = [
            i
            for i in range(start, len(listed))
            if str(listed[i]["token"]).strip() in _OTHER and _text(listed, start, i).rstrip(" ").endswith(head)
        ]
        if len(places) != 1:
            raise Unreadable("a choice is not exactly one token")
        found.append(_pair(listed[places[0]]))
    rows = np.array(found, np.float64)
    rows -= np.logaddexp(rows[:, :1], rows[:, 1:])
    return np.minimum(rows, 0.0).astype(np.float32)


def _tail(listed: Sequence[Mapping[str, Any]], index: int) -> str:
    """The text that ends in token `index`, as far as a mark may reach back, only where that token ends the mark."""
    text = _text(listed, max(0, index - len(_THINK_END)), index + 1)
    before = text[: len(text) - len(str(listed[index]["token"]))]
    return text if text.count(_THINK_END) > before.count(_THINK_END) else ""


def _text(listed: Sequence[Mapping[str, Any]], start: int, end: int) -> str:
    return "".join(str(item["token"]) for item in listed[start:end])


def _pair(item: Mapping[str, Any]) -> list[float]:
    """[log P(safe), log P(unsafe)] of the two words in the spelling that was written."""
    said = str(item["token"])
    word = said.strip()
    other = said.replace(word, _OTHER[word])
    values = {str(one["token"]): float(one["logprob"]) for one in item["top_logprobs"]}
    values.setdefault(said, float(item["logprob"]))
    if other not in values:
        raise Unreadable("the other word is not among the log-probabilities")
    pair = {word: values[said], _OTHER[word]: values[other]}
    if not all(map(math.isfinite, pair.values())):
        raise Unreadable("a log-probability is not a finite number")
    return [pair["safe"], pair["unsafe"]]


class OpenAiSide:
    """One endpoint and one model. api_key: sent as a bearer token; never shown."""

    margin_limit = EXACT_MARGINS
    taxonomy: str | None = None

    def __init__(self, target: str, *, deadline_s: float, width: int, api_key: str | None = None) -> None:
        self._url = _endpoint(target)
        self._deadline_s = deadline_s
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._pool = ThreadPoolExecutor(width, thread_name_prefix="parity")
        self.name = target

    def describe(self) -> dict[str, str | None]:
        return {"kind": "openai", "model": self._url.fragment}

    def prompt_ids(self, row: Row) -> tuple[tuple[int, ...], int] | None:
        return None

    def read(self, rows: Sequence[Row]) -> list[Reading]:
        return list(self._pool.map(self._read, rows))

    def _read(self, row: Row) -> Reading:
        body = json.dumps(body_of(row, self._url.fragment)).encode()
        began = time.perf_counter()
        try:
            reply = self._post(body)
        except Unreadable as error:
            return Reading(None, ms=(time.perf_counter() - began) * 1e3, error=str(error))
        except (OSError, http.client.HTTPException) as error:
            return Reading(None, ms=(time.perf_counter() - began) * 1e3, error=f"no answer: {type(error).__name__}")
        return reading_of(reply, row, ms=(time.perf_counter() - began) * 1e3)

    def _post(self, body: bytes) -> Any:
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._url.hostname or "", self._url.port, timeout=self._deadline_s)
        try:
            connection.request("POST", f"{self._url.path.rstrip('/')}/chat/completions", body, self._headers)
            response = connection.getresponse()
            if response.status != 200:
                raise Unreadable(f"HTTP {response.status}")
            raw = response.read(MAX_REPLY_BYTES + 1)
        finally:
            connection.close()
        if len(raw) > MAX_REPLY_BYTES:
            raise Unreadable("the reply is too large")
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            raise Unreadable("the reply is no JSON") from None

    def close(self) -> None:
        self._pool.shutdown()


def _endpoint(target: str) -> SplitResult:
    """http(s)://host:port/path#model. Raises SideError."""
    try:
        url = urlsplit(target.removeprefix("openai+"))
        _ = url.port
    except ValueError:
        raise SideError("the endpoint's address can't be read") from None
    if not url.hostname or not url.fragment or url.query or url.username or url.password:
        raise SideError("an OpenAI endpoint is openai+http(s)://HOST:PORT/v1#MODEL, without user, password or query")
    return url
