"""What is judged and what is done about it: the policy of a request.

A policy is the built-in taxonomy, or Mode A (`custom_policy`: free text that replaces everything), or Mode B
(`custom_taxonomy`: a category list that replaces the 24). Suppressing and injecting categories derives a Mode
B list from the built-in one. Policies are versioned YAML; the SHA-256 of their canonical JSON is in every
verdict.

Served in this release: `name`, `version`, `thresholds` and `on_error`. The rest is declared, validated and
answered with Unimplemented by the server (`unbuilt_fields`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import AfterValidator, Field, StrictBool, field_validator

from tritonguard.errors import InvalidRequest
from tritonguard.models import ContractModel, Text
from tritonguard.taxonomy import SEXUAL_MINOR, normalise, words

OnError = Literal["block", "allow", "raise"]
# Adding zero turns -0.0 into 0.0: equal policies must have equal hashes.
Probability = Annotated[float, Field(ge=0.0, le=1.0, strict=True), AfterValidator(lambda value: value + 0.0)]

MAX_POLICY_BYTES = 1 << 20
_SEMVER = r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$"
_SERVED = frozenset({"name", "version", "thresholds", "on_error"})
# Spellings that pass as S7 inside a longer allow-list line, compared as words.
_SEXUAL_MINOR_WORDS = tuple(
    words(spelling) for spelling in (SEXUAL_MINOR.code, SEXUAL_MINOR.name, *SEXUAL_MINOR.aliases)
)


class Thresholds(ContractModel):
    """From probability to decision: block at `p_unsafe >= threshold`.

    user, response: probabilities, one for each side of the exchange.
    review_margin: `threshold - review_margin <= p_unsafe < threshold` asks for a review; 0 asks for none.
    """

    path: ClassVar[str] = "policy.thresholds"

    user: Probability = 0.5
    response: Probability = 0.5
    review_margin: Probability = 0.0


class CustomCategory(ContractModel):
    """A category of one's own. definition: what falls under it; None leaves that to the name."""

    path: ClassVar[str] = "policy.category"

    name: Annotated[Text, Field(min_length=1, max_length=128)]
    definition: Annotated[Text, Field(min_length=1)] | None = None

    @field_validator("name")
    @classmethod
    def _is_one_line(cls, name: str) -> str:
        # The answer lists names on one line, parted by commas: such a name could never be read back.
        if name != name.strip() or "," in name or any(character in name for character in "\r\n"):
            raise ValueError("a category name is one line without commas or surrounding spaces")
        return name


def _from_names(value: Any) -> Any:
    """Let a list mix plain names with `{name, definition}`, as people write YAML."""
    if isinstance(value, (list, tuple)):
        return tuple({"name": item} if isinstance(item, str) else item for item in value)
    return value


class Policy(ContractModel):
    """A safety policy. `Policy()` is the built-in one.

    custom_policy: Mode A text, None for none. custom_taxonomy: Mode B list or ready text, None for none.
    suppress: built-in categories (code, name or alias) to leave out. inject: categories to add.
    allow_list: lines that are explicitly permitted even where they touch a category.
    floor: the operator's wish to judge the built-in policy beside any other. also_builtin: the caller's.
    on_error: what an indeterminate verdict, a missed deadline, an unavailable or an overloaded server means.

    Raises InvalidRequest, as every constructor here; its `field` names the key.
    """

    path: ClassVar[str] = "policy"

    name: Annotated[Text, Field(pattern=r"^[\x21-\x7e]([\x20-\x7e]{0,126}[\x21-\x7e])?$")] = "built-in"
    version: Annotated[Text, Field(pattern=_SEMVER, max_length=64)] = "1.0.0"
    custom_policy: Annotated[Text, Field(pattern=r"\S")] | None = None
    custom_taxonomy: (
        Annotated[tuple[CustomCategory, ...], Field(min_length=1)] | Annotated[Text, Field(pattern=r"\S")] | None
    ) = None
    suppress: tuple[Text, ...] = ()
    inject: tuple[CustomCategory, ...] = ()
    allow_list: tuple[Annotated[Text, Field(pattern=r"\S")], ...] = ()
    thresholds: Thresholds = Thresholds()
    floor: StrictBool = False
    also_builtin: StrictBool = False
    on_error: OnError = "block"

    _read_taxonomy = field_validator("custom_taxonomy", "inject", mode="before")(_from_names)

    @field_validator("suppress")
    @classmethod
    def _names_categories(cls, suppress: tuple[str, ...]) -> tuple[str, ...]:
        found = [normalise(text) for text in suppress]
        if None in found:
            raise ValueError("not a category of the built-in taxonomy")
        if SEXUAL_MINOR in found:
            raise ValueError(f"{SEXUAL_MINOR.name} cannot be suppressed")
        # Canonical names in their own order: how a caller wrote the list must not change the hash.
        names = {category.name: int(category.code[1:]) for category in found if category}
        return tuple(sorted(names, key=lambda name: names[name]))

    @field_validator("allow_list")
    @classmethod
    def _keeps_the_floor(cls, allow_list: tuple[str, ...]) -> tuple[str, ...]:
        lines = [f" {words(line)} " for line in allow_list]
        if any(f" {spelling} " in line for line in lines for spelling in _SEXUAL_MINOR_WORDS):
            raise ValueError(f"{SEXUAL_MINOR.name} cannot be allowed")
        return allow_list

    def check_whole(self) -> None:
        replaced = self.custom_policy is not None or self.custom_taxonomy is not None
        if self.custom_policy is not None and self.custom_taxonomy is not None:
            raise ValueError("custom_policy and custom_taxonomy exclude each other")
        if replaced and (self.suppress or self.inject):
            raise ValueError("suppress and inject derive from the built-in taxonomy, which a custom one replaces")
        if self.custom_policy is not None and self.allow_list:
            raise ValueError("allow_list belongs into the text of custom_policy")
        if self.also_builtin and not (replaced or self.suppress or self.inject or self.allow_list):
            raise ValueError("also_builtin asks for the built-in policy beside a custom one, and there is none")
        self._refuse_repeated_names()
        if len(self.canonical_json().encode()) > MAX_POLICY_BYTES:
            raise ValueError(f"larger than {MAX_POLICY_BYTES} bytes")

    def _refuse_repeated_names(self) -> None:
        listed = self.custom_taxonomy if isinstance(self.custom_taxonomy, tuple) else self.inject
        names = [words(category.name) or category.name for category in listed]
        if len(set(names)) < len(names):
            raise ValueError("a category is named twice")
        for category in self.inject:
            builtin = normalise(category.name)
            if builtin and builtin.name not in self.suppress:
                raise ValueError("an injected category needs a name that the built-in taxonomy does not use")

    @property
    def is_builtin(self) -> bool:
        """True where the built-in taxonomy is judged unchanged, whatever the thresholds and `on_error`."""
        return not self.unbuilt_fields()

    def unbuilt_fields(self) -> tuple[str, ...]:
        """Names of the fields that ask for what this release does not serve; empty: all is served."""
        default = _DEFAULTS
        return tuple(
            name
            for name in type(self).model_fields
            if name not in _SERVED and getattr(self, name) != getattr(default, name)
        )

    def canonical_json(self) -> str:
        """One text per policy: every field with its default, keys sorted, no spaces."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the canonical JSON in UTF-8."""
        return hashlib.sha256(self.canonical_json().encode("utf-8")).hexdigest()

    @classmethod
    def from_json(cls, text: str | bytes) -> Policy:
        """The policy of a JSON text, canonical or not. Raises InvalidRequest."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            raise InvalidRequest("policy: not JSON", field=cls.path) from None
        return cls._from_data(data)

    @classmethod
    def from_yaml(cls, source: str | os.PathLike[str]) -> Policy:
        """The policy of a YAML text (a str) or of a YAML file (a Path). Raises InvalidRequest.

        Unknown and repeated keys are errors. An unreadable file raises OSError.
        """
        text = source if isinstance(source, str) else Path(source).read_bytes()
        try:
            # A SafeLoader that only adds the refusal of repeated keys.
            data = yaml.load(text, Loader=_StrictLoader)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            place = f", line {mark.line + 1}" if mark else ""
            problem = getattr(error, "problem", None) or "not YAML"
            raise InvalidRequest(f"policy: {problem}{place}", field=cls.path) from None
        return cls._from_data(data)

    @classmethod
    def _from_data(cls, data: Any) -> Policy:
        if not isinstance(data, dict):
            raise InvalidRequest("policy: not a mapping of keys to values", field=cls.path)
        return cls.model_validate(data)


class _StrictLoader(yaml.SafeLoader):
    """YAML keeps the last of two equal keys; in a policy that would hide a rule."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise yaml.constructor.ConstructorError(None, None, "repeated key", node.value[index][0].start_mark)
        return super().construct_mapping(node, deep)


_DEFAULTS = Policy()
