"""The way from the pure stages to a running Triton: the adapter of the model repository, and the launcher."""
