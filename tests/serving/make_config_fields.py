"""Writes what a config.pbtxt may hold in a release of Triton: the messages, fields and enums of its ModelConfig.

    pip download --no-deps tritonclient==2.51.0
    python tests/serving/make_config_fields.py --wheel tritonclient-2.51.0-*.whl \
        --out tests/serving/config_fields_24.10.json

tritonclient 2.51.0 is of release 24.10. The schema is in its `tritonclient/grpc/model_config_pb2.py` as the bytes of a
FileDescriptorProto; the file is read, not imported, so that no second tritonclient has to be installed beside ours.
One line a message or enum, so that two releases can be compared by diff.
"""

from __future__ import annotations

import argparse
import ast
import json
import zipfile
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, json_format

MODULE = "tritonclient/grpc/model_config_pb2.py"
LISTS = ("messageType", "enumType")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, required=True, help="a wheel of tritonclient")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file")
    args = parser.parse_args()
    with zipfile.ZipFile(args.wheel) as wheel:
        # Some wheels have their packages at the top, some in a folder for what is pure Python.
        (name,) = [name for name in wheel.namelist() if name.endswith(MODULE)]
        source = wheel.read(name).decode()
    args.out.write_text(written(described(source)))


def described(source: str) -> dict[str, Any]:
    """The schema in the text of a `*_pb2.py`, as protobuf's own JSON. Raises ValueError where there isn't just one."""
    schemas = [
        node.args[0].value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "AddSerializedFile"
        and isinstance(node.args[0], ast.Constant)
    ]
    if len(schemas) != 1:
        raise ValueError(f"{len(schemas)} schemas in {MODULE}, not 1")
    fields: dict[str, Any] = json_format.MessageToDict(descriptor_pb2.FileDescriptorProto.FromString(schemas[0]))
    return fields


def written(fields: dict[str, Any]) -> str:
    head = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in fields.items() if key not in LISTS]
    lists = [
        f"{json.dumps(key)}: [\n" + ",\n".join(json.dumps(each) for each in fields[key]) + "\n]"
        for key in LISTS
        if key in fields
    ]
    return "{\n" + ",\n".join([*head, *lists]) + "\n}\n"


if __name__ == "__main__":
    main()
