"""How long verdicts take under load, and what they are: open and closed loop against a running deployment."""
