"""The way of a downloaded checkpoint to a bundle for TensorRT-LLM: forms of the numbers, ModelOpt, checks."""
