"""Measurements of a running guard: latency against the bare forward, accuracy through the served path."""
