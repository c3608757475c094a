"""The config.pbtxt files say what the tensor table says, and nothing that would hurt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from tritonguard.tensors import CONTEXT, DECODED, MODEL_INPUT, REQUEST, VERDICT, TensorSpec

from serving.launch import ENSEMBLE, MODEL_REPOSITORY

STAGES = {
    "preprocess": (REQUEST, (*MODEL_INPUT, *CONTEXT)),
    "decode": (MODEL_INPUT, DECODED),
    "verdict": ((*DECODED, *CONTEXT), VERDICT),
}
MODELS = {**STAGES, ENSEMBLE: (REQUEST, VERDICT)}
DTYPES = {"BYTES": "TYPE_STRING", "INT32": "TYPE_INT32", "INT64": "TYPE_INT64", "FP32": "TYPE_FP32"}


def config(name: str) -> Any:
    text = (MODEL_REPOSITORY / name / "config.pbtxt").read_text()
    # Strict: an unknown key is an error here as it is in Triton.
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def described(specs: tuple[TensorSpec, ...], *, inputs: bool) -> list[tuple[Any, ...]]:
    return [(spec.name, DTYPES[spec.dtype], spec.dims, inputs and spec.optional) for spec in specs]


def declared(tensors: Any) -> list[tuple[Any, ...]]:
    return [
        (
            tensor.name,
            model_config_pb2.DataType.Name(tensor.data_type),
            tuple(tensor.dims),
            getattr(tensor, "optional", False),
        )
        for tensor in tensors
    ]


def test_the_repository_holds_these_models_and_no_other() -> None:
    assert {path.name for path in MODEL_REPOSITORY.iterdir()} == set(MODELS)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_tensors_are_those_of_the_table(name: str) -> None:
    inputs, outputs = MODELS[name]
    assert declared(config(name).input) == described(inputs, inputs=True)
    assert declared(config(name).output) == described(outputs, inputs=False)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_folder_a_name_and_a_version_belong_together(name: str) -> None:
    assert config(name).name == name
    assert config(name).max_batch_size == 8
    assert (MODEL_REPOSITORY / name / "1").is_dir()


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_stage_is_one_python_instance_on_the_cpu(name: str) -> None:
    assert config(name).backend == "python"
    (group,) = config(name).instance_group
    assert (group.count, group.kind) == (1, model_config_pb2.ModelInstanceGroup.KIND_CPU)


@pytest.mark.parametrize("name", sorted(STAGES))
def test_an_adapter_is_thin(name: str) -> None:
    assert len((MODEL_REPOSITORY / name / "1" / "model.py").read_text().splitlines()) <= 60


def test_the_ensemble_runs_the_stages_in_order_and_hands_on_every_tensor() -> None:
    steps = config(ENSEMBLE).ensemble_scheduling.step
    assert [step.model_name for step in steps] == list(STAGES)
    for step in steps:
        inputs, outputs = STAGES[step.model_name]
        assert dict(step.input_map) == {spec.name: spec.name for spec in inputs}
        assert dict(step.output_map) == {spec.name: spec.name for spec in outputs}


def test_decode_batches_prompts_of_different_length() -> None:
    decode = config("decode")
    assert decode.HasField("dynamic_batching")
    assert [tensor.name for tensor in decode.input if tensor.allow_ragged_batch] == [
        spec.name for spec in MODEL_INPUT if -1 in spec.dims
    ]


@pytest.mark.parametrize("model", ["decode", "verdict"])
def test_no_queue_policy_stalls_the_scheduler(model: str) -> None:
    # Any of these settings makes requests wait up to 500 ms beside an idle instance.
    batching = config(model).dynamic_batching
    assert batching == type(batching)()


def test_answers_of_one_pass_are_judged_together_and_requests_are_not_read_together() -> None:
    # A long text would keep the short ones before it waiting.
    assert config("verdict").HasField("dynamic_batching")
    assert not config("preprocess").HasField("dynamic_batching")


def test_only_the_ensembles_version_folder_is_empty() -> None:
    kept = {path.relative_to(MODEL_REPOSITORY) for path in MODEL_REPOSITORY.rglob("1/*") if path.is_file()}
    files = {path for path in kept if "__pycache__" not in path.parts}
    assert files == {Path(name, "1", "model.py") for name in STAGES} | {Path(ENSEMBLE, "1", ".gitkeep")}
