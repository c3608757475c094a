"""A checkpoint's own chat_template.jinja, rendered as transformers renders it, without transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tritonguard.errors import BundleError, InvalidRequest

Message = Mapping[str, Any]


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


class ChatTemplate:
    """`source`: the template's text; `bos_token`: what `{{ bos_token }}` stands for. Raises BundleError."""

    def __init__(self, source: str, *, bos_token: str) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise BundleError("the checkpoint's chat template can't be compiled") from error
        self._bos_token = bos_token

    def render(self, messages: Sequence[Message], **kwargs: Any) -> str:
        """The prompt's text, generation prompt included. Raises InvalidRequest when the template refuses."""
        try:
            return self._template.render(
                messages=messages, bos_token=self._bos_token, add_generation_prompt=True, **kwargs
            )
        except jinja2.TemplateError as error:
            raise InvalidRequest("the chat template refuses this conversation") from error
