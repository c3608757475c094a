"""How each kind of bad request is made: a good one in which something is wrong, drawn by a seeded generator."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from tritonguard.request import GuardRequest, to_tensors
from tritonguard.tensors import REQUEST, TENSORS, Array, pack, pack_text

from benchmarks.chaos.texts import DEADLINE_S, marked
from benchmarks.chaos.wire import MODEL, Sent, add_tensor, raw, request

REQUIRED = tuple(spec.name for spec in REQUEST if not spec.optional)
TEXTS = ("PROMPT", "RESPONSE", "MODE", "POLICY", "POLICY_NAME", "TENANT", "REQUEST_ID", "TURNS")
_PROMPTS = ("How do I bake bread?", "What is a good book on chess?", "Wann blühen Tulpen?", "¿Qué tiempo hace hoy?")
_HTTP_PATH = f"/v2/models/{MODEL}/infer"


class Maker:
    """Makes requests. random: the only source of chance. mark: is in every text of theirs."""

    def __init__(self, random: random.Random, mark: str) -> None:
        self.random = random
        self.mark = mark

    def new_id(self) -> str:
        return f"{self.random.getrandbits(128):032x}"

    def one_of(self, *values: Any) -> Any:
        return self.random.choice(values)

    def text(self, text: str | None = None) -> str:
        return marked(self.one_of(*_PROMPTS) if text is None else text, self.mark)

    def tensors(self, **changes: Array | None) -> dict[str, Array]:
        """Those of a good request, with some replaced, added, or (None) left out."""
        good = to_tensors(GuardRequest(prompt=self.text(), request_id=self.new_id(), deadline_s=DEADLINE_S))
        return {name: array for name, array in {**good, **changes}.items() if array is not None}

    def changed(self, **changes: Array | None) -> Sent:
        return Sent(request(self.tensors(**changes)).SerializeToString())

    def texts(self, **changes: str) -> Sent:
        """Changes to tensors of one text each."""
        return self.changed(**{name: pack_text(name, text) for name, text in changes.items()})

    def numbers(self, **changes: int) -> Sent:
        """Changes to tensors of one number each."""
        return self.changed(**{name: pack(name, [value]) for name, value in changes.items()})

    def policy(self, values: Any) -> Sent:
        return self.texts(POLICY=json.dumps(values, ensure_ascii=False))

    def images(self, *files: bytes) -> Sent:
        return self.changed(IMAGES=pack("IMAGES", files))

    def think(self, budget: int) -> Sent:
        return self.changed(MODE=pack_text("MODE", "think"), THINK_BUDGET=pack("THINK_BUDGET", [budget]))

    def missing(self, *, beside: bool) -> Sent:
        """beside: an optional tensor is given, so that the number of tensors is that of a good request."""
        extra = {"RESPONSE": pack_text("RESPONSE", self.text())} if beside else {}
        return self.changed(**{self.one_of(*REQUIRED): None}, **extra)

    def of_wrong_dtype(self) -> Sent:
        name = self.one_of(*REQUIRED)
        is_text = TENSORS[name].dtype == "BYTES"
        wrong = np.array([[7]], self.one_of(np.int32, np.float32) if is_text else self.one_of(np.int64, np.float32))
        return self.changed(**{name: wrong})

    def of_wrong_shape(self) -> Sent:
        name = self.one_of(*REQUIRED)
        good = self.tensors()[name]
        return self.changed(**{name: self.one_of(good.reshape(1), good.reshape(1, 1, 1), np.repeat(good, 3, axis=1))})

    def of_rows(self, rows: int) -> Sent:
        """Every tensor with that many rows: a batch that the caller made."""
        return self.changed(**{name: np.repeat(array, rows, axis=0) for name, array in self.tensors().items()})

    def of_uneven_rows(self) -> Sent:
        name = self.one_of(*REQUIRED)
        return self.changed(**{name: np.repeat(self.tensors()[name], 2, axis=0)})

    def twice(self) -> Sent:
        tensors = self.tensors()
        message, name = request(tensors), self.one_of(*REQUIRED)
        add_tensor(message, name, TENSORS[name].dtype, tensors[name].shape, raw(tensors[name]))
        return Sent(message.SerializeToString())

    def of_unknown_datatype(self) -> Sent:
        message = request(self.tensors())
        self.one_of(*message.inputs).datatype = self.one_of("FP128", "", "STRING", "int32", "TYPE_STRING")
        return Sent(message.SerializeToString())

    def of_wrong_length(self) -> Sent:
        """A number's tensor whose content is longer or shorter than its shape says."""
        message = request(self.tensors())
        index = self._index(message, self.one_of("CONTRACT_VERSION", "DEADLINE_MS"))
        message.raw_input_contents[index] = bytes(self.one_of(0, 3, 5, 8, 64))
        return Sent(message.SerializeToString())

    def of_wrong_element_length(self) -> Sent:
        """A text whose own length is more than what follows, or none of what it should be."""
        message = request(self.tensors())
        index, said = self._index(message, "PROMPT"), self.one_of(1 << 10, 1 << 20, 2**31 - 1, 2**32 - 1)
        message.raw_input_contents[index] = struct.pack("<I", said) + self.text().encode()
        return Sent(message.SerializeToString())

    def without_content(self) -> Sent:
        """Fewer contents than tensors."""
        message = request(self.tensors())
        del message.raw_input_contents[self.random.randrange(1, len(message.inputs)) :]
        return Sent(message.SerializeToString())

    def not_utf8(self) -> Sent:
        bad = self.one_of(b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xe2\x82")
        name = self.one_of(*TEXTS)
        return self.changed(**{name: pack(name, [self.mark.encode() + bad])})

    def of_many_tokens(self, name: str) -> Sent:
        words = " ".join(
            self.one_of("one", "zwei", "trois", "cuatro") for _ in range(self.random.randrange(5000, 9000))
        )
        return self.texts(**{name: self.text(words)})

    def of_many_bytes(self, name: str) -> Sent:
        return self.texts(**{name: self.text("a" * (1 << 20))})

    def nested_policy(self) -> Sent:
        depth = self.random.randrange(20_000, 200_000)
        opened, closed = self.one_of(('{"a":', "}"), ("[", "]"))
        return self.texts(POLICY=opened * depth + f'"{self.mark}"' + closed * self.one_of(0, depth))

    def of_stage(self, model: str, *names: str) -> Sent:
        """A stage behind the door, called directly with contents that make no sense."""
        fill: Mapping[str, Any] = {"BYTES": self.text().encode(), "INT32": 7, "INT64": 7, "FP32": 0.5}
        rows = {name: fill[TENSORS[name].dtype] for name in names}
        values = {name: [[value] * 2] if TENSORS[name].dims == (-1, 2) else [value] for name, value in rows.items()}
        tensors = {name: pack(name, value) for name, value in values.items()}
        return Sent(request(tensors, model=model).SerializeToString())

    def noise(self) -> Sent:
        """Bytes that are no message: a field of a length that never comes."""
        return Sent(b"\x0a\xff\xff\xff\xff\x07" + self.mark.encode() + self.random.randbytes(64))

    def http(self, body: str | bytes) -> Sent:
        return Sent(body if isinstance(body, bytes) else body.encode(), _HTTP_PATH)

    def http_tensors(self, **changes: Any) -> Sent:
        """A JSON body of a good request, with data of some tensors replaced, or (None) left out."""
        data: dict[str, Any] = {
            "CONTRACT_VERSION": 1,
            "REQUEST_ID": self.new_id(),
            "PROMPT": self.text(),
            "MODE": "verdict",
            "DEADLINE_MS": 60_000,
            **changes,
        }
        inputs = [
            {"name": name, "datatype": TENSORS[name].dtype, "shape": [1, 1], "data": [value]}
            for name, value in data.items()
            if value is not None
        ]
        return self.http(json.dumps({"inputs": inputs}))

    @staticmethod
    def _index(message: Any, name: str) -> int:
        return [tensor.name for tensor in message.inputs].index(name)
