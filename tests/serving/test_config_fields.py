"""The model repository on two releases: 24.10, whose binary is in the wheel, and the current one of the images.

The current schema is the installed tritonclient's; that of 24.10 is `config_fields_24.10.json`, written by
`make_config_fields.py`. What both know can still hurt; that is FORBIDDEN.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory, text_format
from tritonclient.grpc import model_config_pb2

from serving.launch import MODEL_REPOSITORY

OLDEST = Path(__file__).parent / "config_fields_24.10.json"
CONFIGS = sorted(MODEL_REPOSITORY.glob("*/config.pbtxt"))
_STALLS = (
    "with one instance, requests then wait up to 500 ms beside an idle model (DynamicBatchScheduler, prefetching off)"
)
FORBIDDEN = {
    "ModelEnsembling.max_inflight_requests": "not in 24.10, and blocks callers where it is known: no admission control",
    "ModelTransactionPolicy.decoupled": "an ensemble inherits it, and unary gRPC on it is UNIMPLEMENTED",
    "ModelDynamicBatching.priority_levels": _STALLS,
    "ModelDynamicBatching.default_priority_level": _STALLS,
    "ModelDynamicBatching.default_queue_policy": _STALLS,
    "ModelDynamicBatching.priority_queue_policy": _STALLS,
}
"""{Message.field: why none of our models sets it}."""


@pytest.fixture(scope="module")
def oldest() -> Any:
    """The ModelConfig class of 24.10, in a pool of its own."""
    schema = json_format.ParseDict(json.loads(OLDEST.read_text()), descriptor_pb2.FileDescriptorProto())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(schema)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


def fields(message: Any) -> Iterator[str]:
    """`Message.field` of everything that is set, however deep."""
    for field, value in message.ListFields():
        yield f"{message.DESCRIPTOR.name}.{field.name}"
        if field.type != field.TYPE_MESSAGE:
            continue
        if field.message_type.GetOptions().map_entry:
            value = [each for each in value.values() if hasattr(each, "ListFields")]
        for each in value if isinstance(value, list) or hasattr(value, "add") else [value]:
            yield from fields(each)


def current(text: str) -> Any:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_there_are_configurations() -> None:
    assert len(CONFIGS) == 4


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.parent.name)
def test_both_releases_read_the_same_in_a_configuration(path: Path, oldest: Any) -> None:
    text = path.read_text()
    assert json_format.MessageToDict(current(text)) == json_format.MessageToDict(text_format.Parse(text, oldest()))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.parent.name)
def test_nothing_that_hurts_is_set(path: Path) -> None:
    found = {name: FORBIDDEN[name] for name in fields(current(path.read_text())) if name in FORBIDDEN}
    assert not found


EXAMPLES = {
    "ModelEnsembling.max_inflight_requests": "ensemble_scheduling { max_inflight_requests: 4 }",
    "ModelTransactionPolicy.decoupled": "model_transaction_policy { decoupled: true }",
    "ModelDynamicBatching.priority_levels": "dynamic_batching { priority_levels: 2 }",
    "ModelDynamicBatching.default_priority_level": "dynamic_batching { default_priority_level: 1 }",
    "ModelDynamicBatching.default_queue_policy": "dynamic_batching { default_queue_policy { max_queue_size: 8 } }",
    "ModelDynamicBatching.priority_queue_policy": (
        "dynamic_batching { priority_queue_policy { key: 1 value { max_queue_size: 8 } } }"
    ),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_hurts_is_found(name: str) -> None:
    assert set(fields(current(EXAMPLES[name]))) & set(FORBIDDEN) == {name}


def test_a_field_of_a_newer_release_is_refused_by_the_oldest(oldest: Any) -> None:
    with pytest.raises(text_format.ParseError, match="max_inflight_requests"):
        text_format.Parse(EXAMPLES["ModelEnsembling.max_inflight_requests"], oldest())
