"""Puts this folder on the path, for `transformers_twin` and `make_prompt_golden`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

# On a machine that is busy with something else, torch's threads wait for each other in a loop: one is faster.
torch.set_num_threads(1)
