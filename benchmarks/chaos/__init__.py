"""A running server under everything that may happen to it: bad requests, kills, deadlines, overload."""
