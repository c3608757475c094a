"""The decode program and the engines that run it."""
