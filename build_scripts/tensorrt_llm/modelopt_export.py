"""ModelOpt on the text model of a Gemma 3: quantizers in, calibrated through the whole model, exported.

Written against nvidia-modelopt 0.43.0 and transformers 4.57.3: later ones name configurations otherwise, and
transformers 5 renames the tower's keys on saving. torch, transformers and modelopt are in the build environment alone.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tritonguard.errors import BundleError

from build_scripts.tensorrt_llm.calibration_inputs import ModelPrompt
from build_scripts.tensorrt_llm.layout import linear_shapes
from build_scripts.tensorrt_llm.profiles import Profile
from engines.checkpoint import TEXT_PREFIX, TextConfig

PINS = {"nvidia-modelopt": "0.43.0", "transformers": "4.57.3"}
_REMEDY = "make .venv-modelopt/.ok"
_OFF = {"quant_cfg": {"default": {"enable": False}}, "algorithm": "max"}
_TEXT_MODULE = "model.language_model."  # in transformers' tree of modules


def tools() -> dict[str, str]:
    """Versions of what quantizes. Raises BundleError: not installed, or not those whose exports are known to load."""
    try:
        found = {name: version(name) for name in (*PINS, "torch")}
    except PackageNotFoundError as error:
        raise BundleError(f"{error.name} is not here: install the build environment ({_REMEDY})") from error
    for name, pinned in PINS.items():
        if found[name] != pinned:
            raise BundleError(f"{name} is {found[name]}, exports are known to load of {pinned}: {_REMEDY}")
    return found


def load_model(folder: Path, dtype: str = "bfloat16") -> Any:
    """Gemma3ForConditionalGeneration with every weight of the folder, in eval mode, on the GPU where there is one.

    Raises BundleError where transformers can't read it, finds weights missing, or has no use for one.
    """
    import torch
    from transformers import Gemma3ForConditionalGeneration
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        # A folder of this machine: nothing is fetched.
        model, info = Gemma3ForConditionalGeneration.from_pretrained(  # nosec B615
            folder, dtype=getattr(torch, dtype), local_files_only=True, output_loading_info=True
        )
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        raise BundleError(f"transformers can't load {folder.name}: {type(error).__name__}: {error}") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[problem]:
            raise BundleError(f"{folder.name}: transformers reports {problem}: {sorted(map(str, info[problem]))[0]}")
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def quantize_text(model: Any, text: TextConfig, profile: Profile, prompts: Iterable[ModelPrompt]) -> None:
    """Put the profile's quantizers into the text model, with scales from passes of the whole model over `prompts`.

    Raises BundleError when a quantizer is on that should be off, or the other way round.
    """
    with _quiet():
        import modelopt.torch.quantization as mtq

    def read_prompts(_: Any) -> None:
        for prompt in prompts:
            forward(model, prompt)

    config = copy.deepcopy(getattr(mtq, profile.modelopt[0]))
    for name in profile.modelopt[1:]:
        config["quant_cfg"] |= copy.deepcopy(getattr(mtq, name))["quant_cfg"]
    inner = model.model
    with _quiet():
        for sibling in (model.lm_head, inner.vision_tower, inner.multi_modal_projector):
            mtq.quantize(sibling, copy.deepcopy(_OFF), forward_loop=None)
        mtq.quantize(inner.language_model, config, forward_loop=read_prompts if profile.is_calibrated else None)
    check_quantizers(enabled_quantizers(model), text, profile)


def forward(model: Any, prompt: ModelPrompt, *, logits_to_keep: int = 1) -> Any:
    """Logits of the last positions, float [1, logits_to_keep, vocabulary]; images are seen in both directions."""
    import torch

    ids = torch.from_numpy(prompt.ids)[None].to(model.device)
    pixels = None
    if prompt.pixels is not None:
        pixels = (torch.tensor(prompt.pixels).permute(0, 3, 1, 2).float() * (1 / 255) - 0.5) / 0.5
        pixels = pixels.to(model.device, model.dtype)
    with torch.inference_mode(), _products(model.device):
        return model(
            input_ids=ids,
            pixel_values=pixels,
            token_type_ids=(ids == model.config.image_token_id).long(),
            use_cache=False,
            logits_to_keep=logits_to_keep,
        ).logits


def _products(device: Any) -> AbstractContextManager[Any]:
    """Large products in float32, rounded back, on a CPU that has no bfloat16 ones: its own take ten times as long."""
    import torch
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    if device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return nullcontext()

    def widened(value: Any) -> Any:
        return value.float() if torch.is_tensor(value) and value.is_floating_point() else value

    class Float32Products(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            large = function in (functional.linear, functional.scaled_dot_product_attention)
            # Of one row: the last position's logits, for which the vocabulary's matrix would be copied.
            if not large or args[0].shape[-2] == 1:
                return function(*args, **kwargs)
            wide = function(*map(widened, args), **{name: widened(value) for name, value in kwargs.items()})
            return wide.to(args[0].dtype)

    return Float32Products()


def export(model: Any, folder: Path) -> None:
    """Weights in the profile's form, config.json and hf_quant_config.json. Raises BundleError: can't be written."""
    import torch
    from modelopt.torch.export import export_hf_checkpoint
    from safetensors import SafetensorError

    try:
        with torch.inference_mode(), _quiet():
            export_hf_checkpoint(model, export_dir=folder)
    except SafetensorError as error:  # a full disk too, which safetensors reports as one of its own
        raise BundleError(f"the weights can't be written: {error}") from error


def enabled_quantizers(model: Any) -> list[str]:
    """Names of the quantizers that are on, in transformers' tree of modules."""
    from modelopt.torch.quantization.nn import TensorQuantizer

    return [name for name, module in model.named_modules() if isinstance(module, TensorQuantizer) and module.is_enabled]


def check_quantizers(enabled: Iterable[str], text: TextConfig, profile: Profile) -> None:
    """Raises BundleError unless exactly the text model's linear layers have quantizers that are on, and its caches."""
    expected: set[str] = set()
    for module in linear_shapes(text):
        name = _TEXT_MODULE + module.removeprefix(TEXT_PREFIX)
        expected.add(f"{name}.weight_quantizer")
        if profile.is_calibrated:
            expected.add(f"{name}.input_quantizer")
    if profile.kv_cache_quant_algo:
        attention = [f"{_TEXT_MODULE}layers.{layer}.self_attn" for layer in range(text.num_hidden_layers)]
        expected |= {f"{name}.{part}_bmm_quantizer" for name in attention for part in ("k", "v")}
    found = set(enabled)
    for name in sorted(found ^ expected):
        state = "on" if name in found else "off"
        raise BundleError(f"ModelOpt's quantizer {name} is {state}, against profile {profile.name}")


@contextmanager
def _quiet() -> Iterator[None]:
    """ModelOpt counts what it inserts on stdout, and warns of its own code."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
