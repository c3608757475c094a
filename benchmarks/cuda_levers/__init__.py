"""What the levers of the decode program are worth on a GPU, at the real guard's shapes: the torch forward."""
