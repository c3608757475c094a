from __future__ import annotations

import asyncio


class RequestError(RuntimeError):
    """behaviour: request_error_is_runtime_error. What goes wrong with one request."""


def has_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
