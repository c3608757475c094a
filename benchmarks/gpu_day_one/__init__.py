"""The first hour on a GPU: what this release assumes of TensorRT-LLM 1.2.1, asked of the package itself."""
