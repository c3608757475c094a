"""A behavioural double of TensorRT-LLM 1.2.1: its Python interface over a real, small forward on the CPU.

It stands in for the package where there is no GPU. Names, signatures, order of checks and types of errors are the
package's; what they rest on, and how well it is known, stands in `behaviour.json`. A comment "behaviour: <name>"
marks the place where the double does what that entry says.
"""

from tensorrt_llm.llmapi import LLM
from tensorrt_llm.sampling_params import SamplingParams

__all__ = ["LLM", "SamplingParams"]
__version__ = "1.2.1"
