"""The way of a checkpoint to a bundle for CPUs: forms of the numbers, graphs, and how fast each runs here."""
