"""What a request costs: latency against the text's length, throughput against callers, memory against policies."""
