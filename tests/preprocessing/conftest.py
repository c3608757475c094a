from __future__ import annotations

from pathlib import Path

import pytest

from preprocessing.prompt import PromptBuilder


@pytest.fixture(scope="session")
def builder(base_folder: Path) -> PromptBuilder:
    """With a budget that no test text reaches."""
    return PromptBuilder(base_folder, max_tokens=100_000)


@pytest.fixture(scope="session")
def special_ids(builder: PromptBuilder) -> dict[int, str]:
    """Every special token of the real tokenizer: id -> its string."""
    added = builder.tokenizer.get_added_tokens_decoder()
    return {index: token.content for index, token in added.items() if token.special}
