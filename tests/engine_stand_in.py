"""What a stand-in for an engine needs beside `run`, which is its own."""

from __future__ import annotations

from engines.protocol import Capabilities


class StandIn:
    """An engine of one lane with nothing to count and nothing to give back."""

    capabilities = Capabilities(frozenset(), 1, "none", 64)
    lanes = 1

    def statistics(self) -> dict[str, float]:
        return {}

    def health(self) -> bool:
        return True

    def close(self) -> None: ...
