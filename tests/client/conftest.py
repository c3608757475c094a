"""Property tests leave nothing on the disk and have no time limit: a loaded machine must not fail them."""

from __future__ import annotations

from cli_calls import run as run
from hypothesis import HealthCheck, settings

settings.register_profile("client", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("client")
