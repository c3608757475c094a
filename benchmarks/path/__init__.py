"""What the package adds to the bare forward, and where a request's time goes on its way through it."""
