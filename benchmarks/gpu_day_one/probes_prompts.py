"""What the package reads of a prompt: its ids, and its image."""

from __future__ import annotations

from benchmarks.gpu_day_one.findings import Finding
from benchmarks.gpu_day_one.judge_requests import both_pictures, ids_are_kept, reencoded
from benchmarks.gpu_day_one.material import Material
from benchmarks.gpu_day_one.package import Ask, Package
from engines.tensorrt_llm.processor import pixel_values

_PROCESSOR = "engines/tensorrt_llm/processor.py: inputs_of, PassthroughProcessor"


def ids_of_a_text(package: Package, material: Material) -> list[Finding]:
    ids = material.verdicts[0]
    value, says = ids_are_kept(ids, *package.ask(Ask(ids)))
    return [
        Finding(
            "ids_kept_without_image",
            "Are the ids of a text read as they are sent?",
            value,
            says,
            f"stop: no prompt is the one that the guard was trained on. {_PROCESSOR} has to hand ids in otherwise",
            statement="ids-text",
        )
    ]


def ids_with_an_image(package: Package, material: Material) -> list[Finding]:
    ids = material.image
    value, says = ids_are_kept(ids, *package.ask(Ask(ids, pixels=material.picture(0))))
    return [
        Finding(
            "ids_kept_with_image",
            "Are they with an image, through our processor?",
            value,
            says,
            f"serve no images with this version; {_PROCESSOR} does not fit it",
            statement="ids-image",
            wanted=True,
        )
    ]


def image_is_seen(package: Package, material: Material) -> list[Finding]:
    asks = [Ask(material.image, pixels=material.picture(seed)) for seed in (0, 1)]
    value, says = both_pictures(*package.ask(asks[0]), *package.ask(asks[1]))
    return [
        Finding(
            "image_reaches_model",
            "Does another picture give another answer?",
            value,
            says,
            f"serve no images with this version: it answers without looking. {_PROCESSOR} does not fit it",
            statement="image-reaches-the-model",
            wanted=True,
        )
    ]


def both_keys(package: Package, material: Material) -> list[Finding]:
    """Ids and a text beside the image: 1.2.1 takes the ids and forgets the image."""
    asks = []
    for seed in (0, 1):
        image = {"image": pixel_values(material.picture(seed))}
        asks.append(
            Ask((), inputs={"prompt": "x", "prompt_token_ids": list(material.image), "multi_modal_data": image})
        )
    seen, says = both_pictures(*package.ask(asks[0]), *package.ask(asks[1]))
    return [
        Finding(
            "both_keys_drop_image",
            "Is an image lost that comes with a text and ids?",
            None if seen is None else not seen,
            says,
            "nothing at once: the engine never sends both. If images are kept now, inputs_of can become simpler",
            statement="image-dropped-with-ids",
        )
    ]


def ids_and_image(package: Package, material: Material) -> list[Finding]:
    """Ids beside the image, no text: 1.2.1 decodes them, and our processor refuses to tokenise that."""
    image = {"image": pixel_values(material.picture(0))}
    (result,) = package.ask(Ask((), inputs={"prompt_token_ids": list(material.image), "multi_modal_data": image}))
    value, says = reencoded(material.image, result)
    return [
        Finding(
            "ids_with_image_reencoded",
            "Are ids that come with an image decoded and tokenised anew?",
            value,
            says,
            "nothing at once: the engine hands ids in another way. If they are kept now, inputs_of can become simpler",
            statement="image-reencoded",
        )
    ]
