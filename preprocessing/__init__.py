"""Request -> model input: chat template, special-token neutralising, tokens. No torch, no Triton."""
