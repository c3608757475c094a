"""The engine on TensorRT-LLM, for a GPU."""
