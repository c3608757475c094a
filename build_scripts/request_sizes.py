"""How long a request is, for what measures with numbers in the place of texts."""

PREFIX, SUFFIX = 338, 154
"""Tokens of a short request under the built-in policy: before the user's text, and from there on."""
