"""The base of the contract's value objects: frozen, nothing extra, and only GuardErrors come out."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, NoReturn, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    StrictStr,
    ValidationError,
    model_validator,
)

from tritonguard.errors import GuardError, InvalidRequest


def _encodable(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        # Its own text would quote the character.
        raise ValueError("holds lone surrogates, which no UTF-8 text can") from None
    return text


Text = Annotated[StrictStr, AfterValidator(_encodable)]
"""A str that can be sent: bytes and numbers are refused, not converted."""

Line = Annotated[Text, Field(min_length=1)]
"""A text that says something; where there is nothing to say, the field is None."""

_Model = TypeVar("_Model", bound="ContractModel")


class ContractModel(BaseModel):
    """A frozen value whose constructor raises this package's errors, never pydantic's.

    Subclasses say with `refusal` which error a wrong value is (a caller's mistake unless they say otherwise)
    and with `path` where they sit in a request, so that the error's `field` is the full dotted name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    refusal: ClassVar[type[GuardError]] = InvalidRequest
    path: ClassVar[str] = ""

    @model_validator(mode="wrap")
    @classmethod
    def _raise_typed(cls: type[_Model], data: Any, handler: ModelWrapValidatorHandler[_Model]) -> _Model:
        try:
            model = handler(data)
            model.check_whole()
        except ValidationError as error:
            cls.refuse(error)
        except ValueError as error:
            raise cls.refusal(f"{cls.path}: {error}", field=cls.path or None) from None
        return model

    def check_whole(self) -> None:
        """Raise ValueError where the fields do not go together. Its text may not hold values.

        A hook, because pydantic runs its own `after` validators outside the one that makes errors typed.
        """

    @classmethod
    def refuse(cls, error: ValidationError) -> NoReturn:
        """Raise the `refusal` for the first problem. No cause is chained: pydantic's error holds the
        input."""
        first = error.errors(include_url=False, include_input=False)[0]
        cause = first.get("ctx", {}).get("error")
        message = str(cause) if isinstance(cause, ValueError) else first["msg"]
        # Only names of fields and positions: other parts of a location name pydantic's union branches.
        parts = [str(part) for part in first["loc"] if isinstance(part, int) or str(part).isidentifier()]
        field = ".".join([cls.path, *parts] if cls.path else parts) or None
        if first["type"] == "extra_forbidden":
            message = f"unknown key {field!r}"
        raise cls.refusal(f"{field}: {message}" if field else message, field=field) from None
