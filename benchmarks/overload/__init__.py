"""A server that is asked three times what it can judge, for minutes: what it still does, and how it comes back."""
