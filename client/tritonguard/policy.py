"""What is judged and what is done about it: the policy of a request.

A policy is the built-in taxonomy, or Mode A (`custom_policy`: free text that replaces everything), or Mode B
(`custom_taxonomy`: a category list that replaces the 24). Suppressing and injecting categories derives a Mode
B list from the built-in one. What the model is asked under a policy is in `policy_parts`.

Policies are written as YAML. The format of such a file is `FORMAT`, and a file may say so under the key
`schema`, which belongs to the file and not to the policy: the SHA-256 of a policy's canonical JSON, which is in
every verdict, does not depend on it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, StrictBool, ValidationInfo, field_validator

from tritonguard import limits, policy_yaml
from tritonguard.errors import InvalidRequest
from tritonguard.models import ContractModel, Text
from tritonguard.policy_cache import Caching
from tritonguard.policy_hash import canonical
from tritonguard.taxonomy import SEXUAL_MINOR, normalise, words

OnError = Literal["block", "allow", "raise"]
# Adding zero turns -0.0 into 0.0: equal policies must have equal hashes.
Probability = Annotated[float, Field(ge=0.0, le=1.0, strict=True), AfterValidator(lambda value: value + 0.0)]

FORMAT = "tritonguard/policy/v1"
"""Name of the file format that this release reads; a file without the key `schema` is taken to be of it."""

NAME_PATTERN = r"^[\x21-\x7e]([\x20-\x7e]{0,126}[\x21-\x7e])?$"
VERSION_PATTERN = r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$"
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

    user: Annotated[Probability, Field(description="Block a prompt at this probability of unsafe, and above.")] = 0.5
    response: Annotated[Probability, Field(description="The same for an assistant's response.")] = 0.5
    review_margin: Annotated[
        Probability, Field(description="Ask for a review from this much below a threshold; 0 asks for none.")
    ] = 0.0


class CustomCategory(ContractModel):
    """A category of one's own. definition: what falls under it; None leaves that to the name."""

    path: ClassVar[str] = "policy.category"

    name: Annotated[
        Text, Field(min_length=1, max_length=128, description="What the answer calls it: one line without commas.")
    ]
    definition: Annotated[
        Annotated[Text, Field(min_length=1)] | None,
        Field(description="What falls under it, in a few words; the model reads it behind the name."),
    ] = None

    @field_validator("name")
    @classmethod
    def _is_one_line(cls, name: str) -> str:
        # The answer lists names on one line, parted by commas: such a name could never be read back.
        if name != name.strip() or "," in name or any(character in name for character in "\r\n"):
            raise ValueError("a category name is one line without commas or surrounding spaces")
        return name

    @field_validator("definition")
    @classmethod
    def _is_short(cls, definition: str | None) -> str | None:
        if definition is not None and limits.exceeds(definition, limits.MAX_DEFINITION_BYTES):
            raise ValueError(f"larger than {limits.MAX_DEFINITION_BYTES} bytes")
        return definition


def _from_names(value: Any, info: ValidationInfo) -> Any:
    """Let a list mix plain names with `{name, definition}`, as people write YAML."""
    if not isinstance(value, (list, tuple)):
        return value
    if len(value) > limits.MAX_CATEGORIES:
        raise ValueError(f"more than {limits.MAX_CATEGORIES} categories")
    categories = []
    for index, item in enumerate(value):
        try:
            categories.append(CustomCategory.model_validate({"name": item} if isinstance(item, str) else item))
        except InvalidRequest as error:
            # A category does not know its place in the list; whoever looks for the mistake needs it.
            own, place = CustomCategory.path, f"policy.{info.field_name}.{index}"
            field = (error.field or own).replace(own, place, 1)
            raise InvalidRequest(error.message.replace(own, place), field=field) from None
    return tuple(categories)


def _few_and_short(texts: Any, most: int, most_bytes: int) -> Any:
    if isinstance(texts, (list, tuple)):
        if len(texts) > most:
            raise ValueError(f"more than {most} entries")
        if any(isinstance(text, str) and limits.exceeds(text, most_bytes) for text in texts):
            raise ValueError(f"an entry is larger than {most_bytes} bytes")
        if any(isinstance(text, str) and limits.stacks_marks(text) for text in texts):
            raise ValueError(f"an entry has more than {limits.MAX_MARKS} combining marks in a row")
    return texts


class Policy(ContractModel):
    """A safety policy. `Policy()` is the built-in one.

    custom_policy: Mode A text, None for none. custom_taxonomy: Mode B list or ready text, None for none.
    suppress: built-in categories (code, name or alias) to leave out. inject: categories to add.
    allow_list: lines that are explicitly permitted even where they touch a category.
    floor: the operator's wish to judge the built-in policy beside any other. also_builtin: the caller's.
    on_error: what an indeterminate verdict or a failure of the service (late, unavailable, overloaded, faulty) means.
    cache: whether and how long a server may keep answers; None: it keeps none.

    Raises InvalidRequest, as every constructor here; its `field` names the key.
    """

    path: ClassVar[str] = "policy"

    name: Annotated[
        Text,
        Field(
            pattern=NAME_PATTERN,
            description="Printable ASCII. On a server it is the file's name without .yaml.",
        ),
    ] = "built-in"
    version: Annotated[
        Text,
        Field(pattern=VERSION_PATTERN, max_length=64, description="Semantic version of this policy, yours to count."),
    ] = "1.0.0"
    custom_policy: Annotated[
        Annotated[Text, Field(pattern=r"\S")] | None,
        Field(description="Mode A: free text in the place of the whole built-in instruction. Add also_builtin."),
    ] = None
    custom_taxonomy: Annotated[
        Annotated[tuple[CustomCategory, ...], Field(min_length=1)] | Annotated[Text, Field(pattern=r"\S")] | None,
        Field(description="Mode B: a category list (or its ready text) in the place of the 24. Add also_builtin."),
    ] = None
    suppress: Annotated[
        tuple[Text, ...],
        Field(description="Built-in categories to leave out, by code, name or alias; never S7."),
    ] = ()
    inject: Annotated[
        tuple[CustomCategory, ...], Field(description="Categories of your own, judged with the built-in ones.")
    ] = ()
    allow_list: Annotated[
        tuple[Annotated[Text, Field(pattern=r"\S")], ...],
        Field(description="What is permitted even where it touches a category; a line each."),
    ] = ()
    thresholds: Annotated[Thresholds, Field(description="From probability to decision.")] = Thresholds()
    floor: Annotated[
        StrictBool, Field(description="Judge the built-in policy beside this one, as the operator's floor.")
    ] = False
    also_builtin: Annotated[
        StrictBool, Field(description="Judge the built-in policy beside this one; the stricter answer wins.")
    ] = False
    on_error: Annotated[
        OnError, Field(description="What to do where no verdict can be had; block is the safe choice.")
    ] = "block"
    cache: Annotated[
        Caching | None, Field(description="Keep answers for a while and give them again; absent: keep none.")
    ] = None

    _read_taxonomy = field_validator("custom_taxonomy", "inject", mode="before")(_from_names)

    @field_validator("suppress", mode="before")
    @classmethod
    def _are_names(cls, suppress: Any) -> Any:
        # Before each is read: reading takes longer than counting. So it is with `allow_list`.
        return _few_and_short(suppress, limits.MAX_CATEGORIES, limits.MAX_NAME_BYTES)

    @field_validator("allow_list", mode="before")
    @classmethod
    def _are_lines(cls, allow_list: Any) -> Any:
        return _few_and_short(allow_list, limits.MAX_ALLOWED_LINES, limits.MAX_ALLOWED_LINE_BYTES)

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
        if self.also_builtin and self.is_builtin:
            raise ValueError("also_builtin asks for the built-in policy beside a custom one, and there is none")
        self._refuse_repeated_names()
        if len(self.canonical_json().encode()) > limits.MAX_POLICY_BYTES:
            raise ValueError(f"larger than {limits.MAX_POLICY_BYTES} bytes")

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
        replaced = self.custom_policy is not None or self.custom_taxonomy is not None
        return not (replaced or self.suppress or self.inject or self.allow_list)

    def canonical_json(self) -> str:
        """One text per policy: every field with its default, keys sorted, no spaces; `cache` only where it is on.

        So a policy without it keeps the hash that it had before there was one.
        """
        return canonical(self)[0]

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the canonical JSON in UTF-8."""
        return canonical(self)[1]

    @classmethod
    def from_json(cls, text: str | bytes) -> Policy:
        """The policy of a JSON text, canonical or not, of at most `limits.MAX_POLICY_BYTES`. Raises InvalidRequest."""
        most = limits.MAX_POLICY_BYTES
        if limits.exceeds(text, most) if isinstance(text, str) else len(text) > most:
            raise InvalidRequest(f"policy: larger than {most} bytes", field=cls.path)
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            raise InvalidRequest("policy: not JSON", field=cls.path) from None
        return cls._from_data(data)

    @classmethod
    def from_yaml(cls, source: str | bytes | os.PathLike[str]) -> Policy:
        """The policy of a YAML text (str, or bytes in UTF-8) or of a YAML file (a Path). Raises InvalidRequest.

        Unknown and repeated keys are errors, and so is a `schema` other than `FORMAT`; the message ends with
        the line. An unreadable file raises OSError.
        """
        if not isinstance(source, (str, bytes)):
            with Path(source).open("rb") as file:
                source = file.read(limits.MAX_POLICY_FILE_BYTES + 1)
        document = policy_yaml.read(source)
        try:
            return cls.from_document(document)
        except InvalidRequest as error:
            raise InvalidRequest(f"{error}, line {document.line_of(error.field)}", field=error.field) from None

    @classmethod
    def from_document(cls, document: policy_yaml.Document) -> Policy:
        """The policy of a YAML document that has been read. Raises InvalidRequest, without the line."""
        data = document.data
        if isinstance(data, dict) and "schema" in data:
            if data["schema"] != FORMAT:
                raise InvalidRequest(f"policy.schema: not {FORMAT}, the format known here", field="policy.schema")
            data = {key: value for key, value in data.items() if key != "schema"}
        return cls._from_data(data)

    @classmethod
    def _from_data(cls, data: Any) -> Policy:
        if not isinstance(data, dict):
            raise InvalidRequest("policy: not a mapping of keys to values", field=cls.path)
        try:
            limits.refuse_excess(data)
        except ValueError as error:
            raise InvalidRequest(f"policy: {error}", field=cls.path) from None
        return cls.model_validate(data)
