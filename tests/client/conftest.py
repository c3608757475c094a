"""The command line's runs, for every test here."""

from __future__ import annotations

from cli_calls import run as run
