"""When requests are sent, decided before the first one is: nothing that a server does moves it."""

from __future__ import annotations

import random


def poisson(rate: float, seconds: float, *, seed: str) -> list[float]:
    """Arrival times in [0, seconds) of a Poisson process: independent exponential gaps of mean 1 / `rate` seconds."""
    generator, times = random.Random(seed), list[float]()
    now = generator.expovariate(rate)
    while now < seconds:
        times.append(now)
        now += generator.expovariate(rate)
    return times
