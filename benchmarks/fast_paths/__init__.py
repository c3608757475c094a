"""Every fast path of the engine against the plain path: the same verdicts, at any concurrency and in any batch."""
