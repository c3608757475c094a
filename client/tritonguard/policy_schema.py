"""The JSON schema of a policy file, made from the model that reads it, for editors that complete and check.

The file `policy.schema.json` beside this module holds it; `tritonguard policy schema` prints it anew:

    tritonguard policy schema > client/tritonguard/policy.schema.json

A policy file names it in its first line: `# yaml-language-server: $schema=policy.schema.json`. The schema is
weaker than the model: what concerns several keys at once is told by `tritonguard policy lint`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tritonguard.policy import FORMAT, NAME_PATTERN, VERSION_PATTERN, Policy
from tritonguard.taxonomy import CATEGORIES, SEXUAL_MINOR

SCHEMA_FILE = Path(__file__).with_name("policy.schema.json")

_CATEGORY = {"$ref": "#/$defs/CustomCategory"}
_TITLES = {
    "Thresholds": ("Thresholds", "From probability to decision: block at this probability of unsafe, and above."),
    "Caching": ("Cache", "Off unless this is given: answers are kept for a while and given again, to the same tenant."),
    "CustomCategory": ("Category", "A category of your own; a plain text is a category without a definition."),
}


def policy_schema() -> dict[str, Any]:
    """The schema (JSON Schema 2020-12) as plain values."""
    schema = Policy.model_json_schema()
    defs = schema["$defs"]
    for name, (title, description) in _TITLES.items():
        defs[name] |= {"title": title, "description": description}
    name_rules = {key: value for key, value in defs["CustomCategory"]["properties"]["name"].items() if key != "title"}
    schema = _with_plain_names(schema, {"anyOf": [_CATEGORY, name_rules]})
    properties: dict[str, Any] = schema["properties"]
    # pydantic leaves a pattern out where a function has looked at the text before.
    properties["name"]["pattern"], properties["version"]["pattern"] = NAME_PATTERN, VERSION_PATTERN
    # Names and codes as completions; aliases and other spellings stay valid.
    known = [text for each in CATEGORIES if each is not SEXUAL_MINOR for text in (each.name, each.code)]
    properties["suppress"]["items"] = {"anyOf": [{"enum": known}, {"type": "string"}]}
    version = {
        "const": FORMAT,
        "default": FORMAT,
        "description": "Format of this file; it is no part of the policy and of its hash.",
        "title": "Schema",
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:{FORMAT.replace('/', ':')}",
        **schema,
        "title": "tritonguard policy",
        "description": "What is judged, and what is done about it.",
        "properties": {"schema": version, **properties},
    }


def schema_text() -> str:
    """The schema as the file holds it."""
    return json.dumps(policy_schema(), indent=2, ensure_ascii=False) + "\n"


def _with_plain_names(part: Any, item: dict[str, Any]) -> Any:
    """`part` where every list of categories takes `item`: the model reads a plain text as a name."""
    if isinstance(part, dict):
        return {
            key: item if key == "items" and value == _CATEGORY else _with_plain_names(value, item)
            for key, value in part.items()
        }
    return [_with_plain_names(each, item) for each in part] if isinstance(part, list) else part
