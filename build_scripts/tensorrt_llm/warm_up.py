"""Start a bundle's engine once, as a server does, and ask it an example of each form, so that its kernels are compiled.

    python -m build_scripts.tensorrt_llm.warm_up BUNDLE MEASURED.json

`compile` runs this in a process of its own: an engine that fails to load takes nothing with it. MEASURED.json says how
long the start took, kernels included, how long each form takes behind it, and what was said.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from tritonguard.errors import GuardError
from tritonguard.examples import EXAMPLES
from tritonguard.request import MAX_DEADLINE_S, GuardRequest, to_tensors
from tritonguard.verdict import verdict_from_tensors

from build_scripts.exit_status import exit_status
from engines.bundle import Bundle, open_engine
from engines.scheduler import Scheduler
from engines.stage import DecodeStage, conclude
from preprocessing.policies import PolicyStore
from preprocessing.prompt import PromptBuilder
from preprocessing.stage import PrepareStage

FORMS = {
    "text": "en-recipe",
    "pair": "en-answer",
    "categories": "en-categories",
    "think": "en-think",
    "image": "en-image-text",
}
"""{form: id of its example}: each takes another way through the engine."""
ROUNDS = 5


def warm_up(folder: Path, *, rounds: int = ROUNDS) -> dict[str, Any]:
    """{"load_s": seconds, "forms": {form: {"median_ms", "said"}}}, without "image" where there is no tower.

    Raises BundleError, and the GuardError of an example that got no answer.
    """
    began = time.perf_counter()
    bundle = Bundle.open(folder)
    declared = bundle.capabilities
    builder = PromptBuilder(folder, max_tokens=declared.max_tokens)
    prepare = PrepareStage(
        builder, PolicyStore(allow_callers=False), vision=declared.vision, image_size=bundle.image_size
    )
    decode = DecodeStage(
        bundle,
        Scheduler(open_engine(bundle)),
        encode=builder.encode_text,
        decode=builder.decode_text,
        end=builder.end_of_turn,
        marks=lambda: builder.mark_ids,
        image_size=bundle.image_size,
    )
    loaded = time.perf_counter() - began
    examples = {example.id: example for example in EXAMPLES}
    forms = {form: examples[id] for form, id in FORMS.items() if form != "image" or declared.vision != "none"}
    try:
        measured = {form: measure(example.request(), prepare, decode, rounds) for form, example in forms.items()}
    finally:
        decode.close()
    return {"load_s": round(loaded, 1), "forms": measured}


def measure(request: GuardRequest, prepare: PrepareStage, decode: DecodeStage, rounds: int) -> dict[str, Any]:
    """{"median_ms": of decoding, over the rounds, "said": the user label}. Raises the GuardError of a request."""
    tensors = prepare.run(to_tensors(request.model_copy(update={"deadline_s": MAX_DEADLINE_S})))
    times, answer = [], tensors
    for _ in range(rounds):
        began = time.perf_counter()
        result = decode.run(tensors)
        times.append((time.perf_counter() - began) * 1e3)
        if isinstance(result, GuardError):
            raise result
        answer = tensors | result
    said = verdict_from_tensors(conclude(answer)).label.user_safety.value
    return {"median_ms": round(statistics.median(times), 1), "said": said}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m build_scripts.tensorrt_llm.warm_up",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument("measured", type=Path, help="file to write")
    args = parser.parse_args(argv)
    return exit_status("warm_up", lambda: args.measured.write_text(json.dumps(warm_up(args.bundle))))


if __name__ == "__main__":
    sys.exit(main())
