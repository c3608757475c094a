"""Engine against engine: ours beside what a user could run the same weights on, in one run on one machine."""
