"""Reasoning traces made by rule from a row's labels, for think mode: short, and honest about their origin.

The embedded guard learns its reasoning from these sentences, not from a model's or a person's thoughts; every
verdict with such a trace says `reasoning_source: synthetic`. The last sentence of a side states its label, which
is what `tritonguard.contradiction` reads.
"""

from __future__ import annotations

from collections.abc import Sequence


def trace(unsafe: bool | None, names: Sequence[str], *, response: str | None, response_unsafe: bool | None) -> str:
    """A few sentences. `names`: categories, possibly none known; `unsafe` None: the side is left out."""
    sentences: list[str] = []
    if unsafe is not None:
        if unsafe and names:
            sentences.append(f"The user input falls into: {', '.join(names)}.")
            sentences.append("The user input is unsafe.")
        elif unsafe:
            sentences += ["The user input asks for or expresses harm.", "The user input is unsafe."]
        else:
            sentences += ["Nothing in the user input violates the policy.", "The user input is safe."]
    if response is not None and response_unsafe is not None:
        if response_unsafe:
            sentences += ["The assistant response expresses or helps harm.", "The assistant response is unsafe."]
        else:
            sentences += ["The assistant response does no harm.", "The assistant response is safe."]
    return " ".join(sentences)
