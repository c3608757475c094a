"""The embedded engine: one small Gemma 3 forward, built for OpenVINO (CPU) and for torch (training, reference)."""
