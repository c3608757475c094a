"""From a registry package or a downloaded checkpoint to a served bundle: one CLI per step."""
